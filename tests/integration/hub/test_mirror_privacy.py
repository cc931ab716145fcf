"""Tokens go to the Hub only; gated and private files go to those whom the Hub lets have them."""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from aitorrentd.api import NotFound
from tests.support.nodes import DaemonFactory, NodeFactory, wait_for
from tests.support.servers.hub.fake_hub import FakeHub
from tests.support.servers.hub.mirrors import TOKEN, Program, mirror_config, mirror_of
from tests.support.servers.hub.repos import weights

LARGE = weights(400_000)
FILES = {"config.json": b"{}", "model.safetensors": LARGE}
GATED = "/org/gated/resolve/main/model.safetensors"
PRIVATE = "/org/private/resolve/main/model.safetensors"
PUBLIC = "/org/model/resolve/main/model.safetensors"
AUTH = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with FakeHub() as hub:
        hub.add("org/model", {**FILES, "model.safetensors": weights(400_000)})
        hub.add("org/gated", FILES, gated=True, readers=(TOKEN,))
        hub.add("org/private", FILES, private=True, readers=(TOKEN,))
        yield hub


async def mirrored(node_factory: NodeFactory, hub: FakeHub, **settings: Any) -> Program:
    node = await node_factory(mirror_config(hub, **settings))
    return Program(await mirror_of(node))


async def get(program: Program, path: str, headers: Any = None) -> httpx.Response:
    async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
        return await client.get(program.endpoint + path, headers=headers)


@pytest.mark.parametrize("path", [GATED, PRIVATE])
async def test_a_token_is_checked_for_each_reader(
    node_factory: NodeFactory, hub: FakeHub, path: str
) -> None:
    program = await mirrored(node_factory, hub)
    assert (await get(program, path, AUTH)).content == LARGE
    assert (await get(program, path)).status_code == 401
    wrong = await get(program, path, {"Authorization": "Bearer hf_another"})
    assert wrong.status_code in (403, 404)
    repo = path.split("/")[2]
    hub.repos[f"org/{repo}"].readers.clear()
    assert (await get(program, path, AUTH)).status_code in (403, 404)


@pytest.mark.parametrize("path", [GATED, PRIVATE])
async def test_nobody_gets_it_while_the_hub_cannot_be_asked(
    node_factory: NodeFactory, hub: FakeHub, path: str
) -> None:
    program = await mirrored(node_factory, hub)
    assert (await get(program, path, AUTH)).content == LARGE
    hub.stop()
    for headers in (AUTH, None):
        assert (await get(program, path, headers)).status_code == 503


async def test_a_repository_that_becomes_gated_is_forgotten(
    node_factory: NodeFactory, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = await mirrored(node_factory, hub)
    assert await program.snapshot()
    hub.repos["org/model"].gated = True
    await get(program, "/api/models/org/model/revision/main")
    hub.stop()
    assert (await get(program, PUBLIC)).status_code == 503
    assert (await get(program, "/api/models/org/model/revision/main")).status_code == 503


async def test_tokens_go_to_the_hub_and_nowhere_else(
    node_factory: NodeFactory, hub: FakeHub
) -> None:
    program = await mirrored(node_factory, hub)
    for path in (PUBLIC, GATED, PRIVATE):
        assert (await get(program, path, AUTH)).status_code == 200
    assert hub.tokens == set()
    assert [seen for seen in hub.seen if seen.server == "cdn"]
    tokens = {seen.headers.get("authorization") for seen in hub.seen if seen.server == "hub"}
    assert tokens == {AUTH["Authorization"], None}  # without: whether anybody may read it


async def test_huggingface_hub_downloads_a_gated_model_with_its_token(
    node_factory: NodeFactory, hub: FakeHub
) -> None:
    program = await mirrored(node_factory, hub)
    assert await program.snapshot("org/gated", token=TOKEN) == FILES
    refusal = await Program(program.endpoint).fails(
        "import huggingface_hub as h; h.hf_hub_download('org/gated', 'model.safetensors')"
    )
    assert "GatedRepoError" in refusal


async def test_no_log_and_no_file_of_a_daemon_has_a_token(
    daemon_factory: DaemonFactory, hub: FakeHub
) -> None:
    config = {**mirror_config(hub), "log": {"level": "debug"}}
    daemon = await daemon_factory(config)
    program = Program(f"http://{(await daemon.call('hub.status'))['listening'][0]}")
    hub.corrupt = 1
    assert await program.snapshot("org/gated", token=TOKEN) == FILES
    hub.stop()
    assert (await get(program, PRIVATE, AUTH)).status_code == 503
    await get(program, f"/api/whoami-v2?token={TOKEN}", AUTH)
    await daemon.stop()
    secret = TOKEN.encode()
    assert TOKEN not in daemon.log()
    kept = [p for p in daemon.state_dir.rglob("*") if p.is_file()]
    assert [p for p in kept if p.suffix != ".sock" and secret in p.read_bytes()] == []


async def test_a_file_of_a_gated_repository_is_never_published(
    node_factory: NodeFactory, hub: FakeHub, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    offered: list[str] = []

    class Recorder:
        def local(self, sha256: str) -> None:
            return None

        async def fetch(self, file: Any, *, ranges: Any = None) -> Any:
            offered.append(f"fetch {file.name}")
            raise NotFound("nobody has it")

        async def offer(self, path: Any, *, sha256: str = "", published: Any = None) -> str:
            offered.append(f"offer {published.repo_id}")
            return sha256

    node = await node_factory(mirror_config(hub, swarm_min=1))
    program = Program(await mirror_of(node))
    service = node_service(node)
    service.sources._weights = Recorder
    service.sources._indexes = lambda: [Knowing()]
    for path in (GATED, PRIVATE):
        assert (await get(program, path, AUTH)).content == LARGE
    assert offered == []
    assert (await get(program, PUBLIC, AUTH)).status_code == 200
    await wait_for(lambda: offered == ["fetch model.safetensors", "offer org/model"])


class Knowing:
    async def find(self, sha256: str) -> list[str]:
        return ["a torrent"]


def node_service(node: Any) -> Any:
    """The running hub service of a node."""
    found = [o for o in gc.get_objects() if type(o).__name__ == "HubService" and o.listening]
    return found[-1]
