"""Nodes in this process that share files, and what they tell of transfers."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aitorrentd import Node
from aitorrentd.api import TRANSPORT, Event, FileReady, PeerId, TransferFailed, TransferSucceeded
from aitorrentd.api.models.weights import WEIGHTS, Weights
from aitorrentd.api.tasks import beside
from tests.support.nodes import Daemon, NodeFactory, wait_for
from tests.support.seeding.daemons import settings


async def sharing_node(
    factory: NodeFactory, *hubs: str, state_dir: Path | None = None, **over: Any
) -> Node:
    """A node that is connected to the nodes at these addresses."""
    tables = {
        "transport": {"bootstrap": list(hubs)},
        "dht": {"enabled": False},
        "seeding": settings(**over),
    }
    made = await factory({"plugins": tables}, state_dir=state_dir)
    if hubs:
        await wait_for(lambda: len(made.kernel.service(TRANSPORT).peers()) >= len(hubs), 10)
    return made


def address_of(node: Node) -> str:
    """Where to connect to a node."""
    return next(iter(node.kernel.service(TRANSPORT).addresses()))


def weights(of: Node) -> Weights:
    """Its service."""
    return of.kernel.service(WEIGHTS)


class Told:
    """What a node told of transfers."""

    def __init__(self) -> None:
        self.succeeded: list[TransferSucceeded] = []
        self.failed: list[TransferFailed] = []

    def bytes_by(self, direction: str) -> Counter[PeerId]:
        """Sums for each node."""
        sums: Counter[PeerId] = Counter()
        for event in self.succeeded:
            if event.direction == direction:
                sums[event.peer] += event.size_bytes
        return sums

    def note(self, event: Event) -> None:
        """One more event."""
        if isinstance(event, TransferSucceeded):
            self.succeeded.append(event)
        elif isinstance(event, TransferFailed):
            self.failed.append(event)

    async def listen(self, events: AsyncIterator[Event]) -> None:
        """Note events, until cancelled."""
        while True:
            self.note(await anext(events))

    async def follow(self, daemon: Daemon, listening: asyncio.Event) -> None:
        """Note what a daemon tells whoever follows its events, until cancelled."""
        topics = [TransferSucceeded.topic, TransferFailed.topic, FileReady.topic]
        async with await daemon.client(600.0) as client:
            events = client.stream("node.events", {"topics": topics})
            listening.set()
            async for item in events:
                if item["topic"] == TransferSucceeded.topic:
                    self.note(TransferSucceeded(**item["event"]))
                elif item["topic"] == TransferFailed.topic:
                    self.note(TransferFailed(**item["event"]))


@asynccontextmanager
async def told_by(node: Node) -> AsyncIterator[Told]:
    """What it tells while the block runs."""
    told = Told()
    with node.events(TransferSucceeded, TransferFailed) as events:
        async with beside(told.listen(events), "what a node tells"):
            yield told


@asynccontextmanager
async def told_by_daemon(daemon: Daemon) -> AsyncIterator[Told]:
    """The same of a process, by `node.events`."""
    told, listening = Told(), asyncio.Event()
    async with beside(told.follow(daemon, listening), "what a daemon tells"):
        await listening.wait()
        yield told
