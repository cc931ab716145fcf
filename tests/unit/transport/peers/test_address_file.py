"""Files that say where another node can be dialled."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from aitorrent_transport.config import TransportConfig
from aitorrent_transport.peers.address_file import read_address_file
from aitorrentd.api import InvalidParams, Unavailable
from aitorrentd.api.network.addresses import is_address_file

PEER = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN"


def test_addresses_are_read_with_comments_and_empty_lines_between(tmp_path: Path) -> None:
    file = tmp_path / "daemon.addr"
    file.write_text(f"# of node a\n\n/ip4/127.0.0.1/tcp/1/p2p/{PEER}\nexample.org:2\n")
    assert [str(a) for a in read_address_file(file)] == [
        f"/ip4/127.0.0.1/tcp/1/p2p/{PEER}",
        "/dns/example.org/tcp/2",
    ]


@pytest.mark.parametrize(
    ("content", "error", "match"),
    [
        (None, Unavailable, "cannot read .*: No such file"),
        (b"", Unavailable, "has no address"),
        (b"\n# nobody\n", Unavailable, "has no address"),
        (b"/ip4/1.2.3.4/udp/1\n", InvalidParams, "daemon.addr: .* udp is not supported"),
        (b"\xff\x00\n", InvalidParams, "is not an address"),
        (b"example.org:1\n" * 65, InvalidParams, "too long for an address file"),
        (b"#" * 20_000, InvalidParams, "too long for an address file"),
    ],
)
def test_bad_file_says_what_is_wrong(
    content: bytes | None, error: type[Exception], match: str, tmp_path: Path
) -> None:
    file = tmp_path / "daemon.addr"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(error, match=match):
        read_address_file(file)


def test_fifo_and_directory_do_not_hold_anybody_up(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.addr")
    with pytest.raises(Unavailable, match="not a regular file"):
        read_address_file(tmp_path / "fifo.addr")
    with pytest.raises(Unavailable, match="not a regular file"):
        read_address_file(tmp_path)


@given(st.binary(max_size=300))
def test_any_bytes_are_addresses_or_an_error(raw: bytes) -> None:
    file = Path(tempfile.gettempdir()) / f"ait-{os.getpid()}.addr"
    file.write_bytes(raw)
    try:
        assert read_address_file(file)
    except (InvalidParams, Unavailable):
        pass
    finally:
        file.unlink()


def test_files_are_bootstrap_addresses_and_nothing_else() -> None:
    path = "/run/aitorrent/daemon.addr"
    assert is_address_file(path)
    assert TransportConfig(bootstrap=(path,)).bootstrap == (path,)
    for bad in ({"announce": path}, {"bootstrap": "run/daemon.addr"}, {"bootstrap": "/ipv4/1/x"}):
        with pytest.raises(ValidationError, match="is not an address"):
            TransportConfig.model_validate(bad)
