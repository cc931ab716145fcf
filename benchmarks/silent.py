"""What 1,000 silent HTTP connections cost a running answer of a split model.

    python -m benchmarks.silent [--rounds 21] [--new 200] [--out FILE]

Two nodes hold half of a small model each; the first one answers and has the HTTP server. A process
of its own opens 1,000 connections from 16 addresses and sends nothing. Rounds with and without them
alternate, once the connections are open: what opening them costs is a figure of its own. The
ratios of tokens per second and of CPU time per token are the result. At the end it is measured when
the server has closed the last of them.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import select
import socket
import statistics
import tempfile
import time
from contextlib import AsyncExitStack
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from aitorrentd.api import Role
from aitorrentd.methods.inside import InsideDoor
from aitorrentd.node import Node
from benchmarks.report import finish, spread

CONNECTIONS = 1000
ADDRESSES = 16
SETTLE_S = 0.5
"In which the server accepts those for which it has room, and closes the others."
SPLITS = ("0-3", "3-6")


def silent(port: int, pipe: Connection) -> None:
    """Open the connections, tell so, and close them when told; or tell when all were closed."""
    held = []
    for i in range(CONNECTIONS):
        sock = socket.socket()
        sock.bind((f"127.0.0.{1 + i % ADDRESSES}", 0))
        sock.connect(("127.0.0.1", port))
        held.append(sock)
    pipe.send(len(held))
    if pipe.recv() == "wait":
        began, left = time.monotonic(), {sock.fileno(): sock for sock in held}
        poll = select.poll()
        for number in left:
            poll.register(number, select.POLLIN)
        while left:
            for number, _ in poll.poll(1000):
                if not left[number].recv(4096):
                    poll.unregister(number)
                    del left[number]
            if time.monotonic() - began > 60:
                break
        pipe.send((time.monotonic() - began, len(left)))
    for sock in held:
        sock.close()


class Attacker:
    """The process with the silent connections."""

    def __init__(self, port: int) -> None:
        self.pipe, theirs = multiprocessing.Pipe()
        context = multiprocessing.get_context("spawn")
        self.process = context.Process(target=silent, args=(port, theirs), daemon=True)
        self.process.start()

    async def heard(self) -> Any:
        """What it tells next."""
        return await asyncio.to_thread(self.pipe.recv)

    async def told(self, what: str) -> None:
        """Tell it to go on."""
        self.pipe.send(what)
        if what == "stop":
            await asyncio.to_thread(self.process.join)


async def speed(node: Node, new: int) -> tuple[float, float]:
    """Of one answer: tokens per second from its first token to its last, and CPU time of a token in
    the nodes' process in ms, which other load on the machine does not change."""
    last: Any = None
    began = time.process_time()
    async for chunk in node.generate("AB", model="m", temperature=0.0, max_tokens=new):
        last = chunk
    cpu_ms = (time.process_time() - began) * 1e3 / last.completion_tokens
    return float(last.extra["tokens_per_s"]), cpu_ms


async def started(stack: AsyncExitStack, path: Path) -> tuple[list[Node], int]:
    """The nodes, connected, and the HTTP port of the first."""
    nodes = []
    for layers in SPLITS:
        model = {"name": "m", "path": str(path), "layers": layers}
        plugins: dict[str, Any] = {"shards": {"models": [model]}, "http": {"port": 0}}
        for name in ("ollama", "openai", "discovery", "dht", "nat", "hub"):
            plugins[name] = {"enabled": False}
        nodes.append(await stack.enter_async_context(Node.temporary({"plugins": plugins})))
    await nodes[1].connect(nodes[0].addresses()[0])
    await nodes[0].wait_for_model("m")
    status = await InsideDoor(nodes[0]).caller(Role.ADMIN).call("http.status")
    return nodes, int(status["listening"][0].rpartition(":")[2])


async def measured(rounds: int, new: int) -> dict[str, Any]:
    """All figures."""
    # Not at the top, where the process with the connections would wait for torch, too.
    from tests.support.shards.models import make_model

    with tempfile.TemporaryDirectory() as directory:
        path = make_model(Path(directory) / "m")
        async with AsyncExitStack() as stack:
            nodes, port = await started(stack, path)
            await speed(nodes[0], new)
            without, beside, opening = [], [], []
            for _ in range(rounds):
                without.append(await speed(nodes[0], new))
                attacker, began = Attacker(port), time.process_time()
                await attacker.heard()
                await asyncio.sleep(SETTLE_S)
                opening.append((time.process_time() - began) * 1e3)
                beside.append(await speed(nodes[0], new))
                await attacker.told("stop")
            attacker = Attacker(port)
            await attacker.heard()
            await attacker.told("wait")
            closed_s, left = await attacker.heard()
    by_speed = [b[0] / a[0] for a, b in zip(without, beside, strict=True)]
    by_cpu = [b[1] / a[1] for a, b in zip(without, beside, strict=True)]
    return {
        "connections": CONNECTIONS,
        "opening_them_cpu_ms": spread(opening),
        "tokens_per_s": {
            "without": spread([fast for fast, _ in without]),
            "beside": spread([fast for fast, _ in beside]),
            "ratio": round(statistics.median(by_speed), 3),
        },
        "cpu_ms_per_token": {
            "without": spread([cpu for _, cpu in without]),
            "beside": spread([cpu for _, cpu in beside]),
            "ratio": round(statistics.median(by_cpu), 3),
        },
        "all_closed_after_s": round(closed_s, 1),
        "left_open": left,
    }


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--new", type=int, default=200)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    finish(asyncio.run(measured(args.rounds, args.new)), args.out)


if __name__ == "__main__":
    main()
