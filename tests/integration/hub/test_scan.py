"""Files that huggingface_hub downloaded are seeded where they lie: public ones that verify."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.nodes import Daemon, DaemonFactory, NodeFactory
from tests.support.seeding.daemons import seeding_daemon, torrents
from tests.support.servers.hub.fake_hub import FakeHub
from tests.support.servers.hub.mirrors import TOKEN, Program, called, mirror_config
from tests.support.servers.hub.repos import weights

LARGE = weights(2_000_000)
MODEL = "model.safetensors"


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with FakeHub() as hub:
        hub.add("org/model", {"config.json": b"{}", MODEL: LARGE, "other.bin": weights(1_500_000)})
        hub.add("org/gated", {MODEL: weights(1_600_000)}, gated=True, readers=(TOKEN,))
        hub.add("datasets/org/data", {"train.bin": weights(1_700_000)})
        yield hub


@pytest.fixture
async def cache(hub: FakeHub) -> Path:
    """A cache as huggingface_hub makes it, without us."""
    program = Program(hub.url)
    await program.snapshot()
    await program.snapshot("org/gated", token=TOKEN)
    await program.snapshot("org/data", repo_type="dataset")
    return program.home / "hub"


async def scanning(factory: DaemonFactory, hub: FakeHub) -> Daemon:
    own = {"enabled": True, "upstream": hub.url, "port": 0, "swarm_min": "1MB"}
    return await seeding_daemon(factory, plugins={"hub": own})


async def test_public_files_of_a_cache_are_seeded_without_a_copy(
    daemon_factory: DaemonFactory, hub: FakeHub, cache: Path
) -> None:
    daemon = await scanning(daemon_factory, hub)
    found = await daemon.call("hub.scan", {"directory": str(cache)})
    assert found["counts"] == {"seeded": 3, "not public": 1}
    states = {(row["repo"], row["path"]): row["state"] for row in found["files"]}
    assert states["org/gated", MODEL] == "not public"
    assert states["datasets/org/data", "train.bin"] == "seeded"
    seeded = {row["sha256"] for row in await torrents(daemon)}
    assert len(seeded) == 3
    again = await daemon.call("hub.scan", {"directory": str(cache)})
    assert again["counts"] == {"seeded": 3, "not public": 1}


async def test_a_file_that_differs_is_reported_and_not_seeded(
    daemon_factory: DaemonFactory, hub: FakeHub, cache: Path
) -> None:
    (blob,) = cache.glob(f"models--org--model/snapshots/*/{MODEL}")
    real = blob.resolve()
    real.chmod(0o644)
    real.write_bytes(bytes([LARGE[0] ^ 1]) + LARGE[1:])
    daemon = await scanning(daemon_factory, hub)
    found = await daemon.call("hub.scan", {"directory": str(cache)})
    (wrong,) = [row for row in found["files"] if row["state"] == "wrong"]
    assert wrong["path"] == MODEL
    assert "download it again" in wrong["reason"]
    assert len(await torrents(daemon)) == 2


async def test_a_local_dir_needs_the_name_of_its_repository(
    daemon_factory: DaemonFactory, hub: FakeHub, tmp_path: Path
) -> None:
    local = tmp_path / "model"
    await Program(hub.url).snapshot(local_dir=str(local))
    daemon = await scanning(daemon_factory, hub)
    unknown = await daemon.call("hub.scan", {"directory": str(local)})
    assert unknown["counts"] == {"unknown": 2}
    assert "--repo" in unknown["files"][0]["reason"]
    found = await daemon.call("hub.scan", {"directory": str(local), "repo": "org/model"})
    assert found["counts"] == {"seeded": 2}


async def test_without_the_hub_nothing_new_is_seeded(
    daemon_factory: DaemonFactory, hub: FakeHub, cache: Path
) -> None:
    hub.stop()
    daemon = await scanning(daemon_factory, hub)
    found = await daemon.call("hub.scan", {"directory": str(cache)})
    assert found["counts"] == {"unknown": 4}
    assert await torrents(daemon) == []


async def test_links_out_of_the_cache_are_not_followed(
    node_factory: NodeFactory, hub: FakeHub, cache: Path, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(LARGE)
    (blob,) = cache.glob(f"models--org--model/snapshots/*/{MODEL}")
    real = blob.resolve()
    real.unlink()
    real.symlink_to(secret)
    node = await node_factory(mirror_config(hub, swarm_min="1MB"))
    found = await called(node, "hub.scan", directory=str(cache))
    assert MODEL not in {row["path"] for row in found["files"] if row["repo"] == "org/model"}


async def test_directories_that_are_no_cache(
    daemon_factory: DaemonFactory, hub: FakeHub, tmp_path: Path
) -> None:
    daemon = await daemon_factory(mirror_config(hub))
    assert (await daemon.call("hub.scan", {"directory": str(tmp_path)}))["files"] == []
    shutil.rmtree(tmp_path)
    with pytest.raises(Exception, match=f"{tmp_path} does not exist"):
        await daemon.call("hub.scan", {"directory": str(tmp_path)})
    with pytest.raises(Exception, match="'relative' is not an absolute path"):
        await daemon.call("hub.scan", {"directory": "relative"})
