"""Counts of tokens, and texts as vectors: here, and at peers through a network in memory."""

from __future__ import annotations

import asyncio
import json
import logging
from array import array
from base64 import b64encode
from collections.abc import Sequence

import pytest

from aitorrent_inference.announce import Announcer
from aitorrent_inference.peers.backend import PeerBackend
from aitorrent_inference.peers.measure_protocol import (
    COUNT_TOKENS,
    EMBED,
    EmbedReader,
    decode_count,
)
from aitorrentd.api import (
    Embeddings,
    EmbedRequest,
    GenerateRequest,
    InvalidParams,
    ModelView,
    NotFound,
    PeerGone,
    ProtocolError,
    Stream,
    Unavailable,
    WireProtocol,
)
from aitorrentd.api.models.embeddings import vector
from aitorrentd.api.relays import loops
from tests.support.inference_fakes import FakeBackend, FakeRouter, make_node, node_id
from tests.support.transport.memory_network import MemoryNetwork

pytestmark = pytest.mark.jump_clock
ASKED = GenerateRequest(model="m", prompt="one two three")
TEXTS = EmbedRequest(model="e", texts=("a", "bb"))
LONG = [vector([1.0, 0.1, 1e-30]), vector([2.0, 0.1, 1e-30])]


class Measuring(FakeBackend):
    """Counts words, and makes vectors of the lengths of texts."""

    def __init__(self, name: str, models: Sequence[str] = ("m",)) -> None:
        super().__init__(name, models)
        self.embedders = ["e:latest"]
        self.embedded: list[EmbedRequest] = []

    async def count_tokens(self, request: GenerateRequest) -> int:
        self.requests.append(request)
        if self.fails is not None:
            raise self.fails
        return len((request.prompt or "").split())

    async def embedding_models(self) -> Sequence[ModelView]:
        return [ModelView(name, self.name) for name in self.embedders]

    async def embed(self, request: EmbedRequest) -> Embeddings:
        self.embedded.append(request)
        if self.fails is not None:
            raise self.fails
        vectors = tuple(vector([len(text), 0.1, 1e-30]) for text in request.texts)
        return Embeddings(vectors, tokens=7)


async def test_prompt_is_counted_by_who_would_answer_it() -> None:
    node = make_node(capabilities={"alias": "m"})
    counter = Measuring("b")
    with node.having(FakeBackend("a", ["other"]), counter):
        assert await node.router.count_tokens(ASKED) == 3
        assert await node.router.count_tokens(ASKED.model_copy(update={"model": "alias"})) == 3
        assert [request.model for request in counter.requests] == ["m", "m"]
        with pytest.raises(NotFound, match="no model 'none'"):
            await node.router.count_tokens(GenerateRequest(model="none", prompt="x"))
    with (
        node.having(FakeBackend("a"), counter),
        pytest.raises(InvalidParams, match="^a cannot count tokens; only it knows"),
    ):
        await node.router.count_tokens(ASKED)


async def test_texts_become_vectors_of_the_first_backend_that_can() -> None:
    node = make_node(capabilities={"text-embedding-3-small": "e"})
    backend = Measuring("b", ["m"])
    with node.having(FakeBackend("a", ["e"]), backend):
        for model in ("e", "", "text-embedding-3-small", "m"):
            found = await node.router.embed(TEXTS.model_copy(update={"model": model}))
            assert found == Embeddings(tuple(LONG), 7)
        assert [request.model for request in backend.embedded] == ["e:latest"] * 3 + ["m"]
        assert [view.name for view in await node.router.embedding_models()] == ["e:latest"]
        with pytest.raises(InvalidParams, match="^a cannot turn texts into vectors"):
            await node.router.embed(TEXTS, backend="a")
        with (
            node.having(FakeBackend("c", ["split"])),
            pytest.raises(InvalidParams, match="^split does not support embeddings; name an"),
        ):
            await node.router.embed(TEXTS.model_copy(update={"model": "split"}))
        with pytest.raises(NotFound, match="'x'; embedding models: e:latest"):
            await node.router.embed(TEXTS.model_copy(update={"model": "x"}))
        backend.fails = InvalidParams("too long")
        with pytest.raises(InvalidParams, match="^too long"):
            await node.router.embed(TEXTS)
    with pytest.raises(NotFound, match="no backend lists an embedding model"):
        await node.router.embed(EmbedRequest(texts=("a",)))


async def at_peer(asker: FakeRouter, server: FakeRouter) -> None:
    name = f"peer:{server.id}"
    assert await asker.router.count_tokens(ASKED, backend=name) == 3
    assert await asker.router.embed(TEXTS, backend=name) == Embeddings(tuple(LONG), 7)


async def test_peer_counts_and_makes_vectors_which_it_announces() -> None:
    net = MemoryNetwork()
    asker, server = make_node(0, net), make_node(1, net)
    backend = Measuring("a")
    announcer = Announcer(
        server.catalogue, directory=lambda: server.directory, log=logging.getLogger("test")
    )
    with server.having(backend):
        await announcer.refresh()
        assert {key for key, _ in net.records} == {"ait:cap:m", "ait:embed:e:latest"}
        await at_peer(asker, server)
        assert await asker.router.count_tokens(ASKED) == 3
        assert await asker.router.embed(TEXTS) == Embeddings(tuple(LONG), 7)
        assert [view.name for view in await asker.router.models()] == ["m"]
        views = await asker.router.embedding_models()
        assert [(view.name, view.backend) for view in views] == [("e:latest", f"peer:{server.id}")]
        backend.fails = InvalidParams("a text has 9 tokens")
        with pytest.raises(InvalidParams, match="^peer .*: a text has 9 tokens"):
            await asker.router.embed(TEXTS)
    assert server.handler.slots.used == 0
    await net.close()


class Returning(Measuring):
    """Its server is another node, which asks back."""

    async def models(self) -> Sequence[ModelView]:
        if loops.passed():
            raise Unavailable("came back")
        return await super().models()


async def test_nodes_that_a_request_passed_over_http_are_no_matter_at_a_peer() -> None:
    """Connections outlive the request for which they were made, and keep its context."""
    net = MemoryNetwork()
    asker, server = make_node(0, net), make_node(1, net)

    async def asked_for_another() -> int:
        loops.note(("other",))
        await at_peer(asker, server)
        return await asker.router.count_tokens(ASKED)

    announcer = Announcer(
        server.catalogue, directory=lambda: server.directory, log=logging.getLogger("test")
    )
    with server.having(Returning("a")):
        await announcer.refresh()
        assert await asyncio.create_task(asked_for_another()) == 3
    await net.close()


async def test_older_peer_is_named_when_it_cannot() -> None:
    net = MemoryNetwork()
    asker = make_node(0, net)
    net.join(node_id(1))
    with pytest.raises((Unavailable, PeerGone)):
        await asker.router.count_tokens(ASKED, backend=f"peer:{node_id(1)}")
    await net.close()


def line(**fields: object) -> bytes:
    return json.dumps(fields).encode() + b"\n"


def base64(values: Sequence[float]) -> str:
    return b64encode(array("f", values).tobytes()).decode()


GOOD = line(embedding=base64([1.0, 2.0]))
HOSTILE: dict[str, list[bytes]] = {
    "not JSON": [b"\xff\n"],
    "no vectors": [line(done=True)],
    "one too many": [GOOD, GOOD, GOOD],
    "another length": [GOOD, line(embedding=base64([1.0]))],
    "not finite": [line(embedding=base64([float("nan")]))],
    "half a float": [line(embedding="AAAA")],
    "no base64": [line(embedding="!!!")],
    "empty": [line(embedding="")],
    "too long": [line(embedding="A" * 400_000)],
    "negative": [GOOD, GOOD, line(done=True, tokens=-1)],
}


@pytest.mark.parametrize("lines", HOSTILE.values(), ids=HOSTILE.keys())
def test_malformed_vectors_of_a_peer_are_an_error(lines: list[bytes]) -> None:
    reader = EmbedReader(2)
    with pytest.raises(ProtocolError):
        for each in lines:
            reader.read(each)


def test_malformed_count_of_a_peer_is_an_error() -> None:
    for each in (b"", b"{}", line(tokens=-1), line(tokens="x")):
        with pytest.raises(ProtocolError, match="bad answer line"):
            decode_count(each)


async def test_peer_that_says_nothing_fails_in_time() -> None:
    net = MemoryNetwork()
    me = node_id(0)

    async def silent(stream: Stream) -> None:
        await asyncio.Event().wait()

    transport = net.join(me)
    net.join(node_id(1), *(WireProtocol(p, silent) for p in (COUNT_TOKENS, EMBED)))
    peer = PeerBackend(node_id(1), transport, first_token_timeout_s=3)
    with pytest.raises(Exception, match="did not continue within 3 s"):
        await peer.embed(TEXTS)
    with pytest.raises(Exception, match="did not continue within 3 s"):
        await peer.count_tokens(ASKED)
    await net.close()
