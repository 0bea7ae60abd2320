"""Dataset types of JSON and text files."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from kedro_datasets._typing import TablePreview
from kedro_datasets.json.json_dataset import JSONDataset
from kedro_datasets.text.text_dataset import TextDataset

from selfie_pipeline.datasets.atomic import AtomicSaveMixin, missing_version_error

_HIDDEN_ELEMENTS = {"head", "style", "script", "svg"}
"""HTML elements whose text is not part of the visible page."""


class AtomicJSONDataset(AtomicSaveMixin, JSONDataset):
    """Numbers, strings, lists and dictionaries as a JSON file."""


class OptionalJSONDataset(AtomicJSONDataset):
    """An `AtomicJSONDataset` that loads an empty list if nothing has been saved."""

    def load(self) -> Any:
        """Load the requested version, by default the latest; an empty list if there is none.

        Raises:
            MissingVersionError: A version is requested that does not exist.
        """
        if super()._exists():
            return super().load()
        if self._version and self._version.load:
            path = Path(self._get_load_path())
            raise missing_version_error(path, self.list_versions(full_path=False))
        return []

    def _exists(self) -> bool:
        return not (self._version and self._version.load) or super()._exists()


class AtomicTextDataset(AtomicSaveMixin, TextDataset):
    """A string as a text file in UTF-8."""

    DEFAULT_FS_ARGS = {  # noqa: RUF012
        "open_args_save": {"mode": "w", "encoding": "utf-8"},
        "open_args_load": {"mode": "r", "encoding": "utf-8"},
    }

    def preview(self, nrows: int = 20) -> TablePreview:
        """Return the first lines as a table, the only form in which Kedro-Viz displays text.

        Args:
            nrows: Number of lines; of an HTML page, lines of its visible text.
        """
        text: str = self.load()
        if self._filepath.suffix == ".html":
            parser = _VisibleTextParser()
            parser.feed(text)
            text = "\n".join(parser.lines)
        lines = [[line] for line in text.splitlines() if line.strip()][:nrows]
        return TablePreview({"index": list(range(len(lines))), "columns": ["text"], "data": lines})


class _VisibleTextParser(HTMLParser):
    """An HTML parser that collects the visible text, one line per text node."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self._hidden_depth = 0

    def handle_starttag(self, tag: str, attrs: object) -> None:  # noqa: ARG002
        self._hidden_depth += tag in _HIDDEN_ELEMENTS

    def handle_endtag(self, tag: str) -> None:
        self._hidden_depth -= tag in _HIDDEN_ELEMENTS

    def handle_data(self, data: str) -> None:
        if not self._hidden_depth and data.strip():
            self.lines.append(" ".join(data.split()))
