"""A tiny run of the project, and a browser that reaches nothing but this machine."""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).parents[2]
CHROMIUM = "/usr/bin/chromium"
_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
_TINY = [
    *(f"{stage}.{key}" for stage in ("pretrain", "finetune") for key in ("steps=8", "log_every=2")),
    *("pretrain.warmup_steps=1", "finetune.warmup_steps=1", "model.width=8"),
    *("model.attention.blocks=1", "model.attention.heads=4", "tracking.mlflow=never"),
]
_SECONDS_TO_START = 180


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(item.path).is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project after the whole demo, at its smallest."""
    folder = tmp_path_factory.mktemp("project")
    shutil.copytree(REPOSITORY / "conf", folder / "conf")
    for name in ("pyproject.toml", ".telemetry"):
        shutil.copy(REPOSITORY / name, folder)
    (folder / "src").mkdir()
    kedro(folder, "run", "--params", ",".join(_TINY))
    return folder


def kedro(project: Path, *arguments: str) -> None:
    """Run a command in the project; what it says is shown where it fails."""
    command = [sys.executable, "-m", "kedro", *arguments]
    done = subprocess.run(
        command, cwd=project, env=_environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="session")
def viz(project: Path) -> Iterator[str]:
    """The address of Kedro-Viz, showing the project."""
    command = ["-m", "kedro", "viz", "run", "--no-browser", "--port"]
    with served(command, project, "api/main") as address:
        yield address


@contextmanager
def served(command: Sequence[str], folder: Path, page: str = "") -> Iterator[str]:
    """Run a server, given as a Python command up to its port, until the block ends.

    Yields:
        Its address, with a slash at the end.
    """
    port = _free_port()
    with (folder / "server.log").open("w+", encoding="utf-8") as log:
        server = subprocess.Popen(
            [sys.executable, *command, str(port)],
            cwd=folder,
            env=_environment(),
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Kedro-Viz serves from a child of its own
        )
        try:
            address = f"http://127.0.0.1:{port}/"
            _await(address + page, server, log)
            yield address
        finally:
            with suppress(ProcessLookupError):  # where it has failed
                os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def _free_port() -> int:
    """One below those that the system gives away itself; Kedro-Viz takes none above 49151."""
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def _await(address: str, server: subprocess.Popen[bytes], log: Any) -> None:
    deadline = time.monotonic() + _SECONDS_TO_START
    while time.monotonic() < deadline:
        try:
            urllib.request.urlopen(address, timeout=60).close()
        except OSError:
            time.sleep(0.5)
        else:
            return
        if server.poll() is not None:
            break
    log.seek(0)
    pytest.fail(f"{address} does not answer:\n{log.read()}")


def _environment() -> dict[str, str]:
    """Return the commands' environment, without Kedro's variables and without telemetry."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("KEDRO_")}
    return ours | {"DO_NOT_TRACK": "1"}


@dataclass
class Browser:
    """Chromium, with what it complained about.

    Attributes:
        context: Playwright's.
        errors: Errors on the console, and exceptions that no page has caught.
    """

    context: Any
    errors: list[str] = field(default_factory=list)

    def open(self, address: str, width: int = 1500, height: int = 1000) -> Any:
        """Open a page in a window of a size, pixels."""
        page = self.context.new_page()
        page.set_viewport_size({"width": width, "height": height})
        page.on("console", self._note)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.goto(address)
        return page

    def _note(self, message: Any) -> None:
        # What lies outside is blocked here, such as Kedro-Viz's fonts; that is not the page's fault
        outside = not is_here(message.location["url"])
        if message.type == "error" and not (outside and "net::ERR_FAILED" in message.text):
            self.errors.append(f"{message.text} ({message.location['url']})")


def is_here(address: str) -> bool:
    """Return True if an address is of this machine, or of the page itself."""
    return address.startswith(("http://127.0.0.1:", "file:", "data:", "blob:", "about:")) or (
        address == ""
    )


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    """A fresh Chromium; the test fails on an error on the console of any of its pages."""
    if not Path(CHROMIUM).exists() and not os.environ.get("CI"):
        pytest.skip(f"{CHROMIUM} is absent: apt-get install chromium")
    from playwright.sync_api import sync_playwright  # noqa: PLC0415  # only where it is used

    with sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            tmp_path / "profile", executable_path=CHROMIUM, args=_FLAGS, headless=True
        )
        context.set_default_timeout(60_000)
        context.route("**/*", _only_here)
        browser = Browser(context)
        yield browser
        context.close()
    assert browser.errors == []


def _only_here(route: Any) -> None:
    route.continue_() if is_here(route.request.url) else route.abort()


@pytest.fixture
def screenshot() -> Callable[[Any, str], None]:
    """Keeps a picture of a page where SCREENSHOTS names a folder."""

    def keep(page: Any, name: str) -> None:
        if folder := os.environ.get("SCREENSHOTS"):
            page.screenshot(path=Path(folder, f"{name}.png"))

    return keep
