"""Every dialect over a model that three nodes hold a third of each: the same answer for a seed, the
log-probabilities of transformers, and JSON that matches its schema, also while a stage dies."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pytest
import torch
from jsonschema import Draft202012Validator

from aitorrentd.node import Node
from tests.support.clients.raw_http import exchange, request
from tests.support.http_nodes import served
from tests.support.nodes import Daemon, DaemonFactory, NodeFactory, merged, wait_for
from tests.support.shards.models import make_model
from tests.support.shards.shards_nodes import (
    READY_S,
    answer,
    shards_config,
    shards_network,
)
from tests.support.shards.shards_worker import reference_model

PROMPT: Final = "SEVERALNODESHOLDAMODEL"
TEMPLATE: Final = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
"So that a conversation of one turn and a plain prompt are the same tokens."
THIRDS: Final = ("0-2", "2-4", "4-6")
TURNS: Final = [{"role": "user", "content": PROMPT}]
AT_ONCE: Final = 12
JSON: Final = {"Content-Type": "application/json"}
ANTHROPIC: Final = {"anthropic-version": "2023-06-01", **JSON}


def model(folder: Path) -> Path:
    path = make_model(folder)
    (path / "chat_template.jinja").write_text(TEMPLATE)
    return path


async def asked(address: str, path: str, body: Mapping[str, Any]) -> Any:
    """The answer's JSON."""
    raw = request("POST", path, ANTHROPIC, json.dumps({"model": "m", **body}).encode())
    found = await exchange(address, raw, timeout_s=60)
    assert found.status == 200, found.body
    return json.loads(found.body)


def bodies(wishes: Mapping[str, Any], tokens: int) -> dict[str, dict[str, Any]]:
    """The same question in each dialect, by path; `wishes` are sampling parameters."""
    options = {"options": {**wishes, "num_predict": tokens}, "stream": False}
    return {
        "/v1/chat/completions": {"messages": TURNS, "max_tokens": tokens, **wishes},
        "/v1/completions": {"prompt": PROMPT, "max_tokens": tokens, **wishes},
        "/v1/responses": {"input": PROMPT, "max_output_tokens": tokens, **wishes},
        "/v1/messages": {"messages": TURNS, "max_tokens": tokens, **wishes},
        "/api/chat": {"messages": TURNS, **options},
        "/api/generate": {"prompt": PROMPT, **options},
        "/txt": {"prompt": PROMPT, **options},
    }


def text_of(path: str, found: Any) -> str:
    """The text of an answer of this path."""
    match path:
        case "/v1/chat/completions":
            return str(found["choices"][0]["message"]["content"])
        case "/v1/completions":
            return str(found["choices"][0]["text"])
        case "/v1/responses":
            return str(found["output"][0]["content"][0]["text"])
        case "/v1/messages":
            return str(found["content"][0]["text"])
        case "/api/chat":
            return str(found["message"]["content"])
    return str(found["response"])


def logprobs_of(path: str, found: Any) -> tuple[list[float], list[list[float]]]:
    """(of each token, of the likeliest ones beside it) in an answer of this path."""
    if path == "/v1/completions":
        shown = found["choices"][0]["logprobs"]
        return shown["token_logprobs"], [list(top.values()) for top in shown["top_logprobs"]]
    if path == "/v1/chat/completions":
        entries = found["choices"][0]["logprobs"]["content"]
    elif path == "/v1/responses":
        entries = found["output"][0]["content"][0]["logprobs"]
    else:
        entries = found["logprobs"]
    tops = [[top["logprob"] for top in entry["top_logprobs"]] for entry in entries]
    return [entry["logprob"] for entry in entries], tops


async def test_dialects_over_a_split_model(node_factory: NodeFactory, tmp_path: Path) -> None:
    """The same answer for a seed, transformers' log-probabilities, and valid JSON 200 times of
    200."""
    path = model(tmp_path / "m")
    nodes = await shards_network(node_factory, path, THIRDS)
    address = await served(nodes[0])
    await check_seeds(address, nodes[1])
    await check_logprobs(address, path, nodes[1])
    found = await all_valid(address, 200)
    assert len(found) == 200
    assert len(set(found)) > 100  # the model chooses what it says


async def check_seeds(address: str, other: Node) -> None:
    """Each dialect answers as a node that is asked without any."""
    answers = set()
    for wishes in (
        {"temperature": 1.3, "seed": 7},
        {"temperature": 0.9, "top_p": 0.95, "seed": 2**40},
        {"temperature": 2.0, "top_k": 50, "seed": 0},
        {"temperature": 0},
    ):
        expected = await answer(other, PROMPT, max_tokens=24, **wishes)
        for where, body in bodies(wishes, 24).items():
            found = text_of(where, await asked(address, where, body))
            assert (where, wishes, found) == (where, wishes, expected["text"])
        answers.add(expected["text"])
    assert len(answers) == 4


async def check_logprobs(address: str, path: Path, node: Node) -> None:
    wishes = {"temperature": 0.7, "seed": 3}
    new = (await answer(node, PROMPT, max_tokens=12, **wishes))["ids"]
    ids = torch.tensor([[*(ord(c) - 33 for c in PROMPT), *new]])
    with torch.inference_mode():
        rows = reference_model(path)(ids).logits[0, len(PROMPT) - 1 : -1]
    right = torch.log_softmax(rows.double(), -1)
    due = [row[token].item() for row, token in zip(right, new, strict=True)]
    likeliest = right.topk(4).values.tolist()
    asks = {"logprobs": True, "top_logprobs": 4}
    for where, body in bodies(wishes, 12).items():
        if where in ("/v1/messages", "/txt"):  # they show none
            continue
        wanted: dict[str, Any] = {"/v1/completions": {"logprobs": 4}}.get(where, asks)
        if where == "/v1/responses":
            wanted = {"include": ["message.output_text.logprobs"], "top_logprobs": 4}
        own, tops = logprobs_of(where, await asked(address, where, body | wanted))
        assert own == pytest.approx(due, abs=1e-4), where
        for top, row in zip(tops, likeliest, strict=True):
            assert sorted(top, reverse=True)[:4] == pytest.approx(row, abs=1e-4), where


SHORT: Final = {"type": "string", "maxLength": 6}


def closed(**properties: Any) -> dict[str, Any]:
    """An object with all of these, and no other."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


SCHEMAS: Final[tuple[dict[str, Any], ...]] = (
    closed(n={"type": "integer", "minimum": -5, "maximum": 99}, s={"enum": ["a", "bc", None]}),
    closed(list={"type": "array", "items": SHORT, "minItems": 1, "maxItems": 3}),
    closed(inner=closed(deep=closed(ok={"type": "boolean"}))),
    closed(id={"type": "string", "pattern": "^[A-Z]{2}-[0-9]{3}$"}),
    closed(pick={"anyOf": [{"type": "null"}, {"const": 7}, closed(x={"type": "boolean"})]}),
    {
        "$defs": {"point": closed(x={"enum": [0, 0.5, -1]})},
        **closed(from_={"$ref": "#/$defs/point"}, to={"$ref": "#/$defs/point"}),
    },
    {**closed(a={"type": "boolean"}, b={"const": "B"}, c=SHORT), "required": ["b"]},
    closed(price={"type": "number", "minimum": 0, "maximum": 9, "multipleOf": 0.5}),
    {"type": "array", "items": {"type": "integer", "minimum": 1, "maximum": 9}, "maxItems": 4},
    closed(day={"type": "string", "format": "date"}, kind={"enum": ["ä", "日本", '"q"']}),
)


def json_bodies(schema: Mapping[str, Any], seed: int) -> dict[str, dict[str, Any]]:
    """The wish for JSON with this schema in each dialect that has one."""
    wishes = {"temperature": 1.0, "seed": seed}
    form = {"type": "json_schema", "schema": schema}
    named = {"type": "json_schema", "json_schema": {"name": "n", "strict": True, "schema": schema}}
    own: dict[str, dict[str, Any]] = {
        "/v1/chat/completions": {"response_format": named},
        "/v1/responses": {"text": {"format": {**form, "name": "n", "strict": True}}},
        "/v1/messages": {"output_config": {"format": form}},
        "/api/chat": {"format": schema},
        "/api/generate": {"format": schema},
    }
    asking = bodies(wishes, 300)
    return {path: asking[path] | wish for path, wish in own.items()}


async def valid_json(address: str, number: int) -> str:
    """The text of an answer that matches its schema; `number` decides on schema and dialect."""
    schema = SCHEMAS[number % len(SCHEMAS)]
    wanted = json_bodies(schema, number)
    path = list(wanted)[number // len(SCHEMAS) % len(wanted)]
    text = text_of(path, await asked(address, path, wanted[path]))
    checked = Draft202012Validator(schema, format_checker=Draft202012Validator.FORMAT_CHECKER)
    assert [e.message for e in checked.iter_errors(json.loads(text))] == [], (path, text)
    return text


async def all_valid(address: str, count: int) -> list[str]:
    numbers = iter(range(count))
    found: list[str] = []

    async def some() -> None:
        for number in numbers:
            text = await valid_json(address, number)
            found.append(text)

    async with asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(some())
    return found


async def sessions(daemon: Daemon) -> int:
    """Answers for which a daemon computes layers now."""
    return len((await daemon.call("shards.sessions"))["sessions"])


@pytest.mark.slow
@pytest.mark.allow_error_log
async def test_json_matches_its_schema_while_a_stage_dies(
    daemon_factory: DaemonFactory, tmp_path: Path
) -> None:
    """Another node takes over in the middle of several answers."""
    path = model(tmp_path / "m")
    daemons: list[Daemon] = []
    for layers in ("0-2", "2-4", "4-6", "2-6"):
        known = [(await each.call("node.id"))["addresses"][0] for each in daemons]
        plugins: dict[str, Any] = {"transport": {"bootstrap": known}}
        if not daemons:
            plugins["http"] = {"enabled": True, "port": 0}
        config = shards_config(path, layers, step_timeout_s=5.0, ping_timeout_s=5.0)
        daemons.append(await daemon_factory(merged(config, {"plugins": plugins})))

    async def complete() -> bool:
        return len((await daemons[0].call("shards.spans"))["spans"]) == len(daemons)

    await wait_for(complete, READY_S)
    address = (await daemons[0].call("http.status"))["listening"][0]
    answers = asyncio.ensure_future(all_valid(address, 200))

    async def busy_one() -> Daemon | None:
        for daemon in daemons[1:]:
            if await sessions(daemon) >= 3:
                return daemon
        return None

    busy = await wait_for(busy_one, 20)
    assert busy is not None
    busy.signal(signal.SIGKILL)
    assert not answers.done()
    assert len(await answers) == 200
