"""Backends, a directory, a transport and a clock without a network, for tests of the router."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from aitorrent_inference.catalogue import Catalogue
from aitorrent_inference.config import InferenceConfig
from aitorrent_inference.router import Router
from aitorrent_inference.serve import GenerateHandler
from aitorrentd.api import (
    AitorrentError,
    Backend,
    Chunk,
    Event,
    GenerateRequest,
    ModelView,
    NotFound,
    PeerId,
    PeerView,
    PendingModel,
    Priority,
    Record,
    Registry,
    Stream,
    Transport,
    Unavailable,
    peer_id,
)
from tests.support.clocks import FakeClock
from tests.support.transport.streams import MemoryStream, stream_pair

log = logging.getLogger("test.inference")


def node_id(n: int) -> PeerId:
    """A valid peer id for tests, one per number."""
    return peer_id(random.Random(n).randbytes(32))


class FakeBackend:
    """Answers with fixed words, then ends, fails, hangs or stops midway, as configured."""

    def __init__(
        self,
        name: str,
        models: Sequence[str] = ("m",),
        words: Sequence[str] = ("one ", "two"),
        *,
        fails: AitorrentError | None = None,
        hangs: bool = False,
        forgets_done: bool = False,
        down: AitorrentError | None = None,
        last: Chunk | None = None,
    ) -> None:
        self._name = name
        self.model_names = list(models)
        self.words = words
        self.fails = fails
        self.hangs = hangs
        self.forgets_done = forgets_done
        self.down = down
        self.last = last
        self.requests: list[GenerateRequest] = []
        self.asked = asyncio.Event()
        "Set when the first request arrived."
        self.running = 0
        self.stopped = asyncio.Event()
        "Set when an answer was closed early."
        self.gate: asyncio.Event | None = None
        "If given, every answer waits for it before its first word."

    @property
    def name(self) -> str:
        return self._name

    async def models(self) -> Sequence[ModelView]:
        if self.down is not None:
            raise self.down
        return [ModelView(name, self._name, family="fake") for name in self.model_names]

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Chunk, None]:
        self.requests.append(request)
        self.running += 1
        self.asked.set()
        complete = False
        try:
            if request.model not in self.model_names:
                raise NotFound(f"{self._name} has no {request.model!r}")
            if self.gate is not None:
                await self.gate.wait()
            for word in self.words:
                yield Chunk(word)
            if self.hangs:
                await asyncio.Event().wait()
            if self.fails is not None:
                raise self.fails
            complete = True
            if not self.forgets_done:
                yield self.last or Chunk(
                    "",
                    done=True,
                    reason="stop",
                    prompt_tokens=3,
                    completion_tokens=len(self.words),
                    context=(1, 2, 3),
                )
        finally:
            self.running -= 1
            if not complete:
                self.stopped.set()


class LoadingBackend(FakeBackend):
    """Has models that are not ready yet."""

    def __init__(self, name: str, *pending: PendingModel, models: Sequence[str] = ()) -> None:
        super().__init__(name, models)
        self.waiting = list(pending)
        self.looked = 0
        self.ready_after: int | None = None
        "The number of queries after which everything is loaded."

    def pending(self) -> Sequence[PendingModel]:
        self.looked += 1
        if self.ready_after is not None and self.looked > self.ready_after:
            self.model_names += [p.name for p in self.waiting]
            self.waiting = []
        return self.waiting


def loading(name: str = "m", done: int = 30, backend: str = "shards") -> PendingModel:
    text = "layers 0-3 are loading here (30%)"
    return PendingModel(name, backend, "loading", text, done, 100)


LACKING = PendingModel(
    "big", "shards", "incomplete", "no reachable node holds layers 3-6 of big", missing=((3, 6),)
)


class FakeDirectory:
    """Records in a dict; several nodes share `records`."""

    def __init__(self, me: PeerId, records: dict[tuple[str, PeerId], Record]) -> None:
        self.me = me
        self.records = records
        self.elsewhere: list[Record] = []
        "Records that only `find` returns."

    def publish(self, key: str, value: Mapping[str, Any]) -> None:
        self.records[key, self.me] = Record(key, self.me, dict(value))

    def withdraw(self, key: str) -> None:
        self.records.pop((key, self.me), None)

    def known(self, prefix: str) -> Sequence[Record]:
        return [r for r in self.records.values() if r.key.startswith(prefix)]

    async def find(self, key: str, *, timeout_s: float = 5.0) -> Sequence[Record]:
        both = [*self.records.values(), *self.elsewhere]
        return [r for r in both if r.key == key]


Handler = Callable[[Stream], Awaitable[None]]


@dataclass
class Net:
    """A set of nodes that reach each other through in-memory streams."""

    handlers: dict[PeerId, Handler] = field(default_factory=dict)
    records: dict[tuple[str, PeerId], Record] = field(default_factory=dict)
    rtts: dict[PeerId, float | None] = field(default_factory=dict)
    opened: list[PeerId] = field(default_factory=list)
    "The peers asked, in order."
    streams: list[MemoryStream] = field(default_factory=list)
    "The askers' stream ends."
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def serve(self, handler: Handler, stream: MemoryStream) -> None:
        try:
            await handler(stream)
        except AitorrentError as e:
            stream.reset(e.message)

    async def close(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


class FakeTransport:
    """A transport over a `Net`."""

    def __init__(self, me: PeerId, net: Net) -> None:
        self.me = me
        self.net = net
        self.pinged: list[PeerId] = []

    @property
    def node_id(self) -> PeerId:
        return self.me

    def addresses(self) -> Sequence[str]:
        return []

    def peers(self) -> Sequence[PeerView]:
        views = (self.peer(p) for p in self.net.handlers if p != self.me)
        return [v for v in views if v is not None]

    def peer(self, peer: PeerId) -> PeerView | None:
        if peer not in self.net.handlers:
            return None
        rtt = self.net.rtts.get(peer)
        return PeerView(peer, "/ip4/127.0.0.1/tcp/1", True, 1.0, rtt, 0, 0, 0, "test")

    async def connect(self, address: str, *, timeout_s: float = 10.0) -> PeerView:
        raise Unavailable(f"nobody at {address}")

    async def disconnect(self, peer: PeerId) -> None:
        self.net.handlers.pop(peer, None)

    async def open_stream(
        self,
        peer: PeerId,
        protocol: str,
        *,
        timeout_s: float = 10.0,
        priority: Priority = Priority.CONTROL,
        addresses: Sequence[str] = (),
    ) -> Stream:
        self.net.opened.append(peer)
        if peer not in self.net.handlers:
            raise Unavailable(f"cannot reach {peer}")
        ours, theirs = stream_pair(protocol, client=self.me, server=peer)
        self.net.streams.append(ours)
        task = asyncio.create_task(self.net.serve(self.net.handlers[peer], theirs))
        self.net.tasks.add(task)
        return ours

    async def ping(self, peer: PeerId, *, timeout_s: float = 10.0) -> float:
        self.pinged.append(peer)
        return 0.5

    async def broadcast(self, text: str) -> int:
        return 0


@dataclass
class FakeNode:
    """A router with its environment."""

    id: PeerId
    backends: Registry[Backend]
    catalogue: Catalogue
    router: Router
    handler: GenerateHandler
    directory: FakeDirectory
    transport: FakeTransport
    clock: FakeClock
    events: list[Event]

    @contextmanager
    def having(self, *backends: FakeBackend) -> Iterator[None]:
        """The backends registered while the block runs."""
        with ExitStack() as stack:
            for backend in backends:
                stack.enter_context(self.backends.added(backend.name, backend))
            yield


def make_node(
    n: int = 0, net: Net | None = None, *, alone: bool = False, **settings: Any
) -> FakeNode:
    """Node number `n`; `settings` are the plugin's configuration; `alone` has no transport."""
    net = net if net is not None else Net()
    me = node_id(n)
    config = InferenceConfig(**settings)
    clock = FakeClock()
    events: list[Event] = []
    backends: Registry[Backend] = Registry("backend")
    directory = FakeDirectory(me, net.records)
    transport = FakeTransport(me, net)
    there: Transport | None = None if alone else transport
    catalogue = Catalogue(
        backends,
        config,
        clock=clock,
        log=log,
        transport=lambda: there,
        directory=lambda: None if alone else directory,
    )
    router = Router(
        catalogue, max_local=config.max_local, clock=clock, publish=events.append, log=log
    )
    handler = GenerateHandler(router, max_concurrent=config.max_concurrent, clock=clock, log=log)
    net.handlers[me] = handler
    return FakeNode(me, backends, catalogue, router, handler, directory, transport, clock, events)


async def text_of(chunks: AsyncIterator[Chunk]) -> str:
    """The complete answer; fails if it did not end with `done`."""
    out, done = "", False
    async for chunk in chunks:
        out += chunk.text
        done = chunk.done
    assert done, "the answer did not end with done"
    return out
