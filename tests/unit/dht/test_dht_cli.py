"""`aitorrentctl dht`: what people and programs read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aitorrent_dht import cli
from aitorrent_dht.methods import (
    DeleteResult,
    FindParams,
    FindResult,
    GetParams,
    NameParams,
    ProviderRow,
    PutParams,
    StatsResult,
    ValueResult,
)
from aitorrentd.api import Method
from aitorrentd.cli import toolkit
from aitorrentd.cli.toolkit import Options
from tests.support.control_server import ServerThread

ID = "12D3KooWEm7uV2BNFTjUJ7XxLm5kDq3vPZfBxjNBRYsGyJWnN3Zc"
STATS = StatsResult(
    id="ab" * 20, mode="server", joined=True, ports=[8468], seen_at="192.0.2.1", nodes=44,
    buckets=6, network_size=301, rtt_s=0.042, records=12, records_bytes=2048, published=3,
    lookups=9, requests=100, timeouts=7, served=55, bytes_in=4096, bytes_out=1024, checked=150,
    dropped={"foreign": 2, "flood": 1},
)  # fmt: skip


def value(name: str, stored: int = 20) -> ValueResult:
    return ValueResult(
        name=name, publisher=ID, value="evil\x1b[31m", seq=1, expires=2, stored=stored
    )


def found(call: Any, params: FindParams) -> FindResult:
    row = ProviderRow(peer=ID, addresses=["/ip4/192.0.2.1/tcp/8468"], value={"v": 1})
    return FindResult(key=params.key, providers=[row] if params.key == "ait:cap:m" else [])


@pytest.fixture(autouse=True)
def daemon(tmp_path: Path) -> Iterator[None]:
    methods = [
        Method(
            "dht.put",
            lambda c, p: value(p.name, 0 if p.name == "alone" else 20),
            "",
            PutParams,
            ValueResult,
        ),
        Method("dht.get", lambda c, p: value(p.name), "", GetParams, ValueResult),
        Method(
            "dht.delete",
            lambda c, p: DeleteResult(name=p.name, stored=3),
            "",
            NameParams,
            DeleteResult,
        ),
        Method("dht.find", found, "", FindParams, FindResult),
        Method("dht.stats", lambda c, p: STATS, "", result=StatsResult),
    ]
    toolkit.set_options(Options(socket=str(tmp_path / "s")))
    with ServerThread(tmp_path / "s", *methods):
        yield
    toolkit.start_over()


def test_put_says_how_many_nodes_keep_the_value(capsys: pytest.CaptureFixture[str]) -> None:
    cli.put("motto", "text")
    assert "motto" in (out := capsys.readouterr().out)
    assert "20 nodes" in out
    cli.put("alone", "text")
    assert "20 nodes" not in capsys.readouterr().out


def test_value_of_a_stranger_cannot_write_to_the_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    cli.get("motto")
    out = capsys.readouterr().out
    assert "evil" in out
    assert "\x1b" not in out


def test_find_lists_providers_or_says_that_there_are_none(
    capsys: pytest.CaptureFixture[str],
) -> None:
    cli.find("ait:cap:m")
    out = capsys.readouterr().out
    assert ID in out
    assert "/ip4/192.0.2.1/tcp/8468" in out
    cli.find("ait:cap:other")
    assert "ait:cap:other" in capsys.readouterr().out


def test_delete_names_what_it_deleted(capsys: pytest.CaptureFixture[str]) -> None:
    cli.delete("motto")
    assert "motto" in capsys.readouterr().out


def test_stats_for_people_and_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    cli.stats()
    out = capsys.readouterr().out
    for part in ("server", "44", "301 nodes", "42 ms", "2.0 KiB", "1 flood, 2 foreign"):
        assert part in out
    toolkit.set_options(Options(socket=toolkit.options.socket, json=True))
    cli.stats()
    assert json.loads(capsys.readouterr().out) == STATS.model_dump()
