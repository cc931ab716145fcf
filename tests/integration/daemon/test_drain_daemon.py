"""Drain in real nodes and daemons: what runs ends, what is new is refused, then the stop."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Any

import pytest

from aitorrentd.api import (
    BACKENDS,
    DIRECTORY,
    INFERENCE,
    Chunk,
    Draining,
    GenerateRequest,
    ShuttingDown,
)
from aitorrentd.daemon.daemon import Daemon as DaemonLife
from aitorrentd.node import Node
from aitorrentd.system.systemd import Notifier
from tests.support.inference_fakes import FakeBackend
from tests.support.nodes import REPOSITORY, Daemon, DaemonFactory, NodeFactory, wait_for
from tests.support.servers.http_server import Reply, Request
from tests.support.servers.ollama_server import FakeOllama

ALONE = {"shards": {"enabled": False}, "openai": {"enabled": False}}


@dataclass
class GatedOllama(FakeOllama):
    """Answers when `gate` is set."""

    gate: asyncio.Event = field(default_factory=asyncio.Event)

    async def _generate(self, request: Request, reply: Reply) -> None:
        await asyncio.wait_for(self.gate.wait(), 60)
        await super()._generate(request, reply)


def relay(server: FakeOllama) -> dict[str, Any]:
    inference = {"refresh_s": 0.1}
    return {"plugins": {**ALONE, "ollama": {"url": server.url}, "inference": inference}}


async def ctl(daemon: Daemon, *arguments: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "aitorrentd.cli.main",
        "--socket",
        str(daemon.socket),
        *arguments,
        env={**os.environ},
        cwd=REPOSITORY,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 60)
    return process.returncode or 0, out.decode(), err.decode()


async def busy_daemon(
    make: DaemonFactory, server: GatedOllama
) -> tuple[Daemon, asyncio.Task[tuple[int, str, str]]]:
    """A daemon with an answer under way, which ends when `server.gate` is set."""
    daemon = await make(relay(server))
    asking = asyncio.create_task(ctl(daemon, "ask", "Why is the sky blue?"))
    await wait_for(lambda: under_way(daemon), 30)
    return daemon, asking


async def under_way(daemon: Daemon) -> list[dict[str, Any]]:
    works: list[dict[str, Any]] = (await daemon.call("node.status"))["under_way"]
    return works


async def test_drain_lets_the_running_answer_end_and_refuses_a_new_one(
    daemon_factory: DaemonFactory,
) -> None:
    async with GatedOllama() as server:
        daemon, asking = await busy_daemon(daemon_factory, server)
        assert await under_way(daemon) == [{"plugin": "inference", "what": "answer", "count": 1}]
        code, out, _ = await ctl(daemon, "drain", "--timeout", "0.2")
        assert (code, out) == (
            75,
            "still draining: 1 answer running; see aitorrentctl status, or cancel with drain "
            "--undo\n",
        )
        code, _, err = await ctl(daemon, "ask", "And the sea?")
        assert code != 0
        assert "is draining and takes no new work" in err
        _, out, _ = await ctl(daemon, "status")
        assert "draining: no new work is accepted; 1 answer still running" in out
        draining = asyncio.create_task(ctl(daemon, "drain"))
        server.gate.set()
        code, out, _ = await asking
        assert (code, out.strip().splitlines()[0]) == (0, "The sky is blue")
        code, out, _ = await draining
        assert (code, out.startswith("drained: no work is running")) == (0, True)
        assert (await ctl(daemon, "drain", "--undo"))[:2] == (0, "taking new work again\n")
        assert (await ctl(daemon, "ask", "And the sea?"))[0] == 0


async def test_sigterm_lets_the_running_answer_end(daemon_factory: DaemonFactory) -> None:
    async with GatedOllama() as server:
        daemon, asking = await busy_daemon(daemon_factory, server)
        daemon.signal(signal.SIGTERM)
        await wait_for(lambda: daemon.notify.has("STATUS=finishing 1 answer"))
        assert daemon.notify.has("STOPPING=1")
        assert (await daemon.call("node.status"))["draining"]
        server.gate.set()
        code, out, _ = await asking
        assert (code, out.strip().splitlines()[0]) == (0, "The sky is blue")
        assert await daemon.ended() == 0


async def test_second_signal_cuts_the_drain_short_and_stops_in_order(
    daemon_factory: DaemonFactory,
) -> None:
    async with GatedOllama() as server:
        daemon, asking = await busy_daemon(daemon_factory, server)
        daemon.signal(signal.SIGTERM)
        await wait_for(lambda: daemon.notify.has("STATUS=finishing 1 answer"))
        daemon.signal(signal.SIGTERM)
        assert await daemon.ended(15) == 0
        assert "stopping without waiting any longer for 1 answer" in daemon.log()
        code, _, _ = await asking
        assert code != 0


async def test_peers_see_what_a_draining_node_offers_go_and_come_back(
    node_factory: NodeFactory,
) -> None:
    quick: dict[str, Any] = {
        "plugins": {**ALONE, "ollama": {"enabled": False}, "inference": {"refresh_s": 0.1}}
    }
    there, here = await node_factory.get(2, quick)
    backend = FakeBackend("fake")
    backend.gate = asyncio.Event()
    with there.service(BACKENDS).added("fake", backend):
        await here.connect(there.addresses()[0])
        await wait_for(lambda: offered(here))
        asked = asyncio.create_task(here.ask("hi"))
        await asyncio.wait_for(backend.asked.wait(), 10)
        with there.events(Draining) as events:
            draining = asyncio.create_task(there.drain(timeout_s=20))
            assert await anext(aiter(events)) == Draining(True)
            await wait_for(lambda: not offered(here))
            with pytest.raises(ShuttingDown, match="draining"):
                await there.ask("hi")
            assert not draining.done()
            backend.gate.set()
            assert await asked == "one two"
            assert await draining
            there.undrain()
            assert await anext(aiter(events)) == Draining(False)
        await wait_for(lambda: offered(here))
        assert await here.ask("hi") == "one two"


def offered(node: Node) -> list[str]:
    return [r.key for r in node.service(DIRECTORY).known("ait:cap:") if r.peer != node.id]


async def test_answer_that_is_given_up_is_not_waited_for(node_factory: NodeFactory) -> None:
    plugins = {**ALONE, "ollama": {"enabled": False}}
    node = await node_factory({"plugins": plugins})
    with node.service(BACKENDS).added("fake", FakeBackend("fake", hangs=True)):
        chunks = node.generate("hi")
        assert isinstance(chunks, AsyncGenerator)
        assert await anext(chunks) == Chunk("one ")
        assert not await node.drain(timeout_s=0)
        await chunks.aclose()
        assert await node.drain(timeout_s=0)
        with pytest.raises(ShuttingDown, match="draining"):
            await anext(aiter(node.service(INFERENCE).generate(GenerateRequest(prompt="hi"))))


async def test_stop_waits_only_so_long_for_work_that_hangs(node_factory: NodeFactory) -> None:
    node = node_factory.make({"plugins": {**ALONE, "ollama": {"enabled": False}}})
    running = asyncio.create_task(DaemonLife(node, Notifier(), drain_s=0.2).run())
    await wait_for(lambda: node.state == "running", 20)
    with node.service(BACKENDS).added("fake", FakeBackend("fake", hangs=True)):
        chunks = node.generate("hi")
        assert isinstance(chunks, AsyncGenerator)
        assert await anext(chunks) == Chunk("one ")
        node.stop_requested.set()
        await asyncio.wait_for(running, 15)
        assert node.state == "stopped"
        await chunks.aclose()


async def test_doctor_shows_the_daemons_findings_and_the_machines(
    daemon_factory: DaemonFactory,
) -> None:
    daemon = await daemon_factory({"plugins": {**ALONE, "ollama": {"enabled": False}}})
    _, out, _ = await ctl(daemon, "--json", "doctor")
    found = {check["name"]: check for check in json.loads(out)["checks"]}
    assert set(found) >= {"config", "secrecy", "plugins", "plugin-layer", "models"}
    assert found["control-socket"]["text"].startswith(f"a daemon answers at {daemon.socket}")
    assert found["control-socket"]["status"] == "ok"  # a user's own daemon needs no group
    _, out, _ = await ctl(daemon, "doctor", "--plugin", "inference")
    assert "plugin-layer" not in out
