"""The APIs of servers that draw: Stable Diffusion web UI, ComfyUI, OpenAI.

Import it where the first picture is asked for: httpx takes a few megabytes.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, Protocol
from urllib.parse import urlencode

from aitorrent_gateway.images.config import ImagesConfig
from aitorrent_gateway.images.pictures import MAX_BYTES, Drawn, from_base64, picture
from aitorrentd.api import (
    AitorrentError,
    Busy,
    ConfigError,
    InvalidParams,
    ProtocolError,
    Unavailable,
    read_regular,
)
from aitorrentd.api.relays.client import HttpServer
from aitorrentd.api.relays.reported_errors import error_in_body

CONNECT_S: Final = 5.0
POLL_S: Final = 0.5
"How often ComfyUI is asked whether it is done."
_MAX_ANSWER: Final = MAX_BYTES * 4 // 3 + 2**20
"A picture in base64, and what stands around it."
_MAX_WORKFLOW: Final = 2**20
_MAX_SEED: Final = 2**32


@dataclass(frozen=True, slots=True)
class Wish:
    """What to draw; sizes in pixels."""

    prompt: str
    width: int
    height: int


class Server(Protocol):
    """A server that draws."""

    async def draw(self, wish: Wish) -> Drawn:
        """A picture.

        Raises:
            Unavailable, TimedOut, Busy: the server cannot draw now. InvalidParams: it refuses the
            prompt. ProtocolError: it sent no picture.
        """

    async def close(self) -> None:
        """Close all connections."""


def server_for(config: ImagesConfig) -> Server:
    """The configured server."""
    if config.kind == "sd-webui":
        return StableDiffusion(config)
    return OpenAi(config) if config.kind == "openai" else ComfyUi(config)


class StableDiffusion:
    """AUTOMATIC1111's web UI, started with --api; Forge and SD.Next have the same API."""

    def __init__(self, config: ImagesConfig) -> None:
        self._config = config
        self._http = _http("Stable Diffusion", config)

    async def close(self) -> None:
        """Close all connections."""
        await self._http.close()

    async def draw(self, wish: Wish) -> Drawn:
        """See `Server.draw`."""
        body: dict[str, Any] = {
            "prompt": wish.prompt,
            "width": wish.width,
            "height": wish.height,
            "steps": self._config.steps,
        }
        if self._config.model:
            body["override_settings"] = {"sd_model_checkpoint": self._config.model}
        images = (await _asked(self._http, "/sdapi/v1/txt2img", body)).get("images")
        return from_base64(
            images[0] if isinstance(images, list) and images else None, self._http.who
        )


class OpenAi:
    """OpenAI's images, and servers that imitate them."""

    def __init__(self, config: ImagesConfig) -> None:
        self._config = config
        self._http = _http("the image server", config)

    async def close(self) -> None:
        """Close all connections."""
        await self._http.close()

    async def draw(self, wish: Wish) -> Drawn:
        """See `Server.draw`."""
        body: dict[str, Any] = {
            "model": self._config.model,
            "prompt": wish.prompt,
            "n": 1,
            "size": f"{wish.width}x{wish.height}",
        }
        if not self._config.model.startswith("gpt-image"):  # which always sends base64
            body["response_format"] = "b64_json"
        rows = (await _asked(self._http, "/images/generations", body)).get("data")
        row = rows[0] if isinstance(rows, list) and rows else None
        # A URL instead is not followed: the server could send this node anywhere.
        return from_base64(row.get("b64_json") if isinstance(row, dict) else None, self._http.who)


class ComfyUi:
    """ComfyUI: a workflow is queued, its history is asked until it is done, its picture fetched."""

    def __init__(self, config: ImagesConfig) -> None:
        self._config = config
        self._http = _http("ComfyUI", config)

    async def close(self) -> None:
        """Close all connections."""
        await self._http.close()

    async def draw(self, wish: Wish) -> Drawn:
        """See `Server.draw`."""
        workflow = await asyncio.to_thread(self._workflow, wish)
        queued = await _asked(self._http, "/prompt", {"prompt": workflow})
        ident = queued.get("prompt_id")
        if not isinstance(ident, str) or not ident.replace("-", "").isalnum():
            raise ProtocolError("ComfyUI queued the prompt without an id")
        try:
            done = await self._done(ident)
        except (AitorrentError, asyncio.CancelledError):
            await self._stop(ident)
            raise
        file = _first_image(done)
        if file is None:
            raise ProtocolError("ComfyUI's workflow made no picture; add a SaveImage node to it")
        content = bytearray()
        async with self._http.opened("GET", f"/view?{urlencode(file)}") as answer:
            async for part in answer.parts:
                content += part
                if len(content) > MAX_BYTES:
                    break
        return picture(bytes(content), "ComfyUI")

    async def _done(self, ident: str) -> dict[str, Any]:
        while True:
            found = await self._http.fetch("GET", f"/history/{ident}", max_bytes=_MAX_ANSWER)
            entry = found.get(ident) if isinstance(found, dict) else None
            if isinstance(entry, dict):
                status = entry.get("status")
                if isinstance(status, dict) and status.get("status_str") == "error":
                    raise Unavailable(f"ComfyUI: {_what_failed(status)}")
                return entry
            await asyncio.sleep(POLL_S)

    async def _stop(self, ident: str) -> None:
        """Take a prompt that nobody waits for any more off the queue."""
        with suppress(AitorrentError):
            async with (
                asyncio.timeout(CONNECT_S),
                self._http.opened("POST", "/queue", {"delete": [ident]}),
            ):
                pass
            async with (
                asyncio.timeout(CONNECT_S),
                self._http.opened("POST", "/interrupt", {"prompt_id": ident}),
            ):
                pass

    def _workflow(self, wish: Wish) -> Any:
        values: dict[str, str | int] = {
            "prompt": wish.prompt,
            "width": wish.width,
            "height": wish.height,
            "steps": self._config.steps,
            "seed": secrets.randbelow(_MAX_SEED),
        }
        file = self._config.workflow
        if file is None:
            return _filled(_plain(self._config.model), values)
        try:
            return _filled(json.loads(read_regular(file, _MAX_WORKFLOW)), values)
        except OSError as e:
            raise ConfigError(
                f"cannot read {file}: {e.strerror}; set plugins.gateway.images.workflow"
            ) from None
        except (ValueError, RecursionError):
            raise ConfigError(f"{file} is not JSON; export the workflow in API format") from None


def _plain(model: str) -> dict[str, Any]:
    """The workflow that ComfyUI begins with, in API format."""

    def node(kind: str, **inputs: Any) -> dict[str, Any]:
        return {"class_type": kind, "inputs": inputs}

    size = {"width": "{width}", "height": "{height}", "batch_size": 1}
    return {
        "1": node("CheckpointLoaderSimple", ckpt_name=model),
        "2": node("CLIPTextEncode", text="{prompt}", clip=["1", 1]),
        "3": node("CLIPTextEncode", text="", clip=["1", 1]),
        "4": node("EmptyLatentImage", **size),
        "5": node(
            "KSampler",
            model=["1", 0],
            positive=["2", 0],
            negative=["3", 0],
            latent_image=["4", 0],
            seed="{seed}",
            steps="{steps}",
            cfg=7.0,
            sampler_name="euler",
            scheduler="normal",
            denoise=1.0,
        ),
        "6": node("VAEDecode", samples=["5", 0], vae=["1", 2]),
        "7": node("SaveImage", images=["6", 0], filename_prefix="aitorrent"),
    }


def _filled(value: Any, values: Mapping[str, str | int]) -> Any:
    """The workflow with its placeholders filled; a text that is one becomes a number."""
    if isinstance(value, dict):
        return {key: _filled(each, values) for key, each in value.items()}
    if isinstance(value, list):
        return [_filled(each, values) for each in value]
    if not isinstance(value, str):
        return value
    if value[:1] == "{" and value[-1:] == "}" and value[1:-1] in values:
        return values[value[1:-1]]
    return value.replace("{prompt}", str(values["prompt"]))


def _first_image(entry: Mapping[str, Any]) -> dict[str, str] | None:
    outputs = entry.get("outputs")
    for output in outputs.values() if isinstance(outputs, dict) else ():
        images = output.get("images") if isinstance(output, dict) else None
        for image in images if isinstance(images, list) else ():
            if isinstance(image, dict) and isinstance(image.get("filename"), str):
                return {key: str(image.get(key, "")) for key in ("filename", "subfolder", "type")}
    return None


def _what_failed(status: Mapping[str, Any]) -> str:
    for message in status.get("messages") or ():
        if isinstance(message, list) and len(message) == 2 and message[0] == "execution_error":
            return str(message[1].get("exception_message", ""))[:500].strip()
    return "the workflow failed"


def _http(who: str, config: ImagesConfig) -> HttpServer:
    key = config.api_key
    return HttpServer(
        who,
        config.url,
        refused=lambda status, answer, request: _refusal(who, status, answer),
        absent=lambda reason: Unavailable(
            f"cannot connect to {who} at {config.url}; start it, or set plugins.gateway.images.url"
        ),
        connect_timeout_s=CONNECT_S,
        read_timeout_s=config.timeout_s,
        headers=None if key is None else {"Authorization": f"Bearer {key.get_secret_value()}"},
    )


async def _asked(http: HttpServer, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
    answer = await http.fetch("POST", path, body, max_bytes=_MAX_ANSWER)
    if not isinstance(answer, dict):
        raise ProtocolError(f"{http.who}'s {path} sent something that is not a JSON object")
    return answer


def _refusal(who: str, status: int, answer: bytes) -> AitorrentError:
    text = error_in_body(answer).message.strip() or f"HTTP status {status}"
    if status in (401, 403):
        return Unavailable(f"{who}: {text}; is plugins.gateway.images.api_key right?")
    if status == 404:
        return Unavailable(f"{who}: {text}; is its API switched on, and the URL right?")
    if status in (429, 503):
        return Busy(f"{who}: {text}")
    if status in (400, 413, 422):
        return InvalidParams(f"{who}: {text}")
    return Unavailable(f"{who}: {text}")
