"""Tries one input: in this process, watched for what it writes, runs and takes of the memory."""

from __future__ import annotations

import os
import resource
import sys
import tempfile
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from tests.hostile.inputs import Input, Kind, WrongResultError

from selfie_pipeline.config import UserError
from selfie_pipeline.printable import is_printable

TIME_LIMIT_S = 30.0
MEMORY_LIMIT_BYTES = 3 * 2**29
"""Memory beyond what the process had before, for an input under `SMALL_BYTES`."""
SMALL_BYTES = 2**20
_ADDRESS_SPACE_BYTES = 6 * 2**30
"""Address space beyond what the process had before; it protects the machine."""
_LONGEST_MESSAGE = 4_000

CANARY = "hostile.canary"
"""Audit event that the code in hostile inputs raises; see `sys.audit`."""
_CODE = {"os.system", "os.exec", "os.posix_spawn", "os.spawn", "subprocess.Popen", CANARY}
_PATHS_WRITTEN = {
    "os.mkdir": 0,
    "os.rename": 1,
    "os.link": 1,
    "os.symlink": 1,
    "os.remove": 0,
    "os.rmdir": 0,
    "os.truncate": 0,
    "shutil.rmtree": 0,
    "sqlite3.connect": 0,
}
"""Events of the audit, and which argument is the path that is written to."""
_PROGRAMS = {"git", "ldconfig", "gcc", "cc", "ld", "objdump", "uname"}
"""Programs that provenance asks, and Python to find libraries."""

Answer = Literal["refused", "accepted"]
FaultType = Literal[
    "traceback", "hang", "crash", "wrong result", "memory", "write", "code", "message"
]


@dataclass(frozen=True)
class Outcome:
    """What an input came to.

    Attributes:
        kind: Name of its kind.
        number: Its number among those of its kind.
        what: The input in a few words.
        answer: What the program did; None if it did neither.
        fault: What was wrong with that; None if nothing was.
        detail: The message of a refusal, or the circumstances of a fault.
        seconds: Time it took.
        memory: Bytes of memory that it took beyond what was there.
    """

    kind: str
    number: int
    what: str
    answer: Answer | None
    fault: FaultType | None
    detail: str
    seconds: float
    memory: int

    def as_dict(self) -> dict[str, Any]:
        """Return the fields."""
        return asdict(self)


class _Watch:
    """An audit hook that notes what is written outside a folder, and code that is run."""

    def __init__(self) -> None:
        self.folder: str | None = None
        self.faults: list[tuple[FaultType, str]] = []
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.folder is None:
            return
        if event in _CODE:
            program = os.path.basename(os.fsdecode(arguments[0])) if arguments[0:] else ""
            if program not in _PROGRAMS:
                self.faults.append(("code", f"{event} {arguments!r}"[:300]))
        elif event == "open":
            path, _, flags = arguments
            if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND):
                self._note_write(event, path)
        elif event in _PATHS_WRITTEN:
            self._note_write(event, arguments[_PATHS_WRITTEN[event]])

    def _note_write(self, event: str, path: Any) -> None:
        if isinstance(path, int):
            return
        name = os.fsdecode(path)
        full = os.path.join(os.path.realpath(os.path.dirname(name)), os.path.basename(name))
        if name in {":memory:", ""} or full in {os.devnull, self.folder}:
            return
        if not full.startswith(f"{self.folder}{os.sep}"):
            self.faults.append(("write", f"{event} {full}"))


_watch: _Watch | None = None


def try_input(kind: Kind, number: int, item: Input) -> Outcome:
    """Give an input to the program in a folder of its own, and judge what comes of it.

    Args:
        kind: The kind of the input.
        number: The input's number.
        item: The input.
    """
    global _watch  # noqa: PLW0603  # a hook can't be removed
    _watch = _watch or _Watch()
    before = os.getcwd()
    with tempfile.TemporaryDirectory(prefix="hostile-") as name:
        folder = Path(name).resolve()
        (folder / "data").mkdir()
        item.write(folder / "input")
        os.chdir(folder)
        usage = resource.getrusage(resource.RUSAGE_SELF)
        peak_memory()
        had = current_memory()
        _watch.folder, _watch.faults = str(folder / "data"), []
        try:
            answer, fault, detail = _answer(kind, item, folder)
        finally:
            _watch.folder = None
            os.chdir(before)
        memory = max(0, peak_memory() - had)
    used = resource.getrusage(resource.RUSAGE_SELF)
    seconds = used.ru_utime + used.ru_stime - usage.ru_utime - usage.ru_stime
    if _watch.faults:
        fault, detail = _watch.faults[0]
    elif memory > MEMORY_LIMIT_BYTES and item.size < SMALL_BYTES:
        fault, detail = "memory", f"{memory / 2**20:,.0f} MiB for {item.size:,} bytes"
    return Outcome(kind.name, number, item.what, answer, fault, detail, round(seconds, 3), memory)


def _answer(  # noqa: PLR0911
    kind: Kind, item: Input, folder: Path
) -> tuple[Answer | None, FaultType | None, str]:
    """Return the answer to an input, what is wrong with it, and the details."""
    try:
        kind.door(item, folder)
    except kind.refusals as error:
        message = str(error)
        if item.expected == "accepted":
            return "refused", "wrong result", f"refused what is right: {message}"
        if problem := _unfit(error):
            return "refused", "message", f"{problem}: {message[:300]!r}"
        return "refused", None, message
    except WrongResultError as error:
        return "accepted", "wrong result", str(error)
    except MemoryError:
        return None, "memory", _last_lines()
    except BaseException:
        return None, "traceback", _last_lines()
    if item.expected == "refused":
        return "accepted", "wrong result", "accepted what can't be right"
    return "accepted", None, ""


def _unfit(error: BaseException) -> str | None:
    """Return why an error's message is not for a person; None if it is."""
    message = str(error)
    if not message.strip():
        return "an empty message"
    if len(message) > _LONGEST_MESSAGE:
        return f"a message of {len(message):,} characters"
    if not (isinstance(error, UserError) or is_printable(message)):  # the command escapes those
        return "a message with control characters"
    return None


def _last_lines() -> str:
    """Return the error at hand and where it was raised, innermost frame first."""
    error = sys.exception()
    frames = traceback.extract_tb(error.__traceback__ if error else None)[-6:]
    places = [f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames]
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return f"{text[:300]} < {' < '.join(reversed(places))}"


def current_memory() -> int:
    """Return the resident memory of this process, bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def peak_memory() -> int:
    """Return the largest resident memory since the last call, bytes; then begin anew."""
    status = Path("/proc/self/status").read_text().split()
    largest = int(status[status.index("VmHWM:") + 1]) * 1024
    Path("/proc/self/clear_refs").write_text("5")
    return largest


def limit_address_space() -> None:
    """Let allocations fail before they take the machine's memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + _ADDRESS_SPACE_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
