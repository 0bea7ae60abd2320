"""Bad addresses of Ray clusters, in the environment variable."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from hypothesis import strategies as st
from tests.hostile.damage import NAMES
from tests.hostile.inputs import Input, Kind, WrongResultError

from selfie_pipeline.training.distributed.cluster import connect

HOSTS = st.sampled_from(
    ["127.0.0.1", "localhost", "::1", "[::1]", "0.0.0.0", "", "256.0.0.1", "a..b", "é", "x" * 300]
)
PORTS = st.one_of(
    st.sampled_from(["", "0", "1", "65536", "99999999999", "-1", "1e3", "６３７９", " 9", "9x"]),
    st.integers(-10, 10**7).map(str),
)
_NO_ADDRESS = {"", "local", "auto"}
"""Values by which a cluster is started or found, instead of named."""


@st.composite
def _ray(draw: st.DrawFn) -> Input:
    text = draw(
        st.one_of(
            st.builds(lambda host, port: f"{host}:{port}", HOSTS, PORTS),
            st.builds(lambda host, port: f"ray://{host}:{port}", HOSTS, PORTS),
            NAMES,
        )
    )
    text = text.replace("\0", "").encode("utf-8", "replace").decode()
    return Input("RAY_ADDRESS", value=text if text not in _NO_ADDRESS else "nowhere")


def _connect(item: Input, folder: Path) -> None:
    os.environ["RAY_ADDRESS"] = item.value
    # No name is resolved, because the outcome must not depend on the network.
    socket.getaddrinfo = refuse_names  # type: ignore[assignment]
    with connect():
        raise WrongResultError("there is no cluster")


def refuse_names(host: str, port: int, *arguments: int) -> list[tuple[object, ...]]:
    address = (socket.inet_ntoa(socket.inet_aton(host)), port)
    return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", address)]


KINDS = [Kind("addresses/ray", _ray(), _connect, share=30)]
