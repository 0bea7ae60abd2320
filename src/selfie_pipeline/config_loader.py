"""Kedro's reader of the configuration, with errors of one line; and the log's configuration."""

from __future__ import annotations

import os
from glob import has_magic
from pathlib import Path
from typing import Any, cast

from kedro.config import MissingConfigException, OmegaConfigLoader
from kedro.framework.project import LOGGING
from omegaconf import OmegaConf

from selfie_pipeline.config import UserError
from selfie_pipeline.printable import list_first


class ProjectConfigLoader(OmegaConfigLoader):
    """Kedro's loader, which names what it can't read."""

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


def configure_logging(file: Path) -> None:
    """Configure the log as the file says; Kedro looks for one in the working directory only."""
    is_other = file.is_file() and file.resolve() != Path("conf/logging.yml").resolve()
    if is_other and not os.environ.get("KEDRO_LOGGING_CONFIG"):
        LOGGING.configure(cast("dict[str, Any]", OmegaConf.to_container(OmegaConf.load(file))))
