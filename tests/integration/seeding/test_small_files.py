"""`download hf://org/name`: small files beside large ones, and revisions that share files.

huggingface_hub 3307 and 2372: files of no bytes, whose size a mirror got wrong.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import cli_runs
from tests.support.nodes import Daemon, DaemonFactory
from tests.support.seeding.daemons import seeding_daemon, torrents
from tests.support.servers.hub.fake_hub import FakeHub
from tests.support.servers.hub.mirrors import files_in
from tests.support.servers.hub.repos import weights

LARGE = weights(5_000_000)
FILES = {
    "config.json": b"{}",
    "empty": b"",
    "deep/er/tokenizer.json": b"x" * 60_000,
    "model.safetensors": LARGE,
}


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with FakeHub() as hub:
        hub.add("org/model", FILES)
        yield hub


async def node(factory: DaemonFactory, hub: FakeHub, beside: Daemon | None = None) -> Daemon:
    own = {"enabled": True, "upstream": hub.url, "port": 0}
    return await seeding_daemon(factory, beside, plugins={"hub": own})


async def fetched(daemon: Daemon, name: str, place: Path) -> dict[str, bytes]:
    """The files that a download by the command placed."""
    code, _, err = await cli_runs.run(daemon, "download", name, "--to", str(place))
    assert code == 0, err
    return files_in(place)


async def test_model_has_its_small_and_empty_files_with_the_bytes_that_the_hub_names(
    daemon_factory: DaemonFactory, hub: FakeHub, tmp_path: Path
) -> None:
    a = await node(daemon_factory, hub)
    assert await fetched(a, "hf://org/model", tmp_path / "first") == FILES
    assert [row["name"] for row in await torrents(a)] == ["model.safetensors"]
    before = len(hub.bodies("config.json"))
    assert await fetched(a, "hf://org/model", tmp_path / "second") == FILES
    assert len(hub.bodies("config.json")) == before, "small files are kept, too"


async def test_small_file_with_other_bytes_than_its_name_says_is_refused(
    daemon_factory: DaemonFactory, hub: FakeHub, tmp_path: Path
) -> None:
    a = await node(daemon_factory, hub)
    hub.corrupt_small = 1000
    place = tmp_path / "out"
    code, _, err = await cli_runs.run(a, "download", "hf://org/model", "--to", str(place))
    assert code != 0
    assert "config.json" in err or "deep/er/tokenizer.json" in err
    assert not place.exists() or not files_in(place)
    hub.corrupt_small = 0
    assert await fetched(a, "hf://org/model", place) == FILES


async def test_two_revisions_share_the_files_that_did_not_change(
    daemon_factory: DaemonFactory, hub: FakeHub, tmp_path: Path
) -> None:
    a = await node(daemon_factory, hub)
    first = hub.repos["org/model"].refs["main"]
    await fetched(a, f"hf://org/model@{first}", tmp_path / "first")
    changed = {**FILES, "config.json": b'{"v": 2}', "adapter.safetensors": weights(2_000_000)}
    second = hub.repos["org/model"].commit(changed)
    asked = len(hub.bodies("model.safetensors"))

    assert await fetched(a, f"hf://org/model@{second}", tmp_path / "second") == changed

    assert len(hub.bodies("model.safetensors")) == asked
    names = sorted(row["name"] for row in await torrents(a))
    assert names == ["adapter.safetensors", "model.safetensors"]
    assert await fetched(a, f"hf://org/model@{first}", tmp_path / "again") == FILES
