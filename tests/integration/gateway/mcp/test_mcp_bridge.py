"""`aitorrentctl mcp` line by line: nothing but answers on its standard output, whatever happens."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.gateway_nodes import gateway_node
from tests.support.inference_fakes import FakeBackend
from tests.support.nodes import DaemonFactory, NodeFactory, wait_for

CTL = str(Path(sys.executable).parent / "aitorrentctl")


class Bridge:
    """A running bridge."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    def send(self, *lines: Any) -> None:
        assert self.process.stdin is not None
        for line in lines:
            raw = line if isinstance(line, bytes) else json.dumps(line).encode()
            self.process.stdin.write(raw + b"\n")

    async def next(self) -> Any:
        assert self.process.stdout is not None
        async with asyncio.timeout(60):
            line = await self.process.stdout.readline()
        return json.loads(line)

    async def ask(self, method: str, ident: Any = 1, **params: Any) -> Any:
        self.send({"jsonrpc": "2.0", "id": ident, "method": method, "params": params})
        answer = await self.next()
        assert answer["id"] == ident
        return answer.get("result", answer.get("error"))


@asynccontextmanager
async def bridge(control: Path) -> AsyncIterator[Bridge]:
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *(CTL, "--socket", str(control), "mcp"), stdin=pipe, stdout=pipe, stderr=pipe, limit=2**24
    )
    try:
        yield Bridge(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


def generate(ident: Any) -> dict[str, Any]:
    call = {"name": "generate", "arguments": {"prompt": "hi", "model": "m"}}
    return {"jsonrpc": "2.0", "id": ident, "method": "tools/call", "params": call}


async def test_hostile_lines_and_cancellation(node_factory: NodeFactory, control: Path) -> None:
    backend = FakeBackend("f", hangs=True)
    await gateway_node(node_factory, backend, control=control)
    async with bridge(control) as ours:
        ours.send(b"{", b"", b"\xff\xfe", b"[]", b"null", b"x" * (2**20 + 10))
        codes = [(await ours.next())["error"]["code"] for _ in range(5)]
        assert sorted(codes) == [-32700, -32700, -32700, -32600, -32600]
        ours.send({"jsonrpc": "2.0", "id": "long", "method": "ping", "params": {"a": "x" * 2**20}})
        assert (await ours.next())["id"] == "long"
        # Neither of these is answered.
        ours.send(
            {"jsonrpc": "2.0", "method": "notifications/initialized"},
            {"jsonrpc": "2.0", "id": 5, "result": {}},
            {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 99}},
        )
        assert await ours.ask("ping", "ü\u2028") == {}
        ours.send(generate(1), generate("1"))
        await wait_for(lambda: backend.running == 2)
        told = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}}
        ours.send(told)
        await wait_for(lambda: backend.running == 1)
        assert await ours.ask("ping", 2) == {}
        ours.send(generate("1"))
        assert "is open" in (await ours.next())["error"]["message"]
        assert ours.process.stdin is not None
        ours.process.stdin.close()
        await wait_for(lambda: backend.running == 0, 15)
        out, err = await ours.process.communicate()
        assert (out, err, ours.process.returncode) == (b"", b"", 0)


async def test_a_daemon_that_is_down_is_told_on_stderr(tmp_path: Path) -> None:
    async with bridge(tmp_path / "none.sock") as ours:
        out, err = await ours.process.communicate(b"")
    assert out == b""
    assert b"no daemon at" in err
    assert ours.process.returncode not in (0, None)


async def test_standard_input_that_is_no_pipe(
    node_factory: NodeFactory, control: Path, tmp_path: Path
) -> None:
    await gateway_node(node_factory, FakeBackend("f"), control=control)
    asked = tmp_path / "asked"
    asked.write_text(json.dumps({"jsonrpc": "2.0", "id": 1, "method": "ping"}) + "\n")
    for path, answers in ((asked, [{"jsonrpc": "2.0", "id": 1, "result": {}}]), ("/dev/null", [])):
        stdin, pipe = os.open(path, os.O_RDONLY), asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            *(CTL, "--socket", str(control), "mcp"), stdin=stdin, stdout=pipe, stderr=pipe
        )
        os.close(stdin)
        try:
            async with asyncio.timeout(20):
                out, err = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
        assert [json.loads(line) for line in out.splitlines()] == answers
        assert (err, process.returncode) == (b"", 0)


async def test_the_daemon_may_be_restarted(daemon_factory: DaemonFactory) -> None:
    daemon = await daemon_factory()
    async with bridge(daemon.socket) as ours:
        await daemon.call("node.wait")
        before = await ours.ask("tools/call", name="node_status")
        assert await daemon.stop() == 0

        async def answered() -> Any:
            found = await ours.ask("tools/call", name="node_status")
            return found if "structuredContent" in found else None  # it gave up: a slow machine

        again = asyncio.create_task(wait_for(answered, 60))
        await daemon_factory(directory=daemon.directory)
        after = await again
    pids = [each["structuredContent"]["result"]["pid"] for each in (before, after)]
    assert pids[0] != pids[1]


@pytest.mark.parametrize("text", ["a\u2028b\u0085c", "日本語" * 30_000])
async def test_lines_end_only_where_messages_do(
    node_factory: NodeFactory, control: Path, text: str
) -> None:
    backend = FakeBackend("f", words=(text,))
    await gateway_node(node_factory, backend, control=control)
    async with bridge(control) as ours:
        ours.send(generate(1))
        answer = (await ours.next())["result"]["content"][0]["text"]
        assert len(answer) == len(text)
        assert answer.startswith(text[:1])
