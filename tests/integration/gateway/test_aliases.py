"""Further names of models, in every dialect."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from aitorrentd.api import Embeddings, EmbedRequest, ModelView
from aitorrentd.api.models.embeddings import vector
from tests.support import cli_runs
from tests.support.clients.raw_http import exchange, request
from tests.support.gateway_nodes import gateway_node
from tests.support.inference_fakes import FakeBackend
from tests.support.nodes import NodeFactory

JSON = {"Content-Type": "application/json"}
HELLO = [{"role": "user", "content": "hello"}]


class Embedder(FakeBackend):
    """Also makes vectors, with the model e."""

    async def embedding_models(self) -> Sequence[ModelView]:
        return [ModelView("e", self.name)]

    async def embed(self, request: EmbedRequest) -> Embeddings:
        return Embeddings((vector([0.5, 1.0]),), tokens=1)


async def named(factory: NodeFactory, backend: FakeBackend, **settings: Any) -> str:
    """The address of a node whose model m is also called claude-local."""
    node, address = await gateway_node(factory, backend, **settings)
    node.kernel.configure("gateway", {"aliases": {"claude-local": "m", "claude-gone": "gone"}})
    await node.kernel.restart("gateway")
    return address


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/v1/messages", {"messages": HELLO}),
        ("/v1/chat/completions", {"messages": HELLO}),
        ("/v1/responses", {"input": "hello"}),
        ("/v1/completions", {"prompt": "hello"}),
        ("/api/chat", {"messages": HELLO, "stream": False}),
    ],
)
async def test_a_model_answers_to_its_further_name(
    node_factory: NodeFactory, path: str, fields: dict[str, Any]
) -> None:
    backend = FakeBackend("f")
    address = await named(node_factory, backend)
    for name, status in (("claude-local", 200), ("m", 200), ("claude-gone", 404)):
        body = json.dumps({"model": name, **fields}).encode()
        answer = await exchange(address, request("POST", path, JSON, body))
        assert answer.status == status
        if status == 200:  # clients compare it with what they asked for
            assert json.loads(answer.body)["model"] == name
            assert backend.requests[-1].model == "m"


@pytest.mark.parametrize(
    ("path", "fields", "expected"),
    [
        ("/v1/messages", {"messages": HELLO, "max_tokens": 9}, "n"),
        ("/v1/chat/completions", {"messages": HELLO}, "n"),
        ("/v1/responses", {"input": "hello"}, "n"),
        ("/v1/completions", {"prompt": "hello"}, "n"),
        ("/v1/embeddings", {"input": "hello"}, "e"),
        ("/txt", {"prompt": "hello"}, "n"),
    ],
)
async def test_model_that_is_left_out_is_named_in_the_answer(
    node_factory: NodeFactory, path: str, fields: dict[str, Any], expected: str
) -> None:
    node, address = await gateway_node(node_factory, Embedder("f", ("m", "n")))
    node.kernel.configure("inference", {"default_model": "alias", "capabilities": {"alias": "n"}})
    await node.kernel.restart("inference")
    answer = await exchange(address, request("POST", path, JSON, json.dumps(fields).encode()))
    assert (answer.status, json.loads(answer.body)["model"]) == (200, expected)


async def test_both_names_are_listed(node_factory: NodeFactory) -> None:
    address = await named(node_factory, FakeBackend("f"))
    listed = json.loads((await exchange(address, request("GET", "/v1/models"))).body)
    assert [model["id"] for model in listed["data"]] == ["claude-local", "m"]
    one = await exchange(address, request("GET", "/v1/models/claude-local"))
    assert (one.status, json.loads(one.body)["id"]) == (200, "claude-local")
    gone = await exchange(address, request("GET", "/v1/models/claude-gone"))
    assert gone.status == 404


async def test_launch_takes_a_further_name(node_factory: NodeFactory, tmp_path: Path) -> None:
    socket = tmp_path / "control.sock"
    await named(node_factory, FakeBackend("f"), control=socket)
    (tmp_path / "claude").write_text("#!/bin/sh\n")
    (tmp_path / "claude").chmod(0o755)
    environ = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    command = ("launch", "claude", "--json", "-m")
    code, out, _ = await cli_runs.run(socket, *command, "claude-local", env=environ)
    assert (code, json.loads(out)["environment"]["ANTHROPIC_MODEL"]) == (0, "claude-local")
    code, _, err = await cli_runs.run(socket, *command[:2], "-m", "x", env=environ)
    assert (code, "no model 'x' can answer now" in err) == (1, True)
