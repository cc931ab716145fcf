"""From file to file through a catalogue: two daemons that know only the tracker's address."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx

from tests.support import cli_runs
from tests.support.catalogue.publishing import COMMIT
from tests.support.catalogue.trackers import OFF
from tests.support.nodes import Daemon, DaemonFactory, wait_for
from tests.support.seeding.daemons import MIB, make_file, seeding_daemon, torrents


async def tracker(factory: DaemonFactory) -> str:
    """The address of a tracker in a daemon of its own, where everyone may publish."""
    on = {"enabled": True, "listen": ["127.0.0.1"], "port": 0, "catalogue": {"others": "accept"}}
    daemon = await factory({"plugins": {**OFF, "tracker": on}})
    stats = await daemon.call("tracker.stats")
    return f"http://{stats['listening'][0].partition('/')[0]}"


async def counts(url: str, **expected: int) -> bool:
    """Whether the one published file has these counts."""
    async with httpx.AsyncClient(trust_env=False) as client:
        (row,) = (await client.get(f"{url}/api/v1/torrents")).json()["torrents"]
    return {name: row[name] for name in expected} == expected


async def apart(factory: DaemonFactory, url: str) -> Daemon:
    """A daemon without any way to find another one, except the catalogue."""
    alone: dict[str, Any] = {"enabled": False}
    return await seeding_daemon(
        factory, plugins={"discovery": alone, "nat": alone, "catalogue": {"servers": url}}
    )


async def test_published_file_is_downloaded_by_its_name_from_a_node_found_by_the_tracker(
    daemon_factory: DaemonFactory, tmp_path: Path
) -> None:
    file = tmp_path / "files" / "model.safetensors"
    digest = make_file(file, 9 * MIB)
    url = await tracker(daemon_factory)
    a, b = await apart(daemon_factory, url), await apart(daemon_factory, url)
    await a.call("seeding.share", {"path": str(file)})  # which publishes nothing
    command = ("catalogue", "publish", str(file), "--repo", "org/model", "--revision", COMMIT)
    for outcome in ("created", "unchanged"):
        code, out, err = await cli_runs.run(a, *command)
        assert code == 0, err
        assert digest in out and outcome in out and "approved" in out

    await wait_for(lambda: counts(url, seeders=1, completed=0), 30)
    assert (await torrents(a))[0]["tracker_problem"] == ""
    code, out, _ = await cli_runs.run(b, "catalogue", "search", "safetensors")
    assert code == 0 and "org/model  model.safetensors  9.0 MiB" in out and digest[:12] in out
    code, out, _ = await cli_runs.run(b, "catalogue", "show", "org/model")
    assert out.rstrip().endswith(f"aitorrentctl download catalogue://org/model@{COMMIT}")

    target = tmp_path / "there"
    name = f"catalogue://org/model@{COMMIT}"
    code, _, err = await cli_runs.run(b, "download", name, "--to", str(target))
    assert code == 0, err
    found = [path for path in target.rglob("*") if path.is_file()]
    assert [path.name for path in found] == ["model.safetensors"]
    assert found[0].read_bytes() == file.read_bytes()

    await wait_for(lambda: counts(url, seeders=2, completed=1), 30)
