"""Progress through a number of items: a bar on a terminal, log lines at intervals elsewhere."""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

_LOG = logging.getLogger(__name__)
_BAR_DELAY_S = 5
_LINE_INTERVAL_S = 30
_LINE = "{desc}: {n:,} of {total:,}{unit}, {rate_noinv:,.1f}{unit}/s, {remaining} left"


def track(
    title: str,
    total: int,
    items: Iterable[Any] | None = None,
    *,
    unit: str,
    initial: int = 0,
    leave: bool = True,
) -> tqdm[Any]:
    """Return a bar that yields the items, or is updated by hand if there are none.

    Without a terminal, it logs a line each 30 seconds. Neither shows anything of short work.

    Args:
        title: What is being done.
        total: Number of items.
        items: The items to yield.
        unit: What the items are, with a space before it.
        initial: Number of items that an earlier run has done.
        leave: Whether the complete bar stays on the terminal.
    """
    if sys.stderr.isatty():
        return tqdm(
            items, title, total, initial=initial, unit=unit, leave=leave, delay=_BAR_DELAY_S
        )
    return tqdm(
        items,
        title,
        total,
        initial=initial,
        unit=unit,
        leave=False,  # no line at the end
        file=_Log(),
        mininterval=_LINE_INTERVAL_S,
        miniters=1,  # it would adapt, and skip lines if the work becomes slower
        delay=_LINE_INTERVAL_S,
        bar_format=_LINE,
    )


class _Log(io.StringIO):
    """A file whose lines become those of the log, but for empty ones, which clear a bar."""

    def write(self, text: str) -> int:
        if line := text.strip():
            _LOG.info("%s", line)
        return len(text)
