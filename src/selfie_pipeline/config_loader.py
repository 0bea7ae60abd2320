"""Kedro's reader of the configuration, with errors of one line and a cache of parsed files."""

from __future__ import annotations

import copy
from glob import has_magic
from pathlib import Path
from typing import Any

from kedro.config import MissingConfigException, OmegaConfigLoader

from selfie_pipeline.config import UserError
from selfie_pipeline.printable import list_first

_parsed: dict[tuple[Path, str, str | None], tuple[list[tuple[str, int, int]], Any]] = {}
"""The parsed files of a folder, a kind and an environment, with the state of the folder's files."""


class ProjectConfigLoader(OmegaConfigLoader):
    """Kedro's loader, which names what it can't read, and parses unchanged files once."""

    def __getitem__(self, key: str) -> Any:
        """Return the merged configuration of a kind, such as "parameters".

        Raises:
            UserError: The environment does not exist, or the files or `--params` can't be read, or
                the project's path looks like a pattern.
            MissingConfigException, KeyError: There is no configuration of this kind, which Kedro
                does without.
        """
        conf = Path(self.conf_source)
        if has_magic(str(conf)):
            raise UserError(
                f"the path {conf} has one of the characters * ? [, by which Kedro takes it for a "
                "pattern; rename that folder"
            )
        known = sorted(path.name for path in conf.glob("*") if path.is_dir())
        # Kedro also reads archives; and of a path, it would read all that is below it.
        if conf.is_dir() and self.env not in {None, "", *known}:
            raise UserError(
                f"--env = {self.env} is not an environment in {conf}; allowed: "
                f"{list_first(known, 10)}"
            )
        try:
            return super().__getitem__(key)
        except (KeyError, UserError):
            raise
        except Exception as error:  # of YAML, of OmegaConf or of Python, such as of bytes
            if isinstance(error, MissingConfigException) and key != "parameters":
                raise
            raise UserError(
                f"the {key} can't be read: {' '.join(str(error).split())}; correct --params, or "
                f"the files in {conf}"
            ) from error

    def _read_raw_config(self, key: str) -> Any:
        """Parse the files of a kind, or copy what an earlier loader of this process parsed.

        Kedro makes a loader for each of an experiment's cells, and reads the parameters three times
        in each. It has this method for such a cache: references are resolved later.
        """
        if key == "credentials":  # depend on environment variables
            return super()._read_raw_config(key)
        conf = Path(self.conf_source)
        files = [path for path in (conf, *conf.rglob("*")) if path.is_file()]  # or an archive
        state = sorted((str(file), file.stat().st_mtime_ns, file.stat().st_size) for file in files)
        name = (conf, key, self.env)
        if name not in _parsed or _parsed[name][0] != state:
            _parsed[name] = (state, super()._read_raw_config(key))
        return copy.deepcopy(_parsed[name][1])
