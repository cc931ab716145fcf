"""`/v1/images/generations`, as OpenAI has it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from aitorrent_gateway.core.documents import later
from aitorrent_gateway.images.drawing import NO_SERVER, Drawing
from aitorrentd.api import PluginContext
from aitorrentd.api.faces.asgi import App
from aitorrentd.api.faces.errors import HttpFault
from aitorrentd.api.faces.routes import HttpRoute, Scope

if TYPE_CHECKING:
    from starlette.requests import Request

MAX_PROMPT_CHARS: Final = 32_000
MAX_PICTURES: Final = 4
"In one request; they are drawn one after the other."
_SIZE: Final = re.compile(r"(\d{2,4})x(\d{2,4})", re.ASCII)
_KNOWN: Final = frozenset(
    {"background", "model", "moderation", "n", "output_compression", "output_format", "prompt"}
    | {"quality", "response_format", "size", "style", "user"}
)


class ImageRoutes:
    """Answers for one node."""

    def __init__(self, ctx: PluginContext, drawing: Drawing) -> None:
        self._ctx = ctx
        self._drawing = drawing

    def routes(self) -> list[HttpRoute]:
        """What the HTTP server mounts."""
        return [
            HttpRoute(
                "/v1/images/generations",
                frozenset({"POST"}),
                self._generate,
                Scope.GENERATE,
                "OpenAI: pictures from a text.",
                slots=self._ctx.config.requests,
                browser=True,
                body=_body,
                answers=later("aitorrent_gateway.openai.answer_schemas", "pictures"),
            )
        ]

    async def _generate(self, request: Request) -> App:
        from starlette.responses import JSONResponse, Response

        from aitorrent_gateway.core.bodies import json_object
        from aitorrent_gateway.core.fields import ignored_header, present

        fields = present(json_object(await request.body()))
        prompt, count, size = _asked(fields)
        config = self._drawing.config
        if config is None:
            fault = HttpFault(501, "server_error", "not_configured", NO_SERVER)
            return Response(fault.body(), 501, media_type="application/json")
        drawn = [await self._drawing.draw(config, prompt, size) for _ in range(count)]
        return JSONResponse(
            {
                "created": int(self._ctx.clock.time()),
                "data": [{"b64_json": each.base64()} for each in drawn],
                "output_format": drawn[0].media_type.partition("/")[2],
                "size": f"{drawn[0].width}x{drawn[0].height}",
            },
            headers=ignored_header(fields, _KNOWN),
        )


def _body() -> dict[str, Any]:
    """The schema of a request, by the limits of `_asked`."""
    prompt = {"type": "string", "minLength": 1, "maxLength": MAX_PROMPT_CHARS}
    own = {
        "prompt": prompt,
        "n": {"type": ["integer", "null"], "minimum": 1, "maximum": MAX_PICTURES},
        "size": {"type": ["string", "null"], "pattern": f"^(auto|{_SIZE.pattern})$"},
        "response_format": {"enum": ["b64_json", None]},
    }
    properties = {name: own.get(name, {}) for name in sorted(_KNOWN)}
    return {"type": "object", "properties": properties, "required": ["prompt"]}


def _asked(fields: dict[str, Any]) -> tuple[str, int, tuple[int, int] | None]:
    """(prompt, number of pictures, size) of a request.

    Raises:
        InvalidParams: with `param` in its data.
    """
    from aitorrent_gateway.core.fields import unsupported, wrong

    prompt = fields.get("prompt")
    if not isinstance(prompt, str) or not 0 < len(prompt) <= MAX_PROMPT_CHARS:
        raise wrong("prompt", f"must be a string of 1 to {MAX_PROMPT_CHARS} characters")
    count = fields.get("n", 1)
    if type(count) is not int or not 1 <= count <= MAX_PICTURES:
        raise wrong("n", f"must be an integer from 1 to {MAX_PICTURES}")
    if fields.get("response_format", "b64_json") != "b64_json":
        raise wrong("response_format", "must be b64_json; this server keeps no pictures")
    if fields.get("stream"):
        raise unsupported("stream")
    if (size := fields.get("size", "auto")) == "auto":
        return prompt, count, None
    match = _SIZE.fullmatch(size) if isinstance(size, str) else None
    sides = (int(match[1]), int(match[2])) if match else (0, 0)
    if not all(64 <= side <= 4096 and side % 8 == 0 for side in sides):
        raise wrong("size", 'is not "auto" or WIDTHxHEIGHT, each a multiple of 8 from 64 to 4096')
    return prompt, count, sides
