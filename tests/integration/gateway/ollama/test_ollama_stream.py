"""The Ollama API byte by byte: shape of streams, errors, clients that leave, requests that other
clients send, and what users reported about other servers."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest

from aitorrent_gateway.core import answers
from aitorrentd import __version__
from aitorrentd.api import (
    AitorrentError,
    Busy,
    Chunk,
    GenerateRequest,
    HeldLayers,
    InvalidParams,
    ModelView,
    StageView,
    TimedOut,
    Unavailable,
)
from aitorrentd.api.models.features import Feature
from aitorrentd.api.models.tools import ToolCall
from tests.support.clients.raw_http import Answer, connection, exchange, request
from tests.support.gateway_nodes import gateway_node
from tests.support.http_nodes import new_token
from tests.support.inference_fakes import FakeBackend
from tests.support.nodes import NodeFactory, wait_for

HELLO = [{"role": "user", "content": "hello"}]
JSON = {"Content-Type": "application/json"}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


def post(path: str, headers: dict[str, str] | None = None, **fields: Any) -> bytes:
    body = json.dumps({"model": "m", **fields}).encode()
    return request("POST", path, {**JSON, **(headers or {})}, body)


async def sent(address: str, path: str, **fields: Any) -> Answer:
    return await exchange(address, post(path, **fields))


def lines(answer: Answer) -> list[Any]:
    """The objects of a stream: one on each line, and nothing else."""
    assert answer.headers["content-type"] == "application/x-ndjson"
    assert answer.body.endswith(b"\n")
    return [json.loads(line) for line in answer.body.decode().split("\n")[:-1]]


class Full(FakeBackend):
    """Answers with everything that a backend may send; refuses what it is told to."""

    refuses: Sequence[str] = ()

    async def models(self) -> Sequence[ModelView]:
        layers = (HeldLayers("peer-a", 0, 2, 100, 40), HeldLayers("peer-b", 2, 4))
        return [ModelView("m", "f", 1000, "qwen3", 4096, "by peer-b", layers)]

    def features(self) -> frozenset[Feature]:
        return frozenset({"tools", "think"})

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Chunk]:
        self.requests.append(request)
        refused = [n for n in self.refuses if getattr(request.params, n) is not None]
        if refused:
            raise InvalidParams(f"f cannot apply {refused}", params=refused)
        yield Chunk("", notice="loading")
        yield Chunk("", thinking="hm")
        yield Chunk("Hé")
        yield Chunk(
            ' "\n\u2028',
            done=True,
            reason="tool_calls" if request.tools else "length",
            prompt_tokens=3,
            completion_tokens=2,
            context=(1, 2, 3),
            stages=(StageView("peer-a", 0, 2), StageView("peer-b", 2, 4)),
            tool_calls=(ToolCall(id="c1", name="f", arguments='{"a":1}'),) if request.tools else (),
        )


async def test_stream_of_a_chat_has_exactly_this_shape(node_factory: NodeFactory) -> None:
    _, address = await gateway_node(node_factory, Full("f"))
    answer = await sent(address, "/api/chat", messages=HELLO, tools=[TOOL], think=True, zz=1)
    assert (answer.status, answer.headers["x-aitorrent-ignored"]) == (200, "zz")
    assert b"\n\n" not in answer.body
    found = lines(answer)
    for each in found:
        assert each.pop("model") == "m"
        assert each.pop("created_at").endswith("Z")
    said = {"role": "assistant", "content": ""}
    call = {"id": "c1", "function": {"index": 0, "name": "f", "arguments": {"a": 1}}}
    assert found[:-1] == [
        {"message": said | {"thinking": "hm"}, "done": False},
        {"message": said | {"content": "Hé"}, "done": False},
        {"message": said | {"content": ' "\n\u2028'}, "done": False},
        {"message": said | {"tool_calls": [call]}, "done": False},
    ]
    last = found[-1]
    spent = [last.pop(f"{name}_duration") for name in ("total", "prompt_eval", "eval")]
    assert all(type(ns) is int for ns in spent)
    assert spent[0] == spent[1] + spent[2] > 0
    told = last.pop("x_aitorrent")
    assert (told["stages"], told["hops"]) == ([[0, 2], [2, 4]], 3)
    assert last == {
        "message": said,
        "done": True,
        "done_reason": "stop",
        "load_duration": 0,
        "prompt_eval_count": 3,
        "eval_count": 2,
    }


async def test_generate_streams_and_answers_whole(node_factory: NodeFactory) -> None:
    backend = Full("f")
    _, address = await gateway_node(node_factory, backend)
    streamed = lines(await sent(address, "/api/generate", prompt="a"))
    assert [(e.get("thinking"), e["response"]) for e in streamed] == [
        ("hm", ""),
        (None, "Hé"),
        (None, ' "\n\u2028'),
        (None, ""),
    ]
    assert (streamed[-1]["context"], streamed[-1]["done_reason"]) == ([1, 2, 3], "length")
    whole = await sent(address, "/api/generate", prompt="a", stream=False)
    assert whole.headers["content-type"] == "application/json"
    value = json.loads(whole.body)
    assert (value["response"], value["thinking"]) == ('Hé "\n\u2028', "hm")
    assert (value["done"], value["done_reason"], value["context"]) == (True, "length", [1, 2, 3])
    chat = json.loads((await sent(address, "/api/chat", messages=HELLO, stream=False)).body)
    assert chat["message"] == {"role": "assistant", "content": 'Hé "\n\u2028', "thinking": "hm"}
    assert "context" not in chat
    assert [(r.prompt, r.raw) for r in backend.requests[:2]] == [("a", False)] * 2


async def test_durations_of_a_backend_are_kept(node_factory: NodeFactory) -> None:
    told = {"total_duration": 9, "load_duration": 1, "prompt_eval_duration": 3, "eval_duration": 5}
    last = Chunk("", done=True, reason="stop", extra=told)
    _, address = await gateway_node(node_factory, FakeBackend("f", last=last))
    found = lines(await sent(address, "/api/generate", prompt="a"))[-1]
    assert {name: found[name] for name in told} == told


@pytest.mark.parametrize("path", ["/api/chat", "/api/generate"])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("error", "status", "header"),
    [
        (Busy("full"), 429, ("retry-after", "1")),
        (Unavailable("no peer holds layers 4-8 of m"), 503, ("x-should-retry", "false")),
        (Unavailable("m is loading", retry_after_s=5), 503, ("retry-after", "5")),
        (TimedOut("late"), 504, None),
        (InvalidParams("f cannot apply format", params=["format"]), 400, None),
        (InvalidParams("m does not support tools: why", params=["tools"]), 400, None),
        (InvalidParams("the prompt has 9 tokens", prompt_tokens=9, context=8), 400, None),
    ],
)
async def test_errors_before_the_first_token_have_their_status(
    node_factory: NodeFactory,
    path: str,
    stream: bool,
    error: AitorrentError,
    status: int,
    header: tuple[str, str] | None,
) -> None:
    _, address = await gateway_node(node_factory, FakeBackend("f", words=(), fails=error))
    answer = await sent(address, path, prompt="a", messages=HELLO, stream=stream)
    assert answer.status == status
    text = error.message.replace("m does not", '"m" does not')  # as Ollama writes it
    assert json.loads(answer.body) == {"error": text}
    if header is not None:
        assert answer.headers[header[0]] == header[1]


@pytest.mark.parametrize("forgets", [False, True])
async def test_error_after_the_first_token_is_the_last_line(
    node_factory: NodeFactory, forgets: bool
) -> None:
    error = None if forgets else Unavailable("no peer holds layers 4-8 of m")
    text = error.message if error else "ended its answer without a reason"
    backend = FakeBackend("f", fails=error, forgets_done=forgets)
    _, address = await gateway_node(node_factory, backend)
    answer = await sent(address, "/api/chat", messages=HELLO)
    *said, told = lines(answer)
    assert answer.status == 200
    assert not any(each["done"] for each in said)
    assert set(told) == {"error"}
    assert text in told["error"]
    whole = await sent(address, "/api/chat", messages=HELLO, stream=False)
    assert whole.status == 503  # nothing is half an answer


async def test_errors_of_the_server_are_said_as_ollama_says_them(
    node_factory: NodeFactory,
) -> None:
    node, address = await gateway_node(node_factory, FakeBackend("f"))
    missing = await sent(address, "/api/chat", model="gone", messages=HELLO)
    assert missing.status == 404
    assert json.loads(missing.body)["error"] == "model 'gone' not found; available: m"
    pull = await sent(address, "/api/pull", model="a/b")
    assert pull.status == 401
    assert json.loads(pull.body)["error"].startswith("unauthorized: this needs a token")
    token = {"Authorization": f"Bearer {await new_token(node, 'operate')}"}
    body = json.dumps({"model": "m"}).encode()  # was not pulled, and there is no catalogue
    deleted = await exchange(address, request("DELETE", "/api/delete", JSON | token, body))
    assert (deleted.status, json.loads(deleted.body)) == (404, {"error": "model 'm' not found"})
    broken = await exchange(address, request("POST", "/api/chat", JSON, b"{"))
    assert "the body is not valid JSON" in json.loads(broken.body)["error"]
    for path in ("/api/create", "/api/push", "/api/blobs/sha256:aa"):
        refused = await sent(address, path)
        assert refused.status == 501
        assert "aitorrentctl seed" in json.loads(refused.body)["error"]
    assert (await sent(address, "/api/copy", source="m", destination="n")).status == 401
    for path in ("/api/me", "/api/web_search", "/api/experimental/web_fetch"):
        absent = await sent(address, path)
        assert (absent.status, list(json.loads(absent.body))) == (404, ["error"])


async def test_silence_is_filled_with_lines_that_say_nothing(
    node_factory: NodeFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "HEADERS_S", 0.01)
    monkeypatch.setattr(answers, "KEEP_ALIVE_S", 0.02)
    backend = FakeBackend("f")
    backend.gate = asyncio.Event()
    _, address = await gateway_node(node_factory, backend)
    async with connection(address) as (reader, writer), asyncio.timeout(10):
        writer.write(post("/api/generate", prompt="a"))
        for _ in range(3):  # long before the first token
            line = json.loads((await reader.readuntil(b"}\n")).partition(b"{")[2].join((b"{", b"")))
            assert (line["response"], line["done"]) == ("", False)
        backend.gate.set()
        rest = await reader.read()
    assert b'"response":"two"' in rest


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("words", [(), ("one ",)], ids=["before", "after"])
async def test_gone_client(node_factory: NodeFactory, stream: bool, words: tuple[str, ...]) -> None:
    """jonigl/ollama-mcp-bridge 69: the model went on for clients that had left."""
    backend = FakeBackend("f", words=words, hangs=True)
    _, address = await gateway_node(node_factory, backend)
    async with connection(address) as (reader, writer):
        writer.write(post("/api/chat", messages=HELLO, stream=stream))
        await backend.asked.wait()
        if stream and words:
            await reader.readuntil(b'"content":"one "')
    left = asyncio.get_running_loop().time()
    await wait_for(lambda: backend.running == 0, 5)
    assert asyncio.get_running_loop().time() - left < 0.5


async def test_models_are_listed_shown_and_loaded(node_factory: NodeFactory) -> None:
    _, address = await gateway_node(node_factory, Full("f"))
    (tag,) = json.loads((await exchange(address, request("GET", "/api/tags"))).body)["models"]
    assert (tag["name"], tag["model"], tag["size"]) == ("m:latest", "m:latest", 1000)
    assert len(tag["digest"]) == 64
    assert tag["capabilities"] == ["completion", "tools", "thinking"]
    assert set(tag["details"]) == {
        *("parent_model", "format", "family", "families", "parameter_size", "quantization_level")
    }
    for name in ("m", "m:latest"):
        shown = json.loads((await sent(address, "/api/show", model=name)).body)
        assert shown["model_info"]["general.architecture"] == "qwen3"
        assert shown["model_info"]["qwen3.context_length"] == 4096
        assert shown["model_info"]["qwen3.block_count"] == 4
        assert shown["parameters"].split() == ["num_ctx", "4096"]
        assert shown["capabilities"] == tag["capabilities"]
        assert ".Suffix" not in shown["template"]
    version = json.loads((await exchange(address, request("GET", "/api/version"))).body)
    assert re.fullmatch(r"\d+\.\d+\.\d+", version["version"])  # clients parse three integers
    assert version["aitorrent"] == __version__
    (loaded,) = json.loads((await exchange(address, request("GET", "/api/ps"))).body)["models"]
    assert (loaded["size"], loaded["size_vram"], loaded["context_length"]) == (140, 40, 4096)
    assert loaded["stages"] == [[0, 2], [2, 4]]
    for path in ("/api/tags", "/api/ps", "/api/version", "/"):
        head = await exchange(address, request("HEAD", path))
        assert (head.status, head.body) == (200, b"")
        assert b"peer-" not in (await exchange(address, request("GET", path))).body
    assert (await sent(address, "/api/show", model="gone")).status == 404


async def test_model_without_tools_does_not_offer_them(node_factory: NodeFactory) -> None:
    class Plain(Full):
        async def models(self) -> Sequence[ModelView]:
            return [replace(view, lacks=frozenset({"tools"})) for view in await super().models()]

    _, address = await gateway_node(node_factory, Plain("f"))
    shown = json.loads((await sent(address, "/api/show")).body)
    assert shown["capabilities"] == ["completion", "thinking"]
    assert ".Tools" not in shown["template"]


async def test_root_says_what_clients_look_for(node_factory: NodeFactory) -> None:
    _, address = await gateway_node(node_factory, FakeBackend("f"))
    plain = await exchange(address, request("GET", "/"))
    assert (plain.status, plain.body) == (200, b"Ollama is running")
    page = await exchange(address, request("GET", "/", {"Accept": "text/html,*/*"}))
    assert b"<h1>aitorrentd is running" in page.body
    described = await exchange(address, request("GET", "/", {"Accept": "application/json"}))
    assert json.loads(described.body)["message"] == "aitorrentd is running"


async def test_request_without_a_prompt_loads(node_factory: NodeFactory) -> None:
    backend = FakeBackend("f")
    _, address = await gateway_node(node_factory, backend)
    (line,) = lines(await sent(address, "/api/generate"))
    assert (line["response"], line["done"], line["done_reason"]) == ("", True, "load")
    whole = json.loads((await sent(address, "/api/chat", messages=[], stream=False)).body)
    assert (whole["message"]["content"], whole["done_reason"]) == ("", "load")
    assert (await sent(address, "/api/generate", model="gone")).status == 404
    refused = await sent(address, "/api/generate", keep_alive=0)
    assert refused.status == 401
    assert json.loads(refused.body)["error"].startswith("unauthorized: unloading a model needs")
    assert backend.requests == []


@dataclass(frozen=True)
class Replayed:
    """A request as a client sends it."""

    path: str
    body: dict[str, Any]


REPLAYED = {
    "litellm": [
        Replayed("/api/show", {"name": "m"}),
        Replayed("/api/chat", {"model": "m", "stream": False, "format": None, "options": {}}
            | {"messages": [{"role": "user", "content": "hello", "images": []}]}),
    ],
    "langchain": [
        Replayed("/api/chat", {"model": "m", "messages": HELLO, "stream": True, "tools": []}
            | {"think": False, "format": "", "keep_alive": None, "logprobs": None}
            | {"options": {"num_ctx": 2048, "temperature": 0.8, "mirostat": 0}}),
    ],
    "continue": [
        Replayed("/api/show", {"name": "m"}),
        Replayed("/api/generate", {"model": "m", "prompt": "a", "raw": True, "keep_alive": 1800}
            | {"options": {"num_predict": 16, "stop": ["\n\n"], "num_ctx": 8192, "num_gpu": 256}}),
    ],
    "open webui": [
        Replayed("/api/chat", {"model": "m:latest", "messages": HELLO, "stream": True}
            | {"options": {"num_ctx": 4096.0}, "keep_alive": "5m", "metadata": {"chat_id": "1"}}),
        Replayed("/api/show", {"model": "m:latest"}),
    ],
    "copilot": [
        Replayed("/api/show", {"model": "m:latest"}),
        Replayed("/api/chat", {"model": "m:latest", "messages": HELLO, "tools": [TOOL]}
            | {"options": {"num_ctx": 32768, "temperature": 0}, "think": False}),
    ],
}  # fmt: skip


@pytest.mark.parametrize("client", REPLAYED)
async def test_requests_of_clients(node_factory: NodeFactory, client: str) -> None:
    backend = Full("f")
    backend.refuses = ("num_ctx", "think")
    _, address = await gateway_node(node_factory, backend)
    for path in ("/api/version", "/api/tags", "/api/ps"):
        kind = {"Accept": "application/json", **JSON}  # also with GET
        answer = await exchange(address, request("GET", path, kind))
        assert answer.status == 200
    for replayed in REPLAYED[client]:
        body = json.dumps(replayed.body).encode()
        answer = await exchange(address, request("POST", replayed.path, JSON, body))
        assert answer.status == 200, answer.body
        if replayed.path != "/api/show":
            final = json.loads(answer.body.splitlines()[-1])
            assert (final["done"], final["model"]) == (True, replayed.body["model"])
    assert backend.requests


async def test_parameter_that_changes_the_answer_is_refused_by_name(
    node_factory: NodeFactory,
) -> None:
    backend = Full("f")
    backend.refuses = ("num_ctx", "min_p")
    _, address = await gateway_node(node_factory, backend)
    options = {"num_ctx": 4096, "min_p": 0.1}
    answer = await sent(address, "/api/chat", messages=HELLO, options=options)
    assert answer.status == 400
    assert "min_p" in json.loads(answer.body)["error"]
    assert len(backend.requests) == 1
