"""Tests of the progress through a number of items."""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Iterator

import pytest

from selfie_pipeline.progress import track


class Clock:
    """The seconds since the start, as the test says."""

    now = 1000.0

    def time(self) -> float:
        return self.now

    def work(self, items: int, seconds: float) -> Iterator[int]:
        """Yield numbers, each after some seconds."""
        for number in range(items):
            self.now += seconds
            yield number


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Clock:
    caplog.set_level(logging.INFO, "selfie_pipeline")
    clock = Clock()
    monkeypatch.setattr("tqdm.std.time", clock.time)
    return clock


def test_a_line_now_and_then_where_there_is_no_terminal(
    clock: Clock, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    items = clock.work(1600, seconds=1 / 16)

    assert list(track("Reading files", 1600, items, unit=" images")) == list(range(1600))

    assert caplog.messages == [
        "Reading files: 480 of 1,600 images, 16.0 images/s, 01:10 left",
        "Reading files: 960 of 1,600 images, 16.0 images/s, 00:40 left",
        "Reading files: 1,440 of 1,600 images, 16.0 images/s, 00:10 left",
    ]
    assert capfd.readouterr() == ("", "")


def test_work_that_becomes_slower_is_logged_as_often(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    with track("predict", 10_000, unit=" files", initial=1000) as progress:
        for _ in clock.work(30, seconds=1):
            progress.update(100)
        for _ in clock.work(4, seconds=15):
            progress.update(1)

    assert [line.split(" files,")[0] for line in caplog.messages] == [
        "predict: 4,000 of 10,000",
        "predict: 4,002 of 10,000",
        "predict: 4,004 of 10,000",
    ]


def test_no_line_and_no_bar_of_short_work(
    clock: Clock, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(list(track("Reading files", 29, clock.work(29, 1), unit=" images"))) == 29
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    assert len(list(track("Reading files", 4, clock.work(4, 1), unit=" images"))) == 4

    assert caplog.messages == []
    assert terminal.getvalue() == ""


def test_a_bar_and_no_line_on_a_terminal(
    clock: Clock, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())

    list(track("Reading files", 100, clock.work(100, 1), unit=" images"))

    assert "Reading files: 100%|" in terminal.getvalue()
    assert "100/100 [01:40<00:00,  1.00 images/s]" in terminal.getvalue()
    assert caplog.messages == []
