"""Nodes of the shards plugin without network, torch or processes.

Everything is real except the transport (in-memory streams), the directory (one shared dict) and the
worker, which computes a toy model in Python. The toy's results depend on every earlier position, on
the layer, and on how the input was split, so that a cache that was lost, skipped, repeated or
refilled in other pieces changes the answer.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import math
import random
import struct
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from aitorrent_shards.config import ShardsConfig
from aitorrent_shards.service import ShardsService
from aitorrentd.api import (
    BACKENDS,
    DIRECTORY,
    TRANSPORT,
    AitorrentError,
    Backend,
    Busy,
    Clock,
    Conflict,
    Event,
    Frame,
    GenerateRequest,
    PeerGone,
    PeerId,
    PeerView,
    PluginContext,
    Priority,
    Record,
    Registry,
    ServiceKey,
    Stream,
    TimedOut,
    Unavailable,
    Worker,
    peer_id,
)
from tests.support.clocks import LoopClock
from tests.support.nodes import wait_for
from tests.support.transport.streams import MemoryStream, stream_pair

VOCAB = 258
EOS = 257
ROW = 8
"Bytes of a toy hidden state: hidden size 2 in float32."


def write_toy_model(
    folder: Path, *, layers: int = 6, context: int = 512, weights: str = "w"
) -> Path:
    """A model folder that the real catalogue and tokenizer can read; its weights are dummies."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = {
        "model_type": "toy",
        "num_hidden_layers": layers,
        "vocab_size": VOCAB,
        "hidden_size": 2,
        "max_position_embeddings": context,
        "eos_token_id": EOS,
    }
    (folder / "config.json").write_text(json.dumps(settings))
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {c: i for i, c in enumerate(alphabet)} | {"<s>": 256, "</s>": 257}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<s>", "</s>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "model.safetensors").write_bytes(weights.encode())
    return folder


def _hash(*parts: bytes) -> bytes:
    return hashlib.blake2b(b"".join(parts), digest_size=ROW).digest()


def toy_logits(state: bytes) -> list[float]:
    """Logits of the toy model: a float32 for every token."""
    draw = random.Random(state)
    return list(struct.unpack(f"<{VOCAB}f", struct.pack(f"<{VOCAB}f", *_draws(draw))))


def _draws(draw: random.Random) -> list[float]:
    return [draw.gauss(0, 2) for _ in range(VOCAB - 1)] + [-8.0]


def best(logits: Sequence[float], k: int, temperature: float) -> tuple[dict[str, Any], bytes]:
    """The answer fields of the best k logits."""
    order = sorted(range(len(logits)), key=lambda i: (-logits[i], i))[: k or len(logits)]
    t = temperature or 1.0
    top = max(logits) / t
    lse = top + math.log(sum(math.exp(x / t - top) for x in logits))
    n = len(order)
    tail = struct.pack(f"<{n}I{n}f", *order, *(logits[i] for i in order))
    return {"k": n, "lse": lse}, tail


@dataclass
class _ToySession:
    start: int
    end: int
    max_positions: int
    states: list[bytes]
    have: int = 0
    last: bytes = b""


class ToyWorker:
    """The worker's contract, computed in Python."""

    def __init__(self) -> None:
        self.closed: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.pid = 1
        self.sessions: dict[bytes, _ToySession] = {}
        self.steps = 0
        self.kill_at_step: int | None = None
        self.hangs = False
        self.full = False
        self.lies = False
        self.refuses: dict[str, AitorrentError] = {}
        "Errors that operations raise instead of computing, by operation."
        self._layers = (0, 0, 0)
        self._turn = asyncio.Lock()
        self._answering: set[asyncio.Task[None]] = set()
        self.unanswered = 0

    async def request(
        self, header: Mapping[str, Any], tail: bytes | memoryview = b"", *, timeout_s: float = 60.0
    ) -> Frame:
        """As api Worker."""
        if self.closed.done():
            raise Unavailable("the worker is gone")
        self.unanswered += 1
        try:
            async with self._turn, asyncio.timeout(timeout_s):
                await asyncio.sleep(0)
                if self.hangs:
                    await asyncio.shield(self.closed)
                if self.closed.done():
                    raise Unavailable("the worker is gone")
                if (refusal := self.refuses.get(header["op"])) is not None:
                    raise refusal
                frame = getattr(self, f"_{header['op']}")(header, bytes(tail))
        except TimeoutError:
            self.kill("hung")
            raise TimedOut("no answer of the worker") from None
        finally:
            self.unanswered -= 1
        if self.kill_at_step is not None and self.steps >= self.kill_at_step:
            self.kill("killed by the test")
            raise Unavailable("the worker is gone")
        return cast(Frame, frame)

    def submit(
        self,
        header: Mapping[str, Any],
        tail: bytes | memoryview,
        done: Callable[[Frame | AitorrentError], None],
        *,
        timeout_s: float = 60.0,
    ) -> None:
        """As api Worker."""
        if self.closed.done():
            raise Unavailable("the worker is gone")

        async def answer() -> None:
            given: Frame | AitorrentError
            try:
                given = await self.request(header, tail, timeout_s=timeout_s)
            except AitorrentError as e:
                given = e
            try:
                done(given)
            except Exception:
                logging.exception("the answer was not taken")

        task = asyncio.get_running_loop().create_task(answer())
        self._answering.add(task)
        task.add_done_callback(self._answering.discard)

    def kill(self, reason: str = "killed") -> None:
        """As SIGKILL."""
        if not self.closed.done():
            self.closed.set_result(reason)

    async def close(self) -> None:
        """As api Worker."""
        self.kill("closed")

    def _load(self, header: Mapping[str, Any], tail: bytes) -> Frame:
        settings = json.loads((Path(header["path"]) / "config.json").read_text())
        layers = settings["num_hidden_layers"]
        self._layers = (header["start"], header["end"], layers)
        return Frame(
            {
                "layers": layers,
                "start": header["start"],
                "end": header["end"],
                "hidden_size": 2,
                "vocab_size": VOCAB,
                "dtype": "float32",
                "max_positions": settings["max_position_embeddings"],
                "weight_bytes": 1,
                "read_bytes": 1,
            }
        )

    def _open(self, header: Mapping[str, Any], tail: bytes) -> Frame:
        if self.full:
            raise Busy("no room for the cache", free_positions=0)
        if header["session"] in self.sessions:
            raise Conflict("the session already exists")
        width = header["end"] - header["start"]
        self.sessions[header["session"]] = _ToySession(
            header["start"], header["end"], header["max_positions"], [b""] * width
        )
        return Frame({})

    def _step(self, header: Mapping[str, Any], tail: bytes) -> Frame:
        session = self.sessions[header["session"]]
        pos, n = header["pos"], header["n"]
        if pos != session.have:
            raise Conflict("another position", have=session.have)
        size = ROW if session.start else 4
        out = []
        for i in range(n):
            row = tail[i * size : (i + 1) * size]
            for j in range(session.end - session.start):
                layer = (session.start + j).to_bytes(2, "big")
                session.states[j] = _hash(session.states[j], layer, row, n.to_bytes(4, "big"))
                row = session.states[j]
            out.append(row)
        session.have, session.last = pos + n, out[-1]
        self.steps += 1
        answer = {"pos": pos, "n": n, "took_us": 1}
        if session.end < self._layers[2]:
            return Frame(answer, b"".join(out))
        if header["want"] is None:
            return Frame(answer)
        fields, tail = self._best(session, header["want"])
        return Frame(answer | fields, tail)

    def _best(self, session: _ToySession, want: Mapping[str, Any]) -> tuple[dict[str, Any], bytes]:
        fields, tail = best(toy_logits(session.last), want["k"], want["temperature"])
        if self.lies:
            tail = tail[:4] + b"\xff\xff\xff\x7f" + tail[8:]
        return fields, tail

    def _candidates(self, header: Mapping[str, Any], tail: bytes) -> Frame:
        session = self.sessions[header["session"]]
        fields, tail = self._best(session, header)
        return Frame({"pos": session.have - 1, "n": 1} | fields, tail)

    def _close(self, header: Mapping[str, Any], tail: bytes) -> Frame:
        self.sessions.pop(header["session"], None)
        return Frame({})

    def _stats(self, header: Mapping[str, Any], tail: bytes) -> Frame:
        used = sum(s.max_positions for s in self.sessions.values())
        return Frame({"free_positions": 100_000 - used, "sessions": len(self.sessions)})


class FakeNet:
    """Nodes that can reach each other until the test cuts them off."""

    def __init__(self) -> None:
        self.nodes: dict[PeerId, FakeNode] = {}
        self.records: dict[tuple[str, PeerId], Record] = {}
        self.cut: set[frozenset[PeerId]] = set()
        self.handlers: set[asyncio.Task[None]] = set()
        self.errors: list[BaseException] = []
        self._streams: list[tuple[PeerId, PeerId, MemoryStream]] = []

    def connect(self, here: FakeNode, peer: PeerId, protocol: str) -> Stream:
        """Open a stream to `peer`, starting its handler."""
        there = self.nodes.get(peer)
        if there is None or there.dead or frozenset((here.id, peer)) in self.cut:
            raise Unavailable(f"{peer} cannot be reached")
        ours, theirs = stream_pair(protocol, client=here.id, server=peer)
        self._streams.append((here.id, peer, ours))
        task = asyncio.get_running_loop().create_task(there.serve(GatedStream(theirs, there)))
        self.handlers.add(task)
        task.add_done_callback(self._handled)
        return cast(Stream, GatedStream(ours, here))

    def _handled(self, task: asyncio.Task[None]) -> None:
        self.handlers.discard(task)
        if not task.cancelled() and (error := task.exception()):
            self.errors.append(error)

    def break_streams(self, a: PeerId, b: PeerId | None = None) -> None:
        """Reset every stream of `a` (with `b`)."""
        for x, y, stream in self._streams:
            if a in (x, y) and (b is None or b in (x, y)):
                stream.reset("the test broke it")
        self._streams = [s for s in self._streams if s[2].reset_reason is None]

    def kill(self, node: FakeNode) -> None:
        """As SIGKILL of a node's daemon."""
        node.dead = True
        self.break_streams(node.id)
        for key in [k for k in self.records if k[1] == node.id]:
            del self.records[key]

    def partition(self, a: FakeNode, b: FakeNode) -> None:
        """Cut two nodes off from each other."""
        self.cut.add(frozenset((a.id, b.id)))
        self.break_streams(a.id, b.id)


class GatedStream:
    """A stream end that blocks while its node hangs."""

    def __init__(self, inner: MemoryStream, node: FakeNode) -> None:
        self._inner, self._node = inner, node
        self.peer, self.protocol = inner.peer, inner.protocol
        self._waking: set[asyncio.Task[None]] = set()

    async def write(self, data: bytes | memoryview) -> None:
        """As api Stream."""
        await self._node.awake.wait()
        await self._inner.write(data)

    async def read(self, max_bytes: int = 65_536) -> bytes:
        """As api Stream."""
        got = await self._inner.read(max_bytes)
        await self._node.awake.wait()
        return got

    async def read_exactly(self, n: int) -> bytes:
        """As api Stream."""
        got = await self._inner.read_exactly(n)
        await self._node.awake.wait()
        return got

    def take_frame(self, *, max_bytes: int) -> Frame | None:
        """As api Stream."""
        return self._inner.take_frame(max_bytes=max_bytes) if self._node.awake.is_set() else None

    def when_frame(self, wake: Callable[[], None]) -> None:
        """As api Stream."""
        if self._node.awake.is_set():
            self._inner.when_frame(lambda: self._wake(wake))
        else:
            self._wake(wake)

    def _wake(self, wake: Callable[[], None]) -> None:
        if self._node.awake.is_set():
            wake()
        else:
            task = asyncio.get_running_loop().create_task(self._wake_later(wake))
            self._waking.add(task)
            task.add_done_callback(self._waking.discard)

    async def _wake_later(self, wake: Callable[[], None]) -> None:
        await self._node.awake.wait()
        wake()

    def write_now(self, *parts: bytes | memoryview) -> bool:
        """As api Stream."""
        return self._node.awake.is_set() and self._inner.write_now(*parts)

    async def close(self) -> None:
        """As api Stream."""
        await self._inner.close()

    def reset(self, reason: str = "") -> None:
        """As api Stream."""
        self._inner.reset(reason)


@dataclass
class FakeNode:
    """A node: its own service, transport and directory view."""

    net: FakeNet
    number: int
    folder: Path
    config: ShardsConfig
    dead: bool = False
    workers: list[ToyWorker] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    on_worker: Callable[[ToyWorker], None] = lambda worker: None

    def __post_init__(self) -> None:
        self.id = self.node_id = peer_id(random.Random(self.number).randbytes(32))
        self.awake = asyncio.Event()
        self.awake.set()
        self.backends: Registry[Backend] = Registry("backend")
        self.net.nodes[self.id] = self
        self.log = logging.getLogger(f"test.shards.{self.number}")
        self.clock: Clock = LoopClock()
        self.random = random.Random(self.number)
        self.cache_dir = self.folder
        self.tasks: asyncio.TaskGroup

    # the plugin's context
    def service(self, key: ServiceKey[Any]) -> Any:
        """This object is both the transport and the directory."""
        return {TRANSPORT: self, DIRECTORY: self, BACKENDS: self.backends}[key]

    def publish(self, *args: Any) -> None:
        """An event on the context or a record in the directory: both use this name."""
        if len(args) == 1:
            self.events.append(args[0])
        else:
            self.net.records[args[0], self.id] = Record(args[0], self.id, args[1], ("a",))

    draining = False

    def work(self, what: str) -> AbstractContextManager[None]:
        """Counts nothing."""
        return nullcontext()

    @contextmanager
    def subscribe(self, *kinds: type[Event]) -> Iterator[AsyncIterator[Event]]:
        """Nothing ever happens."""

        async def events() -> AsyncIterator[Event]:
            await asyncio.Event().wait()
            yield Event()

        yield events()

    async def spawn_worker(
        self, entry: str, *, name: str, env: Mapping[str, str] | None = None, sandbox: bool = False
    ) -> Worker:
        """A toy worker."""
        worker = ToyWorker()
        self.workers.append(worker)
        self.on_worker(worker)
        return worker

    # the transport
    def addresses(self) -> Sequence[str]:
        """Tests need none."""
        return ("/ip4/127.0.0.1/tcp/1",)

    def peer(self, peer: PeerId) -> PeerView | None:
        """No latency is known."""
        return None

    async def open_stream(
        self,
        peer: PeerId,
        protocol: str,
        *,
        timeout_s: float = 10.0,
        priority: Priority = Priority.CONTROL,
        addresses: Sequence[str] = (),
    ) -> Stream:
        """As api Transport."""
        await asyncio.sleep(0)
        return self.net.connect(self, peer, protocol)

    async def serve(self, stream: GatedStream) -> None:
        """The protocol handler."""
        try:
            await self.shards.stage_server.handle(cast(Stream, stream))
        except PeerGone:
            pass
        finally:
            await stream.close()

    # the directory
    def withdraw(self, key: str) -> None:
        """As api Directory."""
        self.net.records.pop((key, self.id), None)

    def known(self, prefix: str) -> Sequence[Record]:
        """As api Directory."""
        return [r for (k, _), r in self.net.records.items() if k.startswith(prefix)]

    async def find(self, key: str, *, timeout_s: float = 5.0) -> Sequence[Record]:
        """As api Directory."""
        return self.known(key)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[FakeNode]:
        """Run the plugin's service."""
        async with asyncio.TaskGroup() as tasks:
            self.tasks = tasks
            self.shards = ShardsService(cast(PluginContext, self))
            async with self.shards.running():
                yield self

    def ready(self) -> bool:
        """Whether every configured model is ready."""
        return all(m.state == "ready" for m in self.shards.models.values())

    async def tokens(self, request: GenerateRequest) -> list[int]:
        """The answer's token ids, including the end token."""
        ids: list[int] = []
        async for chunk in self.shards.backend.generate(request):
            ids += chunk.token_ids
        return ids


async def until(condition: Callable[[], object], timeout_s: float = 5.0) -> None:
    """Wait until a condition holds; fails if it does not in time."""
    await wait_for(condition, timeout_s, every_s=0.005)


@asynccontextmanager
async def toy_network(
    folder: Path, *layers: str, model: Mapping[str, Any] | None = None, **settings: Any
) -> AsyncIterator[list[FakeNode]]:
    """One node for each entry of `layers`, all ready; fails if a stream handler failed."""
    write_toy_model(folder / "toy", **(model or {}))
    net = FakeNet()
    nodes = []
    quick = {"step_timeout_s": 0.3, "ping_timeout_s": 0.1, "resume_timeout_s": 2.0}
    for number, wanted in enumerate(layers):
        config = ShardsConfig.model_validate(
            quick
            | settings
            | {"models": [{"name": "toy", "path": folder / "toy", "layers": wanted}]}
        )
        cache = folder / f"node{number}"
        cache.mkdir(exist_ok=True)
        nodes.append(FakeNode(net, number, cache, config))
    async with _all_running(nodes):
        await until(lambda: all(n.ready() for n in nodes))
        try:
            yield nodes
        finally:
            for task in net.handlers:
                task.cancel()
            if net.handlers:
                await asyncio.wait(net.handlers)
    if net.errors:
        raise AssertionError(f"stream handlers failed: {net.errors}") from net.errors[0]


@asynccontextmanager
async def _all_running(nodes: Sequence[FakeNode]) -> AsyncIterator[None]:
    if not nodes:
        yield
        return
    async with nodes[0].running(), _all_running(nodes[1:]):
        yield


def toy_answer(prompt: Sequence[int], new: int, *, layers: int = 6, chunk: int = 128) -> list[int]:
    """Greedy tokens of the toy model, computed directly."""
    from aitorrent_shards.routing.planner import prefill_chunks

    states = [b""] * layers
    ids: list[int] = []

    def feed(tokens: Sequence[int]) -> int:
        row = b""
        for token in tokens:
            row = struct.pack("<I", token)
            for j in range(layers):
                parts = (states[j], j.to_bytes(2, "big"), row, len(tokens).to_bytes(4, "big"))
                states[j] = row = _hash(*parts)
        logits = toy_logits(row)
        return min(range(VOCAB), key=lambda i: (-logits[i], i))

    at, token = 0, 0
    for n in prefill_chunks(len(prompt), chunk=chunk):
        token = feed(prompt[at : at + n])
        at += n
    while True:
        ids.append(token)
        if len(ids) == new or token == EOS:
            return ids
        token = feed([token])
