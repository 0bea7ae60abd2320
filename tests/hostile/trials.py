"""Tries one input in this process, and audits its writes, its code and its memory."""

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
"""Limit of additional memory for an input under `SMALL_BYTES`."""
SMALL_BYTES = 2**20
_ADDRESS_SPACE_BYTES = 6 * 2**30
"""Limit of additional address space; it protects the machine."""
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
"""Audit events that write, and the index of the argument that is the path."""
_PROGRAMS = {"git", "ldconfig", "gcc", "cc", "ld", "objdump", "uname"}
"""Programs that are run for provenance, and by Python to find libraries."""

Answer = Literal["refused", "accepted"]
FaultType = Literal[
    "traceback", "hang", "crash", "wrong result", "memory", "write", "code", "message"
]


@dataclass(frozen=True)
class Outcome:
    """The outcome of trying an input.

    Attributes:
        kind: Name of the input's kind.
        number: The input's number within its kind.
        what: The input's description.
        answer: The program's answer; None if it gave neither.
        fault: The fault; None if there is none.
        detail: The message of a refusal, or the circumstances of a fault.
        seconds: CPU time.
        memory: Additional memory at its peak, bytes.
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
    """An audit hook that records writes outside a folder, and code that is run."""

    def __init__(self) -> None:
        self.folder: str | None = None
        self.faults: list[tuple[FaultType, str]] = []
        sys.addaudithook(self._audit)

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
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
    """Pass an input to the program in a temporary folder, and judge the outcome.

    Args:
        kind: The kind of the input.
        number: The input's number.
        item: The input.
    """
    global _watch  # noqa: PLW0603  # an audit hook can't be removed
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
    """Return the program's answer to an input, its fault if there is one, and the details."""
    try:
        kind.target(item, folder)
    except kind.refusals as error:
        message = str(error)
        if item.expected == "accepted":
            return "refused", "wrong result", f"refused a valid input: {message}"
        if problem := _message_problem(error):
            return "refused", "message", f"{problem}: {message[:300]!r}"
        return "refused", None, message
    except WrongResultError as error:
        return "accepted", "wrong result", str(error)
    except MemoryError:
        return None, "memory", _last_lines()
    except BaseException:
        return None, "traceback", _last_lines()
    if item.expected == "refused":
        return "accepted", "wrong result", "accepted an invalid input"
    return "accepted", None, ""


def _message_problem(error: BaseException) -> str | None:
    """Return the reason why an error's message is not fit for a user; None if it is fit."""
    message = str(error)
    if not message.strip():
        return "an empty message"
    if len(message) > _LONGEST_MESSAGE:
        return f"a message of {len(message):,} characters"
    if not (isinstance(error, UserError) or is_printable(message)):  # the CLI escapes a UserError
        return "a message with control characters"
    return None


def _last_lines() -> str:
    """Return the current error and its innermost frames, the innermost first."""
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
    """Return the peak of the resident memory since the last call, bytes, and reset it."""
    status = Path("/proc/self/status").read_text().split()
    largest = int(status[status.index("VmHWM:") + 1]) * 1024
    Path("/proc/self/clear_refs").write_text("5")
    return largest


def limit_address_space() -> None:
    """Make allocations fail before they exhaust the machine's memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + _ADDRESS_SPACE_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
