"""Nodes of the shards plugin without network, torch or processes.

Everything is real except the transport and the directory (both in memory) and the
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
from aitorrent_shards.fetching import manifest_exchange
from aitorrent_shards.protocol.messages import PROTOCOL
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
    PluginContext,
    Registry,
    ServiceKey,
    Stream,
    TimedOut,
    Unavailable,
    WireProtocol,
    Worker,
    peer_id,
)
from tests.support.clocks import LoopClock
from tests.support.nodes import wait_for
from tests.support.transport.memory_directory import MemoryDirectory
from tests.support.transport.memory_network import MemoryNetwork

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
        "model_type": "llama",
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

    device = "cpu"

    def __init__(self) -> None:
        self.closed: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.pid = 1
        self.sessions: dict[bytes, _ToySession] = {}
        self.steps = 0
        self.kill_at_step: int | None = None
        self.hangs = False
        self.full = False
        self.lies = False
        self.garbles = False
        "Steps are answered with what no worker answers, which the code of a stage does not expect."
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
                if self.garbles and header["op"] == "step":
                    frame = Frame(frame.header, cast(bytes, None))
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
                logging.exception("the answer was discarded")

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
                "device": self.device,
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


@dataclass
class FakeNode:
    """A node: its own service, transport and directory view, and the context of its plugin."""

    net: MemoryNetwork
    number: int
    folder: Path
    config: ShardsConfig
    workers: list[ToyWorker] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    on_worker: Callable[[ToyWorker], None] = lambda worker: None
    name: str = ""
    services: dict[ServiceKey[Any], Any] = field(default_factory=dict)
    "Those of other plugins."

    def __post_init__(self) -> None:
        self.id = self.node_id = peer_id(random.Random(self.number).randbytes(32))
        self.transport = self.net.join(
            self.id,
            WireProtocol(PROTOCOL, self._serve),
            WireProtocol(manifest_exchange.PROTOCOL, self._tell_manifest),
            name=self.name,
        )
        self.directory = MemoryDirectory(self.id, self.net.records)
        self.backends: Registry[Backend] = Registry("backend")
        self.log = logging.getLogger(f"test.shards.{self.number}")
        self.clock: Clock = LoopClock()
        self.random = random.Random(self.number)
        self.cache_dir = self.folder
        self.data_dir = self.folder / "data"
        self.tasks: asyncio.TaskGroup

    async def _serve(self, stream: Stream) -> None:
        await self.shards.stage_server.handle(stream)

    async def _tell_manifest(self, stream: Stream) -> None:
        await self.shards.manifests.handle(stream)

    @property
    def is_dead(self) -> bool:
        return not self.transport.is_up

    def kill(self) -> None:
        """As SIGKILL of its daemon."""
        self.net.kill(self.id)

    def optional(self, key: ServiceKey[Any]) -> Any:
        """As the context's."""
        return self.services.get(key)

    def service(self, key: ServiceKey[Any]) -> Any:
        """As api PluginContext."""
        own = {TRANSPORT: self.transport, DIRECTORY: self.directory, BACKENDS: self.backends}
        services = own | self.services
        if key not in services:
            raise Unavailable(f"no plugin provides {key.name} now")
        return services[key]

    def publish(self, event: Event) -> None:
        """As api PluginContext."""
        self.events.append(event)

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
    await wait_for(condition, timeout_s, every_s=max(0.005, timeout_s / 2000))


@asynccontextmanager
async def toy_network(
    folder: Path, *layers: str, model: Mapping[str, Any] | None = None, **settings: Any
) -> AsyncIterator[list[FakeNode]]:
    """One node for each entry of `layers`, all ready; fails if a stream handler failed."""
    write_toy_model(folder / "toy", **(model or {}))
    net = MemoryNetwork()
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
            await net.close()
    if net.errors:
        raise AssertionError(f"stream handlers failed: {net.errors}") from net.errors[0]


@asynccontextmanager
async def _all_running(nodes: Sequence[FakeNode]) -> AsyncIterator[None]:
    if not nodes:
        yield
        return
    async with nodes[0].running(), _all_running(nodes[1:]):
        yield


def toy_rows(prompt: Sequence[int], answer: Sequence[int], *, layers: int = 6) -> list[bytes]:
    """What the last layer puts out before each token of an answer to a short prompt."""
    states = [b""] * layers
    rows = []
    for tokens in (prompt, *([token] for token in answer[:-1])):
        for token in tokens:
            row = struct.pack("<I", token)
            for j in range(layers):
                parts = (states[j], j.to_bytes(2, "big"), row, len(tokens).to_bytes(4, "big"))
                states[j] = row = _hash(*parts)
        rows.append(row)
    return rows


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
