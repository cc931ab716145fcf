"""Models that leave memory and return, by Ollama's own clients, the command line, and time."""

from __future__ import annotations

import asyncio
import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import ollama
import pytest

from aitorrentd.node import Node
from tests.integration.gateway.ollama.test_ollama_sdk import ASKED, GREEDY, TEMPLATE, client_of
from tests.support import cli_runs
from tests.support.clients.javascript_programs import run_javascript
from tests.support.clients.raw_http import exchange, request
from tests.support.http_nodes import called, new_token, served
from tests.support.nodes import NodeFactory, wait_for
from tests.support.shards.models import make_model
from tests.support.shards.shards_nodes import READY_S, shards_config, shards_network, spans_seen

JSON = {"Content-Type": "application/json"}
LEAVES_S = 30.0


async def two_nodes(factory: NodeFactory, tmp_path: Path) -> tuple[Node, Node, str]:
    """Two nodes with half of the model m each, and the address of the first."""
    path = make_model(tmp_path / "m")
    (path / "chat_template.jinja").write_text(TEMPLATE)
    mine, other = await shards_network(factory, path, ("0-3", "3-6"))
    return mine, other, await served(mine)


async def pid_of(node: Node) -> int | None:
    """The process that holds the layers of a node."""
    (row,) = (await called(node, "shards.models"))["models"]
    pid: int | None = row["pid"]
    return pid


def is_there(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


async def is_gone(pid: int) -> None:
    """Wait until a process is gone, with its memory."""
    await wait_for(lambda: not is_there(pid), LEAVES_S)


async def test_the_python_client_unloads_and_loads(
    node_factory: NodeFactory, tmp_path: Path
) -> None:
    mine, other, address = await two_nodes(node_factory, tmp_path)
    tokens = {role: await new_token(mine, role) for role in ("generate", "operate")}
    async with (
        client_of(f"http://{address}") as anyone,
        client_of(f"http://{address}", tokens["generate"]) as user,
        client_of(f"http://{address}", tokens["operate"]) as operator,
    ):
        expected = (await anyone.chat("m", ASKED, options=GREEDY)).message.content
        pid = await pid_of(mine)
        assert pid is not None and is_there(pid)
        for client, status in ((anyone, 401), (user, 403)):
            with pytest.raises(ollama.ResponseError, match="unauthorized: unloading") as refused:
                await client.generate("m", keep_alive=0)
            assert refused.value.status_code == status
        assert is_there(pid)

        gone = await operator.generate("m", keep_alive=0)
        assert (gone.done, gone.done_reason, gone.response) == (True, "unload", "")
        assert not is_there(pid)  # its memory is free when the answer comes
        assert not (await anyone.ps()).models
        assert [model.model for model in (await anyone.list()).models] == ["m:latest"]
        await wait_for(lambda: spans_seen(other) == 1, READY_S)
        assert (await operator.chat("m:latest", [], keep_alive="0s")).done_reason == "unload"

        assert (await anyone.generate("m")).done_reason == "load"
        loaded = await pid_of(mine)
        assert loaded is not None and is_there(loaded)
        (listed,) = (await anyone.ps()).models
        assert listed.size_vram == 0
        assert listed.expires_at is not None and listed.expires_at.year == 9999
        await wait_for(lambda: spans_seen(other) == 2, READY_S)

        # After an answer, and back with the next one.
        answer = await operator.chat("m", ASKED, options=GREEDY, keep_alive=0)
        assert (answer.message.content, answer.load_duration) == (expected, 0)
        await is_gone(loaded)
        again = [part async for part in await anyone.chat("m", ASKED, options=GREEDY, stream=True)]
        assert "".join(part.message.content or "" for part in again) == expected
        last = again[-1]
        spent = (last.load_duration, last.prompt_eval_duration, last.eval_duration)
        assert all(spent)
        rounded_ns = 3
        assert sum(each or 0 for each in spent) <= (last.total_duration or 0) + rounded_ns


async def test_whoever_may_not_decide_gets_the_answer_and_is_told(
    node_factory: NodeFactory, tmp_path: Path
) -> None:
    mine, _, address = await two_nodes(node_factory, tmp_path)
    pid = await pid_of(mine)
    assert pid is not None
    for more, keep in (({}, 0), ({"zz": 1}, "10m"), ({"stream": False}, "0")):
        fields = {"model": "m", "messages": ASKED, "options": GREEDY, "keep_alive": keep}
        body = json.dumps(fields | more).encode()
        answer = await exchange(address, request("POST", "/api/chat", JSON, body))
        assert answer.status == 200
        assert json.loads(answer.body.splitlines()[-1])["done_reason"] == "length"
        named = "zz, keep_alive" if "zz" in more else "keep_alive"
        assert answer.headers["x-aitorrent-ignored"] == named
    listed = json.loads((await exchange(address, request("GET", "/api/ps"))).body)["models"]
    assert listed[0]["expires_at"].startswith("9999")
    assert is_there(pid)


async def test_idle_model_leaves_when_an_operator_said_so(
    node_factory: NodeFactory, tmp_path: Path
) -> None:
    mine, _, address = await two_nodes(node_factory, tmp_path)
    async with client_of(f"http://{address}", await new_token(mine, "operate")) as operator:
        for keep, length in (("1h", timedelta(hours=1)), (600, timedelta(minutes=10))):
            await operator.chat("m", ASKED, options=GREEDY, keep_alive=keep)
            (listed,) = (await operator.ps()).models
            assert listed.expires_at is not None
            left = listed.expires_at - datetime.now(UTC)
            assert length - timedelta(minutes=1) < left <= length
        assert (await operator.generate("m", keep_alive=-1)).done_reason == "load"
        (listed,) = (await operator.ps()).models
        assert listed.expires_at is not None and listed.expires_at.year == 9999
        pid = await pid_of(mine)
        assert pid is not None
        await operator.generate("m", keep_alive=0.1)
        await is_gone(pid)
        assert not (await operator.ps()).models


async def test_running_answers_end_before_the_model_leaves(
    node_factory: NodeFactory, tmp_path: Path
) -> None:
    """One of this node, and one of the other, which uses this node's layers."""
    mine, other, address = await two_nodes(node_factory, tmp_path)
    long = GREEDY | {"num_predict": 200}
    addresses = (address, await served(other))
    async with client_of(f"http://{address}", await new_token(mine, "operate")) as operator:
        async with client_of(f"http://{address}") as client:
            expected = (await client.chat("m", ASKED, options=long)).message.content
        for asked in addresses:
            pid = await pid_of(mine)
            assert pid is not None
            async with client_of(f"http://{asked}") as client:
                parts = await client.chat("m", ASKED, options=long, stream=True)
                text = (await anext(parts)).message.content or ""
                unloading = asyncio.create_task(operator.generate("m", keep_alive=0))
                async for part in parts:
                    text += part.message.content or ""
            assert text == expected
            assert (await unloading).done_reason == "unload"
            assert not is_there(pid)
            await operator.generate("m")
            await wait_for(lambda: spans_seen(other) == 2, READY_S)


PROGRAM = """
import { Ollama } from 'ollama'
const [host, token] = process.argv.slice(2)
const client = new Ollama({ host })
const operator = new Ollama({ host, headers: { Authorization: `Bearer ${token}` } })
const found = {}
await client.generate({ model: 'm', keep_alive: 0 })
  .catch(error => { found.refused = [error.status_code, error.message] })
found.unload = (await operator.generate({ model: 'm', keep_alive: 0 })).done_reason
found.empty = (await client.ps()).models.length
found.again = (await operator.chat({ model: 'm', messages: [], keep_alive: '0' })).done_reason
found.load = (await client.generate({ model: 'm', prompt: '', keep_alive: '5m' })).done_reason
found.there = (await client.ps()).models.map(each => each.name)
await operator.copy({ source: 'm', destination: 'js' })
const options = { num_predict: 2 }
found.copied = (await client.generate({ model: 'js', prompt: 'A', options })).done
await operator.delete({ model: 'js' })
found.left = (await client.list()).models.map(each => each.name)
console.log(JSON.stringify(found))
"""


async def test_the_javascript_client_unloads_loads_and_copies(
    node_factory: NodeFactory, tmp_path: Path
) -> None:
    mine, _, address = await two_nodes(node_factory, tmp_path)
    pid = await pid_of(mine)
    out = await run_javascript(PROGRAM, f"http://{address}", await new_token(mine, "operate"))
    found: dict[str, Any] = json.loads(out)
    assert pid is not None and not is_there(pid)
    assert found.pop("refused")[0] == 401
    assert found == {
        "unload": "unload",
        "empty": 0,
        "again": "unload",
        "load": "load",
        "there": ["m:latest"],
        "copied": True,
        "left": ["m:latest"],
    }


async def test_the_command_line_unloads_and_loads(
    node_factory: NodeFactory, tmp_path: Path
) -> None:
    socket = tmp_path / "control.sock"
    config = shards_config(make_model(tmp_path / "m"), "all")
    node = await node_factory(config | {"control": {"socket": str(socket)}})

    async def states() -> list[str]:
        return [row["state"] for row in (await called(node, "shards.models"))["models"]]

    # It may still be read.
    code, out, _ = await cli_runs.run(socket, "model", "load", "m", env=dict(os.environ))
    assert (code, out.strip()) == (0, "model m is ready")
    pid = await pid_of(node)
    assert pid is not None and is_there(pid)
    code, out, _ = await cli_runs.run(socket, "model", "unload", "m", env=dict(os.environ))
    assert (code, out.strip()) == (0, "model m is unloaded")
    assert not is_there(pid)
    assert await states() == ["unloaded"]
    code, out, _ = await cli_runs.run(socket, "model", "list", "--json", env=dict(os.environ))
    (row,) = json.loads(out)["models"]
    assert (row["state"], row["pid"], row["weight_bytes"]) == ("unloaded", None, 0)
    code, out, _ = await cli_runs.run(socket, "models", env=dict(os.environ))
    assert "not in memory here until a request needs it" in out
    code, out, _ = await cli_runs.run(socket, "model", "load", "m", env=dict(os.environ))
    assert (code, out.strip()) == (0, "model m is ready")
    code, _, err = await cli_runs.run(socket, "model", "unload", "x", env=dict(os.environ))
    assert (code, "there is no model x; this node has: m" in err) == (1, True)
