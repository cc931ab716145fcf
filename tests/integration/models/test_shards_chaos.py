"""Killed and hung workers and daemons in the middle of answers, with real processes."""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from aitorrentd.errors import AitorrentError
from tests.support.nodes import REPOSITORY, Daemon, DaemonFactory, wait_for
from tests.support.shards.models import make_model
from tests.support.shards.shards_nodes import READY_S, reference_ids, shards_config

pytestmark = [pytest.mark.slow, pytest.mark.allow_error_log]

NEW = 160
PROMPT = "WHICH NODE HOLDS WHICH LAYERS"
QUICK = {"step_timeout_s": 5.0, "ping_timeout_s": 5.0, "resume_timeout_s": 60.0}


class Network:
    """Daemons that hold layers; the first one asks."""

    def __init__(self, daemons: list[Daemon]) -> None:
        self.daemons = daemons
        self.gone: list[Daemon] = []
        "Killed or stopped by the test."

    async def complete(self) -> None:
        """Wait until the layers of every daemon that was not stopped are there."""

        async def all_there() -> Any:
            return len(await self.spans()) == len(self.daemons) - len(self.gone)

        await wait_for(all_there, READY_S, every_s=0.2)

    async def spans(self) -> list[dict[str, Any]]:
        """What the asking daemon knows of the layers' holders."""
        found: list[dict[str, Any]] = (await self.daemons[0].call("shards.spans"))["spans"]
        return found

    async def workers(self, daemon: Daemon) -> list[int]:
        """Process ids of a daemon's workers."""
        models = (await daemon.call("shards.models"))["models"]
        return [m["pid"] for m in models if m["pid"]]

    async def ask(
        self, at: int = -1, act: Callable[[], Awaitable[None]] | None = None
    ) -> list[int]:
        """The ids of a greedy answer; after `at` of them, `act` is done."""
        params = {"max_tokens": NEW, "temperature": 0.0}
        ids: list[int] = []
        async with await self.daemons[0].client(120) as client:
            stream = client.stream(
                "inference.generate", {"model": "m", "prompt": PROMPT, "params": params}
            )
            async for item in stream:
                ids += item["token_ids"]
                if act is not None and len(ids) > at:
                    await act()
                    act = None
        return ids


@pytest.fixture
async def network(
    daemon_factory: DaemonFactory, tmp_path: Path, request: pytest.FixtureRequest
) -> AsyncIterator[tuple[Network, list[int]]]:
    """Daemons that hold the layers in `request.param`, and the ids that they must answer."""
    path = make_model(tmp_path / "m")
    daemons: list[Daemon] = []
    for layers in request.param:
        known = [(await d.call("node.id"))["addresses"][0] for d in daemons]
        patience = {"resume_timeout_s": 3.0} if len(request.param) == 2 else {}
        config = shards_config(path, layers, **(QUICK | patience))
        config["plugins"]["transport"] = {"bootstrap": known}
        daemons.append(await daemon_factory(config))
    net = Network(daemons)

    await net.complete()
    ids = [ord(c) - 33 if c != " " else 220 for c in PROMPT]
    yield net, reference_ids(path, ids, NEW)


TWICE = ["0-2", "2-4", "4-6", "2-6"]
NOTICE = re.compile(
    r"\[lost layers \d+-\d+ with ….{8}(, layers .*)?; waiting up to \d+ s for another holder\]"
)
"All layers but the first two are held twice, by spans that do not match."


async def holder(net: Network, start: int) -> Daemon:
    """The daemon that computes the layers from `start` for the answer under way."""
    there = [daemon for daemon in net.daemons[1:] if daemon not in net.gone]
    found = await asyncio.gather(*(daemon.call("shards.sessions") for daemon in there))
    for daemon, known in zip(there, found, strict=True):
        if any(s["start"] == start for s in known["sessions"]):
            return daemon
    raise AssertionError(f"nobody computes the layers from {start}")


@pytest.mark.parametrize("network", [TWICE], indirect=True)
async def test_killed_workers_and_daemons_change_no_token(
    network: tuple[Network, list[int]],
) -> None:
    net, expected = network
    rng = random.Random(5)
    assert await net.ask() == expected

    async def kill_first_worker() -> None:
        os.kill((await net.workers(net.daemons[0]))[0], signal.SIGKILL)

    async def kill_worker() -> None:
        os.kill((await net.workers(await holder(net, 2)))[0], signal.SIGKILL)

    async def kill_daemon() -> None:
        net.gone.append(await holder(net, 2))
        net.gone[-1].signal(signal.SIGKILL)

    for act in (kill_first_worker, kill_worker, kill_worker, kill_daemon):
        await net.complete()
        assert await net.ask(rng.randrange(NEW // 6), act) == expected


@pytest.mark.parametrize("network", [TWICE], indirect=True)
async def test_hung_worker_and_hung_daemon_change_no_token(
    network: tuple[Network, list[int]],
) -> None:
    net, expected = network

    async def hang_worker() -> None:
        os.kill((await net.workers(await holder(net, 2)))[0], signal.SIGSTOP)

    async def hang_daemon() -> None:
        net.gone.append(await holder(net, 2))
        net.gone[-1].signal(signal.SIGSTOP)

    for act in (hang_worker, hang_daemon):
        await net.complete()
        assert await net.ask(7, act) == expected


async def asked_by_command(
    daemon: Daemon, at: int, act: Callable[[], Awaitable[None]]
) -> tuple[int, list[int], str]:
    """`aitorrentctl ask` as a process; `act` is done when it printed `at` tokens.

    Its exit code, the token ids that it printed, and its standard error.
    """
    command = [sys.executable, "-m", "aitorrentd.cli.main", "--socket", str(daemon.socket)]
    command += ["ask", "--json", "-m", "m", "--temperature", "0", "--max-tokens", str(NEW), PROMPT]
    process = await asyncio.create_subprocess_exec(
        *command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=REPOSITORY
    )
    assert process.stdout is not None
    ids: list[int] = []
    acted = False
    async with asyncio.timeout(90):
        while line := await process.stdout.readline():
            ids += json.loads(line).get("token_ids", [])
            if not acted and len(ids) > at:
                await act()
                acted = True
        _, err = await process.communicate()
    assert process.returncode is not None
    assert acted
    return process.returncode, ids, err.decode()


@pytest.mark.parametrize("network", [TWICE], indirect=True)
async def test_answer_on_the_command_line_is_the_same_with_a_killed_stage(
    network: tuple[Network, list[int]],
) -> None:
    net, expected = network
    rng = random.Random(6)

    async def kill_own_worker() -> None:
        os.kill((await net.workers(net.daemons[0]))[0], signal.SIGKILL)

    async def kill_daemon() -> None:
        net.gone.append(await holder(net, 2))
        net.gone[-1].signal(signal.SIGKILL)

    for act in (kill_own_worker, kill_daemon):
        await net.complete()
        code, ids, err = await asked_by_command(net.daemons[0], rng.randrange(NEW // 4), act)
        assert (code, ids) == (0, expected)
        # The loss is told beside the answer, and nothing else is.
        assert [line for line in err.splitlines() if not NOTICE.fullmatch(line)] == []


@pytest.mark.parametrize("network", [["0-3", "3-6"]], indirect=True)
async def test_command_ends_with_an_error_when_layers_are_lost_for_good(
    network: tuple[Network, list[int]],
) -> None:
    net, expected = network

    async def kill_daemon() -> None:
        (await holder(net, 3)).signal(signal.SIGKILL)

    code, ids, err = await asked_by_command(net.daemons[0], 4, kill_daemon)
    assert code == 1
    assert ids == expected[: len(ids)]
    assert len(ids) < NEW
    assert "no other node offered them within" in err
    assert any(NOTICE.fullmatch(line) for line in err.splitlines())


@pytest.mark.parametrize("network", [["0-3", "3-6"]], indirect=True)
async def test_lost_layers_without_another_holder_end_in_an_error(
    network: tuple[Network, list[int]],
) -> None:
    net, _ = network

    async def kill_daemon() -> None:
        (await holder(net, 3)).signal(signal.SIGKILL)

    with pytest.raises(AitorrentError, match=r"lost with layers 3-6 of m; no other node offered"):
        await net.ask(4, kill_daemon)

    async def freed() -> Any:
        return not (await net.daemons[0].call("shards.sessions"))["sessions"]

    await wait_for(freed, 5)
