"""The dialect of games: texts, users, sessions, and who may see them."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from aitorrent_gateway.seed import store
from aitorrentd.api import Chunk, GenerateRequest, InvalidParams, Unavailable
from aitorrentd.node import Node
from tests.support.clients.raw_http import Answer, exchange, request
from tests.support.gateway_nodes import gateway_node
from tests.support.http_nodes import new_token
from tests.support.inference_fakes import FakeBackend
from tests.support.nodes import NodeFactory

JSON = {"Content-Type": "application/json"}


async def post(address: str, path: str, headers: dict[str, str] | None = None, **body: Any) -> Any:
    """The answer to a request that has to succeed."""
    answer = await sent(address, path, headers, **body)
    assert answer.status == 200, answer.body
    return json.loads(answer.body)


async def sent(
    address: str, path: str, headers: dict[str, str] | None = None, **body: Any
) -> Answer:
    raw = json.dumps(body).encode()
    return await exchange(address, request("POST", path, {**JSON, **(headers or {})}, raw))


async def get(address: str, path: str, headers: dict[str, str] | None = None) -> Answer:
    return await exchange(address, request("GET", path, headers))


async def bearer(node: Node, role: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {await new_token(node, role)}"}


async def test_text_as_the_godot_client_asks(node_factory: NodeFactory) -> None:
    backend = FakeBackend("f", words=("sa", "lut"))
    _, address = await gateway_node(node_factory, backend)
    raw = b'{"prompt":"salut","stream":false}'
    answer = await exchange(address, request("POST", "/txt", JSON, raw))
    # the client splits the body at line feeds, and reads `response` of each line
    (line,) = answer.body.decode().split("\n")
    value = json.loads(line)
    assert (answer.status, value["response"], value["done"]) == (200, "salut", True)
    assert type(value["total_duration"]) is int
    assert (await post(address, "/txt", prompt="hi"))["response"] == "salut"
    assert (await post(address, "/txt", context="hi"))["response"] == "salut"
    streamed = await sent(address, "/txt", prompt="hi", stream=True, model="m")
    lines = [json.loads(line) for line in streamed.body.decode().splitlines()]
    assert [line["response"] for line in lines] == ["sa", "lut", ""]
    assert streamed.headers["content-type"] == "application/x-ndjson"
    assert [r.prompt for r in backend.requests] == ["salut", "hi", "hi", "hi"]
    assert json.loads((await get(address, "/txt")).body) == {"text": "hello world"}
    assert json.loads((await get(address, "/list_models")).body) == {"models": ["m:latest"]}
    root = await get(address, "/", {"Accept": "application/json"})
    assert "message" in json.loads(root.body)


@pytest.mark.parametrize(
    ("path", "body", "place", "kind"),
    [
        ("/txt", {}, ["body", "prompt"], "string_type"),
        ("/txt", {"prompt": 5}, ["body", "prompt"], "string_type"),
        ("/txt", {"prompt": ""}, ["body", "prompt"], "string_too_short"),
        ("/txt", {"prompt": "a", "stream": "yes"}, ["body", "stream"], "bool_type"),
        ("/img", {}, ["body", "prompt"], "missing"),
        ("/users", {"username": "x" * 201}, ["body", "username"], "string_too_long"),
        ("/sessions", {"user_id": "1"}, ["body", "user_id"], "int_type"),
        ("/generate-text", {"session_id": 1}, ["body", "action"], "missing"),
        ("/generate-text", {"session_id": -1, "action": "a"}, ["body", "session_id"],
         "greater_than_equal"),
        ("/generate-image", {"session_id": None}, ["body", "description"], "missing"),
    ],
)  # fmt: skip
async def test_wrong_bodies_are_told_as_fastapi_does(
    node_factory: NodeFactory, path: str, body: dict[str, Any], place: list[str], kind: str
) -> None:
    _, address = await gateway_node(node_factory, FakeBackend("f"))
    answer = await sent(address, path, **body)
    (problem,) = json.loads(answer.body)["detail"]
    assert (answer.status, problem["loc"], problem["type"]) == (422, place, kind)
    assert set(problem) == {"loc", "msg", "type"}


async def test_other_errors_have_a_detail(node_factory: NodeFactory) -> None:
    error = Unavailable("no peer holds layers 4-8 of m")
    _, address = await gateway_node(node_factory, FakeBackend("f", words=(), fails=error))
    answer = await sent(address, "/txt", prompt="a")
    assert (answer.status, json.loads(answer.body)) == (503, {"detail": error.message})
    broken = await exchange(address, request("POST", "/txt", JSON, b"{"))
    assert (broken.status, json.loads(broken.body)["detail"][0]["type"]) == (422, "json_invalid")
    announced = request("POST", "/txt", {**JSON, "Content-Length": "2000000"}, b"{")
    huge = await exchange(address, announced)
    assert (huge.status, list(json.loads(huge.body))) == (413, ["detail"])
    forged = await sent(address, "/txt", {"Origin": "http://evil.example"}, prompt="a")
    assert (forged.status, list(json.loads(forged.body))) == (403, ["detail"])
    for path in ("/img", "/generate-image"):
        refused = await sent(address, path, prompt="a", description="a")
        assert refused.status == 501
        assert "plugins.gateway.images" in json.loads(refused.body)["detail"]
    missing = await sent(address, "/sessions", user_id=99)
    assert (missing.status, json.loads(missing.body)) == (404, {"detail": "User not found"})
    for path in ("/sessions/99", "/sessions/0"):
        missing = await get(address, path)
        assert (missing.status, json.loads(missing.body)) == (404, {"detail": "Session not found"})
    for ident in ("x", "-1", "1.5", "9" * 40, "%31"):
        assert (await get(address, f"/sessions/{ident}")).status == (404 if ident == "%31" else 422)


class Narrator(FakeBackend):
    """Tells which turns it was sent; has room for `room` of them."""

    room = 100

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Chunk]:
        self.requests.append(request)
        if self.fails is not None:
            raise self.fails
        assert request.messages is not None
        if len(request.messages) > self.room:
            raise InvalidParams("the prompt is too long", prompt_tokens=99, context=self.room)
        yield Chunk(f"answer {len(request.messages)}")
        yield Chunk("", done=True, reason="stop")


def turns(request: GenerateRequest) -> list[tuple[str, str]]:
    assert request.messages is not None
    return [(message.role, message.content) for message in request.messages]


async def test_session_remembers_its_turns(node_factory: NodeFactory) -> None:
    backend = Narrator("f")
    node, address = await gateway_node(node_factory, backend)
    user = (await post(address, "/users", username="Ana"))["user_id"]
    session = await post(address, "/sessions", user_id=user, scenario="a cave")
    ident = session["session_id"]
    shown = json.loads((await get(address, f"/sessions/{ident}")).body)
    assert shown == {"id": ident, "user_id": user, "scenario": "a cave"}
    first = await post(address, "/generate-text", session_id=ident, action="look")
    assert first == {"text": "answer 2"}
    await node.kernel.restart("gateway")  # turns outlive a restart
    await post(address, "/generate-text", session_id=ident, action="go")
    assert turns(backend.requests[-1]) == [
        ("system", "a cave"),
        ("user", "look"),
        ("assistant", "answer 2"),
        ("user", "go"),
    ]
    backend.fails = Unavailable("gone")
    assert (await sent(address, "/generate-text", session_id=ident, action="lost")).status == 503
    backend.fails = None
    backend.room = 4  # of six: the oldest turns are left out
    assert await post(address, "/generate-text", session_id=ident, action="up") == {
        "text": "answer 4"
    }
    assert turns(backend.requests[-1])[1:] == [
        ("user", "go"),
        ("assistant", "answer 4"),
        ("user", "up"),
    ]
    again = await sent(address, "/users", username="Ana")
    assert again.status == 409
    assert f"the id {user}" in json.loads(again.body)["detail"]


async def test_callers_see_only_their_own(node_factory: NodeFactory, tmp_path: Path) -> None:
    path = tmp_path / "http.sock"
    node, address = await gateway_node(node_factory, Narrator("f"), unix_socket=str(path))
    callers: list[tuple[str, dict[str, str]]] = [
        (address, {}),
        (address, await bearer(node, "generate")),
        (address, await bearer(node, "admin")),
        (str(path), {}),
    ]
    made = []
    for where, headers in callers:  # the same name for each of them
        user = (await post(where, "/users", headers, username="Ana"))["user_id"]
        session = await post(where, "/sessions", headers, user_id=user)
        made.append((user, session["session_id"]))
    for n, (where, headers) in enumerate(callers):
        for m, (user, ident) in enumerate(made):
            status = 200 if n == m else 404
            assert (await get(where, f"/sessions/{ident}", headers)).status == status
            acted = await sent(where, "/generate-text", headers, session_id=ident, action="look")
            assert acted.status == status
            assert (await sent(where, "/sessions", headers, user_id=user)).status == status


async def test_stored_texts_have_limits(
    node_factory: NodeFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "MAX_USERS", 2)
    monkeypatch.setattr(store, "MAX_SESSIONS", 3)
    monkeypatch.setattr(store, "MAX_TURNS", 4)
    monkeypatch.setattr(store, "MAX_TEXT_BYTES", 200)
    backend = Narrator("f")
    _, address = await gateway_node(node_factory, backend)
    users = [(await post(address, "/users", username=f"u{n}"))["user_id"] for n in range(3)]
    assert [(await sent(address, "/sessions", user_id=user)).status for user in users] == [
        404,  # the one that was unused for the longest time is forgotten
        200,
        200,
    ]
    idents = [(await post(address, "/sessions", user_id=users[2]))["session_id"] for _ in range(3)]
    assert (await get(address, f"/sessions/{idents[0] - 1}")).status == 404
    for n in range(4):
        await post(address, "/generate-text", session_id=idents[0], action=f"go {n}")
    assert [text for _, text in turns(backend.requests[-1])] == [
        *("go 1", "answer 3", "go 2", "answer 5", "go 3"),
    ]
    await post(address, "/generate-text", session_id=idents[1], action="x" * 180)
    statuses = [(await get(address, f"/sessions/{ident}")).status for ident in idents]
    assert statuses == [404, 200, 404]  # sessions leave until the texts fit
