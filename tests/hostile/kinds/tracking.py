"""Bad addresses of tracking servers, and bad values of the other tracking variables."""

from __future__ import annotations

import logging
import os
import socket
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from hypothesis import strategies as st
from kedro.io import DataCatalog
from kedro.pipeline import Pipeline
from tests.hostile.damage import NAMES
from tests.hostile.inputs import Input, Kind, WrongResultError
from tests.hostile.kinds.addresses import HOSTS, PORTS, refuse_names
from tests.hostile.kinds.parameters import default_parameters

from selfie_pipeline.tracking import MlflowHooks

_LOGGER = logging.getLogger("selfie_pipeline.tracking")
_SCHEMES = st.sampled_from(
    [
        "http",
        "https",
        "HTTP",
        "ftp",
        "databricks",
        "databricks-uc",
        "uc",
        "s3",
        "mysql",
        "ws",
        "x" * 99,
    ]
)
_VARIABLES = {
    "MLFLOW_TRACKING_TOKEN": NAMES,
    "MLFLOW_TRACKING_USERNAME": NAMES,
    "MLFLOW_TRACKING_INSECURE_TLS": st.one_of(NAMES, st.just("true")),
    "MLFLOW_HTTP_REQUEST_TIMEOUT": st.one_of(NAMES, st.sampled_from(["0", "-1", "1e3", "nan"])),
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": st.one_of(NAMES, st.sampled_from(["0", "-1", "99"])),
    "MLFLOW_EXPERIMENT_NAME": NAMES,
    "SELFIE_MLFLOW_RUN": NAMES,
}


def _clean(text: str) -> str:
    return text.replace("\0", "").encode("utf-8", "replace").decode()


@st.composite
def _addresses(draw: st.DrawFn) -> Input:
    uri = draw(
        st.one_of(
            st.builds("{}://{}:{}".format, _SCHEMES, HOSTS, PORTS),
            st.builds("{}:{}".format, _SCHEMES, NAMES),
            st.builds("http://{}".format, NAMES),
            st.builds("http://u:p@127.0.0.1:1/{}?{}".format, NAMES, NAMES),
            st.builds("{}:x".format, NAMES.filter(lambda name: "/" not in name)),
        )
    )
    names = draw(st.lists(st.sampled_from(sorted(_VARIABLES)), max_size=2, unique=True))
    variables = {name: _clean(draw(_VARIABLES[name])) for name in names}
    where = draw(st.sampled_from(["parameter", "variable"]))
    if where == "variable":
        variables["MLFLOW_TRACKING_URI"] = _clean(uri)
    return Input(f"{where} {uri!r}"[:100], value=(uri if where == "parameter" else None, variables))


def _track(item: Input, folder: Path) -> None:
    """Track a run that saves nothing; no name is resolved, and every connection is refused."""
    uri, variables = item.value
    socket.getaddrinfo = refuse_names  # type: ignore[assignment]
    socket.socket.connect = _refuse  # type: ignore[assignment]
    os.chdir(folder / "data")
    handler = _MessageHandler()
    _LOGGER.addHandler(handler)
    before = dict(os.environ)
    os.environ.update(variables)
    parameters = default_parameters()
    parameters["tracking"] |= {"mlflow": "auto", "mlflow_uri": uri}
    context: Any = SimpleNamespace(
        project_path=folder, config_loader={"parameters": parameters, "globals": {"recipe": "r"}}
    )
    hooks = MlflowHooks()
    outer = os.environ.get("SELFIE_MLFLOW_RUN")
    try:
        hooks.after_context_created(context)
        hooks.before_pipeline_run(
            {"run_id": "2026-01-01T00.00.00.000Z", "pipeline_names": ["ingest"]},
            Pipeline([]),
            DataCatalog(),
        )
        hooks.after_pipeline_run()
        left = os.environ.get("SELFIE_MLFLOW_RUN")  # empty: its inner runs are not tracked either
        if left != outer and not (outer and left == ""):
            raise WrongResultError("the variable of the outer run is another")
    finally:
        _LOGGER.removeHandler(handler)
        os.environ.clear()
        os.environ.update(before)
    if any(len(line.splitlines()) > 1 or len(line) > 4000 for line in handler.messages):
        raise WrongResultError("a warning of several lines, or a very long one")
    if outer is None and not any("no longer tracked" in line for line in handler.messages):
        raise WrongResultError("no warning says that the run is not tracked")


class _MessageHandler(logging.Handler):
    """A handler that collects the messages of a logger."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


def _refuse(self: socket.socket, address: object) -> None:
    raise ConnectionRefusedError(111, "Connection refused")


KINDS = [Kind("tracking/addresses", _addresses(), _track, share=30)] if find_spec("mlflow") else []
if KINDS:
    import mlflow  # noqa: F401  # once, not in each process
