"""Pictures for programs, with each of the three servers that draw them."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from openai import AsyncOpenAI
from pydantic import ValidationError

from aitorrent_gateway.images import drawing
from aitorrent_gateway.images.config import ImagesConfig
from aitorrent_gateway.images.pictures import Drawn, from_base64, picture, sample
from aitorrentd.api import ProtocolError
from tests.integration.gateway.games.test_seed import get, post, sent
from tests.support.clients.raw_http import connection, request
from tests.support.gateway_nodes import gateway_node
from tests.support.inference_fakes import FakeBackend
from tests.support.nodes import NodeFactory, free_port, wait_for
from tests.support.servers.http_server import HttpServer
from tests.support.servers.image_servers import (
    FakeComfyUi,
    FakeOpenAiImages,
    FakeStableDiffusion,
    ImageServer,
    png,
)

KINDS: dict[str, type[ImageServer]] = {
    "sd-webui": FakeStableDiffusion,
    "comfyui": FakeComfyUi,
    "openai": FakeOpenAiImages,
}
JSON = {"Content-Type": "application/json"}
DRAW = b'{"prompt":"draw"}'


@asynccontextmanager
async def drawing_node(
    factory: NodeFactory, kind: str, server: ImageServer, **settings: Any
) -> AsyncIterator[str]:
    """The address of a node whose pictures come from `server`."""
    node, address = await gateway_node(factory, FakeBackend("f"))
    async with HttpServer(server) as there:
        url = f"http://127.0.0.1:{there.port}{'/v1' if kind == 'openai' else ''}"
        images = {"kind": kind, "url": url, "model": "sd.safetensors", **settings}
        node.kernel.configure("gateway", {"images": images})
        await node.kernel.restart("gateway")
        yield address


@pytest.mark.parametrize("kind", KINDS)
async def test_picture_from_each_server(node_factory: NodeFactory, kind: str) -> None:
    server = KINDS[kind]()
    async with drawing_node(node_factory, kind, server, width=256, steps=4) as address:
        drawn = await post(address, "/img", prompt='a "cave" {width}')
        assert base64.b64decode(drawn["image"]) == png()
        raw = await sent(address, "/img", {"Accept": "image/png"}, prompt="draw")
        assert (raw.headers["content-type"], raw.body) == ("image/png", png())
        host = f"http://{address}/v1"
        async with AsyncOpenAI(base_url=host, api_key="none", max_retries=0) as client:
            found = await client.images.generate(prompt="draw", n=2, size="64x128")
        assert found.data is not None
        assert [each.b64_json for each in found.data] == [drawn["image"]] * 2
    first, *_, last = server.asked
    if kind == "sd-webui":
        assert (first["prompt"], first["width"], first["steps"]) == ('a "cave" {width}', 256, 4)
        assert first["override_settings"] == {"sd_model_checkpoint": "sd.safetensors"}
        assert (last["width"], last["height"]) == (64, 128)
    elif kind == "openai":
        assert first == {
            "model": "sd.safetensors",
            "prompt": 'a "cave" {width}',
            "n": 1,
            "size": "256x512",
            "response_format": "b64_json",
        }
    else:
        nodes = first["prompt"]
        assert nodes["1"]["inputs"]["ckpt_name"] == "sd.safetensors"
        assert nodes["2"]["inputs"]["text"] == 'a "cave" {width}'
        assert nodes["4"]["inputs"]["width"] == 256
        assert nodes["5"]["inputs"]["steps"] == 4
        assert type(nodes["5"]["inputs"]["seed"]) is int


async def test_own_workflow_of_comfyui(node_factory: NodeFactory, tmp_path: Path) -> None:
    file = tmp_path / "flow.json"
    file.write_text(
        '{"9": {"class_type": "X", "inputs": {"text": "oil, {prompt}", "w": "{width}"}}}'
    )
    server = FakeComfyUi()
    async with drawing_node(node_factory, "comfyui", server, workflow=str(file)) as address:
        await post(address, "/img", prompt="draw")
        assert server.asked[0]["prompt"]["9"]["inputs"] == {"text": "oil, draw", "w": 512}
        file.write_text("no json")
        refused = await sent(address, "/img", prompt="draw")
        assert refused.status == 400
        assert "export the workflow in API format" in json.loads(refused.body)["detail"]


@pytest.mark.parametrize(
    ("kind", "refusal", "status", "text"),
    [
        ("sd-webui", (500, {"error": "OutOfMemoryError", "errors": "CUDA out of memory"}), 503,
         "Stable Diffusion: "),
        ("sd-webui", (404, {"detail": "Not Found"}), 503, "is its API switched on"),
        ("sd-webui", (422, {"detail": [{"loc": ["body", "steps"], "msg": "too many"}]}), 400,
         "too many"),
        ("comfyui", (400, {"error": {"type": "invalid_prompt", "message": "no outputs"}}), 400,
         "no outputs"),
        ("openai", (401, {"error": {"message": "Incorrect API key"}}), 503,
         "is plugins.gateway.images.api_key right?"),
        ("openai", (429, {"error": {"message": "Rate limit reached"}}), 429, "Rate limit"),
        ("openai", (400, {"error": {"code": "content_policy_violation", "message": "no"}}), 400,
         "no"),
    ],
)  # fmt: skip
async def test_refusals_of_servers(
    node_factory: NodeFactory, kind: str, refusal: tuple[int, Any], status: int, text: str
) -> None:
    server = KINDS[kind]()
    server.refusal = refusal
    async with drawing_node(node_factory, kind, server) as address:
        answer = await sent(address, "/img", prompt="draw")
        assert (answer.status, text in json.loads(answer.body)["detail"]) == (status, True)


async def test_what_is_no_picture_is_refused(node_factory: NodeFactory) -> None:
    server = FakeStableDiffusion()
    async with drawing_node(node_factory, "sd-webui", server) as address:
        for content in (b"", b"<svg/>", b"GIF89a" + bytes(20), png(100_000, 100_000), png(0, 8)):
            server.content = content
            assert (await sent(address, "/img", prompt="draw")).status == 502


async def test_url_instead_of_a_picture_is_not_followed(node_factory: NodeFactory) -> None:
    server = FakeOpenAiImages()
    server.as_url = True
    async with drawing_node(node_factory, "openai", server) as address:
        answer = await sent(address, "/img", prompt="draw")
        assert (answer.status, "sent no picture" in answer.body.decode()) == (502, True)


async def test_node_of_comfyui_that_fails_is_told(node_factory: NodeFactory) -> None:
    server = FakeComfyUi()
    server.failure = "CUDA out of memory"
    async with drawing_node(node_factory, "comfyui", server) as address:
        answer = await sent(address, "/img", prompt="draw")
        assert (answer.status, json.loads(answer.body)["detail"]) == (
            503,
            "ComfyUI: CUDA out of memory",
        )


async def test_pictures_are_drawn_one_at_a_time(
    node_factory: NodeFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drawing, "MAX_WAITING", 3)
    server = FakeStableDiffusion()
    server.gate = asyncio.Event()
    async with drawing_node(node_factory, "sd-webui", server) as address:
        waiting = [asyncio.create_task(sent(address, "/img", prompt="draw")) for _ in range(3)]
        await wait_for(lambda: server.drawing == 1, 5)

        async def is_full() -> bool:
            answer = await asyncio.wait_for(sent(address, "/img", prompt="draw"), 5)
            return answer.status == 429

        await wait_for(is_full, 5)
        server.gate.set()
        answers = await asyncio.gather(*waiting)
    assert [answer.status for answer in answers] == [200] * 3
    assert server.most == 1


async def test_picture_that_takes_too_long(node_factory: NodeFactory) -> None:
    server = FakeComfyUi()
    server.gate = asyncio.Event()
    async with drawing_node(node_factory, "comfyui", server, timeout_s=3.0) as address:
        answer = await sent(address, "/img", prompt="draw")
        assert (answer.status, "timeout_s" in answer.body.decode()) == (504, True)
        assert server.stopped == ["/queue", "/interrupt"]


async def test_client_that_leaves_stops_the_server(node_factory: NodeFactory) -> None:
    server = FakeComfyUi()
    server.gate = asyncio.Event()
    async with drawing_node(node_factory, "comfyui", server) as address:
        async with connection(address) as (_, writer):
            writer.write(request("POST", "/img", JSON, DRAW))
            await wait_for(lambda: server.polls > 0, 5)
        await wait_for(lambda: server.stopped == ["/queue", "/interrupt"], 5)


async def test_scene_of_a_session(node_factory: NodeFactory) -> None:
    async with drawing_node(node_factory, "sd-webui", FakeStableDiffusion()) as address:
        user = (await post(address, "/users", username="Ana"))["user_id"]
        ident = (await post(address, "/sessions", user_id=user))["session_id"]
        scene = await post(address, "/generate-image", description="a cave", session_id=ident)
        assert base64.b64decode(scene["image"]) == png()
        missing = await sent(address, "/generate-image", description="a", session_id=99)
        assert missing.status == 404
        picture_here = await get(address, "/img")
        assert picture(picture_here.body, "node").width == 64


async def test_no_server(node_factory: NodeFactory) -> None:
    node, address = await gateway_node(node_factory, FakeBackend("f"))
    answer = await sent(address, "/v1/images/generations", prompt="draw")
    assert (answer.status, answer.error["code"]) == (501, "not_configured")
    images = {"kind": "sd-webui", "url": f"http://127.0.0.1:{free_port()}"}
    node.kernel.configure("gateway", {"images": images})
    await node.kernel.restart("gateway")
    gone = await sent(address, "/img", prompt="draw")
    assert gone.status == 503
    assert "plugins.gateway.images.url" in json.loads(gone.body)["detail"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "prompt"),
        ({"prompt": "x" * 32_001}, "prompt"),
        ({"prompt": "a", "n": 5}, "n"),
        ({"prompt": "a", "n": True}, "n"),
        ({"prompt": "a", "size": "63x64"}, "size"),
        ({"prompt": "a", "size": "99999x8"}, "size"),
        ({"prompt": "a", "size": [64, 64]}, "size"),
        ({"prompt": "a", "response_format": "url"}, "response_format"),
        ({"prompt": "a", "stream": True}, "stream"),
    ],
)
async def test_requests_for_pictures_that_are_wrong(
    node_factory: NodeFactory, fields: dict[str, Any], param: str
) -> None:
    _, address = await gateway_node(node_factory, FakeBackend("f"))
    answer = await sent(address, "/v1/images/generations", **fields)
    assert (answer.status, answer.error["param"]) == (400, param)


JPEG = bytes.fromhex("ffd8ffe000104a46494600010100000100010000ffc00011080010002003012200")
WEBP = {
    "VP8 ": b"\x00\x00\x00\x9d\x01\x2a" + bytes.fromhex("20001000") + bytes(8),
    "VP8L": b"\x2f" + (31 | 15 << 14).to_bytes(4, "little") + bytes(13),
    "VP8X": bytes(4) + (31).to_bytes(3, "little") + (15).to_bytes(3, "little") + bytes(8),
}


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (png(32, 16), "image/png"),
        (JPEG, "image/jpeg"),
        *(
            (b"RIFF" + bytes(4) + b"WEBP" + name.encode() + bytes(4) + content, "image/webp")
            for name, content in WEBP.items()
        ),
    ],
)
def test_kind_and_size_of_pictures(content: bytes, kind: str) -> None:
    assert picture(content, "s") == Drawn(content, kind, 32, 16)
    for cut in range(len(content)):  # cut anywhere, it is refused or read, but nothing else
        try:
            picture(content[:cut], "s")
        except ProtocolError as e:
            assert e.message.startswith("s sent ")


def test_sample_is_a_picture() -> None:
    assert picture(sample(), "s").width == 64
    with pytest.raises(ProtocolError, match="no base64"):
        from_base64("data:image/png;base64,§", "s")


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"kind": "openai", "url": "http://a"}, "openai needs a model"),
        ({"kind": "comfyui", "url": "http://a"}, "comfyui needs a model, or a workflow"),
        ({"kind": "sd-webui", "url": "a.example"}, "is not a URL"),
        ({"kind": "sd-webui", "url": "http://a", "width": 65}, "multiple of 8"),
    ],
)
def test_settings_that_are_wrong(settings: dict[str, Any], text: str) -> None:
    with pytest.raises(ValidationError, match=text):
        ImagesConfig.model_validate(settings)
