"""Pull and delete in the Ollama API: a model comes from the swarm, by its name in a catalogue."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import ollama
import pytest
from ollama import AsyncClient
from pydantic import BaseModel

from aitorrent_gateway.plugin import GatewayPlugin
from aitorrentd.api import (
    CallContext,
    Method,
    NotFound,
    PluginContext,
    PluginInfo,
    ProtocolError,
    Registry,
    Role,
    Unavailable,
    hookimpl,
)
from aitorrentd.api.models.weights import (
    MODEL_NAMES,
    WEIGHTS,
    FetchProgress,
    ModelFiles,
    ModelNames,
    WantedFile,
)
from tests.support import cli_runs
from tests.support.catalogue.publishing import COMMIT
from tests.support.catalogue.trackers import OFF
from tests.support.clients.raw_http import connection, exchange, request
from tests.support.http_nodes import http_node, new_token
from tests.support.nodes import Daemon, DaemonFactory, NodeFactory, merged, wait_for
from tests.support.seeding.daemons import MIB, make_file, seeding_daemon, torrents

DIGEST = "ab" * 32


async def tracker(factory: DaemonFactory) -> str:
    """The address of a tracker in a daemon of its own, where everyone may publish."""
    on = {"enabled": True, "listen": ["127.0.0.1"], "port": 0, "catalogue": {"others": "accept"}}
    daemon = await factory({"plugins": {**OFF, "tracker": on}})
    stats = await daemon.call("tracker.stats")
    return f"http://{stats['listening'][0].partition('/')[0]}"


async def apart(factory: DaemonFactory, url: str, **plugins: Any) -> Daemon:
    """A daemon without any way to find another one, except the catalogue."""
    alone: dict[str, Any] = {"enabled": False}
    tables = {"discovery": alone, "nat": alone, "catalogue": {"servers": url}}
    return await seeding_daemon(factory, plugins=merged(tables, plugins))


async def test_pull_and_delete_with_the_sdk(daemon_factory: DaemonFactory, tmp_path: Path) -> None:
    file = tmp_path / "files" / "model.safetensors"
    digest = make_file(file, 3 * MIB)
    url = await tracker(daemon_factory)
    a = await apart(daemon_factory, url)
    b = await apart(daemon_factory, url, http={"enabled": True, "port": 0})
    command = ("catalogue", "publish", str(file), "--repo", "org/model", "--revision", COMMIT)
    code, _, err = await cli_runs.run(a, *command)
    assert code == 0, err
    host = f"http://{(await b.call('http.status'))['listening'][0]}"
    token = (await b.call("http.tokens.new", {"name": "t", "role": "operate"}))["token"]
    headers = {"Authorization": f"Bearer {token}"}
    async with AsyncClient(host=host, headers=headers, trust_env=False) as client:
        said = [part async for part in await client.pull("org/model", stream=True)]
        statuses = [part.status for part in said]
        assert statuses[0] == "pulling manifest"
        assert set(statuses[1:-3]) == {f"pulling {digest[:12]}"}
        assert statuses[-3:] == ["verifying sha256 digest", "writing manifest", "success"]
        files = said[1:-3]
        assert {part.digest for part in files} == {f"sha256:{digest}"}
        done = [part.completed or 0 for part in files]
        assert done == sorted(done)
        assert (files[-1].completed, files[-1].total) == (3 * MIB, 3 * MIB)
        (row,) = await torrents(b)
        assert Path(row["path"]).read_bytes() == file.read_bytes()
        again = await client.pull(f"org/model:{COMMIT}")
        assert again.status == "success"

        with pytest.raises(ollama.ResponseError, match="model 'org/none' not found") as missing:
            await client.pull("org/none", stream=False)
        assert missing.value.status_code == 404

        await client.delete("org/model:latest")
        assert await torrents(b) == []
        assert not Path(row["path"]).exists()
        with pytest.raises(ollama.ResponseError, match="none of its files is here"):
            await client.delete("org/model")
    assert file.exists()


class Swarm:
    """A catalogue with one model, a scheme that must not be asked, and a swarm that is told what
    to do."""

    def __init__(self, error: Exception | None = None, *, is_whole: bool = False) -> None:
        """`is_whole`: the model is one in the layout of Hugging Face, not a file alone."""
        self.is_whole = is_whole
        self.asked: list[tuple[str, str]] = []
        self.error = error
        self.more = asyncio.Event()
        self.released = 0

    @hookimpl
    def aitorrent_info(self) -> PluginInfo:
        return PluginInfo("swarm", "for tests", provides=(MODEL_NAMES, WEIGHTS))

    @hookimpl
    @asynccontextmanager
    async def aitorrent_lifespan(self, ctx: PluginContext) -> AsyncIterator[None]:
        names: Registry[ModelNames] = Registry("scheme")
        ctx.provide(MODEL_NAMES, names)
        ctx.provide(WEIGHTS, self)
        with names.added("hf", Forbidden()), names.added("catalogue", self):
            yield

    async def resolve(self, name: str, revision: str = "") -> ModelFiles:
        self.asked.append((name, revision))
        if name != "org/model":
            raise NotFound(f"no catalogue lists {name}")
        files = [("m.safetensors", WantedFile(DIGEST, 100, "m"))]
        files += [("config.json", WantedFile("cd" * 32, 9, "c"))] if self.is_whole else []
        return ModelFiles(name, "0" * 40, tuple(files))

    async def fetch(self, file: WantedFile, *, ranges: object = None) -> Swarm:
        return self

    def progress(self) -> FetchProgress:
        return FetchProgress(40, 0, 0.0, 1, 40, 0)

    async def wait(self) -> Path:
        await self.more.wait()
        if self.error:
            raise self.error
        return Path("m")

    def read(self, start: int, stop: int) -> AsyncIterator[bytes]:
        raise AssertionError

    async def want(self, ranges: object) -> Path:
        raise AssertionError

    def local(self, sha256: str) -> Path | None:
        raise AssertionError

    async def offer(self, path: Path, *, sha256: str = "", published: object = None) -> str:
        raise AssertionError

    async def withdraw(self, sha256: str) -> None:
        raise AssertionError

    def release(self) -> None:
        self.released += 1


class Model(BaseModel):
    name: str
    source: str = ""


class Stages:
    """A plugin that computes models, told why not."""

    def __init__(self, problem: str = "") -> None:
        self.problem = problem
        self.served: dict[str, str] = {}

    @hookimpl
    def aitorrent_info(self) -> PluginInfo:
        return PluginInfo("shards", "for tests")

    @hookimpl
    def aitorrent_methods(self) -> list[Method]:
        async def models(call: CallContext, params: None) -> dict[str, Any]:
            return {"models": [{"name": n, "source": s} for n, s in self.served.items()]}

        async def add(call: CallContext, params: Model) -> dict[str, Any]:
            self.served[params.name] = params.source
            if self.problem:
                raise Unavailable(self.problem)
            return {}

        async def remove(call: CallContext, params: Model) -> dict[str, Any]:
            del self.served[params.name]
            return {}

        return [
            Method("shards.models", models, "Models.", role=Role.READ),
            Method("shards.add_model", add, "Add.", params=Model, role=Role.OPERATE),
            Method("shards.remove_model", remove, "Remove.", params=Model, role=Role.OPERATE),
        ]


async def test_pulled_model_is_served_by_its_name_until_it_is_deleted(
    node_factory: NodeFactory,
) -> None:
    swarm, stages = Swarm(is_whole=True), Stages()
    swarm.more.set()
    address, headers = await pulling(node_factory, swarm, stages)
    for _ in range(2):  # the second time it is served already
        answer = await exchange(address, post(headers, model="org/model:latest"))
        statuses = [json.loads(each)["status"] for each in answer.body.splitlines()]
        assert statuses[-1] == "success"
        assert stages.served == {"org/model": f"catalogue://org/model@{'0' * 40}"}
    assert "loading model" not in statuses
    body = json.dumps({"model": "org/model"}).encode()
    await exchange(address, request("DELETE", "/api/delete", headers, body))
    assert stages.served == {}
    stages.served["mine"] = "catalogue://org/model"
    kept = await exchange(address, request("DELETE", "/api/delete", headers, body))
    assert (kept.status, list(stages.served)) == (409, ["mine"])
    assert "first `aitorrentctl model remove mine`" in json.loads(kept.body)["error"]


async def test_pulled_model_that_cannot_be_computed_is_refused_with_the_reason(
    node_factory: NodeFactory,
) -> None:
    swarm, stages = Swarm(is_whole=True), Stages("model family 'x' is not supported")
    swarm.more.set()
    address, headers = await pulling(node_factory, swarm, stages)
    answer = await exchange(address, post(headers, model="org/model", stream=False))
    assert answer.status == 503
    assert json.loads(answer.body)["error"] == (
        "model 'org/model' was downloaded, but this node cannot answer with it:"
        " model family 'x' is not supported"
    )
    assert stages.served == {}


class Forbidden:
    """A scheme that leads to the web."""

    async def resolve(self, name: str, revision: str = "") -> ModelFiles:
        raise AssertionError(name)


async def pulling(
    factory: NodeFactory, swarm: Swarm, *stages: Stages
) -> tuple[str, dict[str, str]]:
    """The address of a node, and the headers of its operator."""
    more = [("shards", each) for each in stages]
    node, address = await http_node(factory, ("gateway", GatewayPlugin()), ("swarm", swarm), *more)
    token = await new_token(node, "operate")
    return address, {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}


def post(headers: dict[str, str], **fields: Any) -> bytes:
    return request("POST", "/api/pull", headers, json.dumps(fields).encode())


@pytest.mark.parametrize(
    "name",
    [
        *("http://169.254.169.254/a/b", "hf.co/org/model", "hf://org/model", "file:///etc/passwd"),
        *("127.0.0.1:80/org/model", "../../etc/passwd", "registry.example:5000/org/model:latest"),
    ],
)
async def test_ssrf_pull_url(node_factory: NodeFactory, name: str) -> None:
    swarm = Swarm()
    address, headers = await pulling(node_factory, swarm)
    answer = await exchange(address, post(headers, model=name, insecure=True))
    assert answer.status == 404
    assert json.loads(answer.body)["error"].startswith(f"model '{name}' not found")
    assert len(swarm.asked) == 1  # in the catalogue, which refuses such names


@pytest.mark.parametrize(
    "error", [Unavailable("the disk is full"), ProtocolError("what arrived is another file")]
)
async def test_pull_that_fails_ends_with_an_error(
    node_factory: NodeFactory, error: Exception
) -> None:
    swarm = Swarm(error)
    swarm.more.set()
    address, headers = await pulling(node_factory, swarm)
    answer = await exchange(address, post(headers, name="org/model"))
    *said, last = map(json.loads, answer.body.splitlines())
    assert (answer.status, last) == (200, {"error": str(error)})
    assert {"status": "success"} not in said
    whole = await exchange(address, post(headers, name="org/model", stream=False))
    assert (whole.status >= 500, json.loads(whole.body)) == (True, {"error": str(error)})
    assert swarm.released == 2


async def test_client_that_leaves_a_pull_pauses_it(node_factory: NodeFactory) -> None:
    swarm = Swarm()
    address, headers = await pulling(node_factory, swarm)
    async with connection(address) as (reader, writer):
        writer.write(post(headers, name="org/model"))
        line = await reader.readuntil(b'"completed":40}')
        assert b'"total":100' in line
    await wait_for(lambda: swarm.released == 1, 5)


async def test_pull_needs_the_role_operate(node_factory: NodeFactory) -> None:
    swarm = Swarm()
    node, address = await http_node(node_factory, ("gateway", GatewayPlugin()), ("swarm", swarm))
    for role, status in ("generate", 403), ("read", 403), (None, 401):
        token = await new_token(node, role) if role else "none"
        answer = await exchange(address, post({"Authorization": f"Bearer {token}"}, model="a/b"))
        assert answer.status == status
    assert swarm.asked == []
