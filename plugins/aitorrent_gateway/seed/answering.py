"""Answers to games: texts, pictures, and the turns of a session."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any, Final
from weakref import WeakValueDictionary

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from aitorrent_gateway.core.answers import generated
from aitorrent_gateway.core.errors import prompt_too_long
from aitorrent_gateway.core.models import named
from aitorrent_gateway.images.drawing import NO_SERVER, Drawing
from aitorrent_gateway.images.pictures import Drawn, sample
from aitorrent_gateway.ollama.answering import Answer
from aitorrent_gateway.ollama.names import tagged
from aitorrent_gateway.ollama.shapes import NDJSON, Shape
from aitorrent_gateway.seed import requests
from aitorrent_gateway.seed.store import GameStore, Session
from aitorrentd.api import Clock, GenerateRequest, Inference, InvalidParams, Message
from aitorrentd.api.faces.asgi import App
from aitorrentd.api.faces.streaming import Stream

CONTEXT_TURNS: Final = 40
"Turns that are sent along with an action; fewer if the model's context has no room."
_PLAYER: Final = "player"
_AI: Final = "AI"
_IMAGE: Final = "image"


class Games:
    """Answers for one node."""

    def __init__(self, store: GameStore, drawing: Drawing) -> None:
        self._store = store
        self._drawing = drawing
        self._turns: WeakValueDictionary[int, asyncio.Lock] = WeakValueDictionary()

    async def hello(self) -> App:
        """GET /txt."""
        return JSONResponse({"text": "hello world"})

    async def text(self, request: Request, inference: Inference, clock: Clock) -> App:
        """POST /txt: as Ollama's /api/generate answers, but whole unless the client wants a
        stream."""
        asked = requests.read(requests.TextBody, await request.body())
        wanted = await named(asked.wanted(), inference)
        answer = Answer(
            wanted,
            wanted.model,
            Shape(wanted.model, is_chat=False),
            inference,
            clock,
            clock.monotonic(),
        )
        if not asked.stream:
            return JSONResponse(await answer.whole(), headers=asked.headers())
        lines = answer.lines()
        await anext(lines)  # raises what is wrong so far
        return Stream(lines, NDJSON, headers=asked.headers())

    async def sample(self) -> App:
        """GET /img: a picture that is always there."""
        return Response(sample(), media_type="image/png")

    async def picture(self, request: Request) -> App:
        """POST /img: as JSON, or as a picture if the client prefers that."""
        asked = requests.read(requests.PictureBody, await request.body())
        drawn = await self._drawn(asked.prompt)
        if isinstance(drawn, Response):
            return drawn
        if "image/" in request.headers.get("accept", ""):
            return Response(drawn.content, headers=asked.headers(), media_type=drawn.media_type)
        return JSONResponse({"image": drawn.base64()}, headers=asked.headers())

    async def models(self, inference: Inference) -> App:
        """GET /list_models."""
        names = sorted({tagged(view.name) for view in await inference.models()})
        return JSONResponse({"models": names})

    async def user(self, request: Request) -> App:
        """POST /users."""
        asked = requests.read(requests.UserBody, await request.body())
        ident = await self._store.add_user(_owner(request), asked.username)
        return JSONResponse({"user_id": ident}, headers=asked.headers())

    async def new_session(self, request: Request) -> App:
        """POST /sessions."""
        asked = requests.read(requests.SessionBody, await request.body())
        ident = await self._store.add_session(_owner(request), asked.user_id, asked.scenario)
        return JSONResponse({"session_id": ident}, headers=asked.headers())

    async def session(self, request: Request) -> App:
        """GET /sessions/{id}."""
        ident = request.path_params["session_id"]
        if not ident.isascii() or not ident.isdecimal() or len(ident) > 15:
            place = ["path", "session_id"]
            text = "Input should be a valid integer"
            raise requests.Unprocessable([{"type": "int_parsing", "loc": place, "msg": text}])
        found = await self._store.session(_owner(request), int(ident))
        shown = {"id": found.ident, "user_id": found.user_id, "scenario": found.scenario}
        return JSONResponse(shown)

    async def act(self, request: Request, inference: Inference) -> App:
        """POST /generate-text: what follows from a player's action. Both turns are kept if there
        is an answer."""
        asked = requests.read(requests.ActionBody, await request.body())
        owner = _owner(request)
        session = await self._store.session(owner, asked.session_id)
        async with self._turns.setdefault(session.ident, asyncio.Lock()):
            text = await self._told(session, asked.action, inference)
            await self._store.add_turns(owner, session, (_PLAYER, asked.action), (_AI, text))
        return JSONResponse({"text": text}, headers=asked.headers())

    async def scene(self, request: Request) -> App:
        """POST /generate-image."""
        asked = requests.read(requests.SceneBody, await request.body())
        owner, session = _owner(request), None
        if asked.session_id is not None:
            session = await self._store.session(owner, asked.session_id)
        drawn = await self._drawn(asked.description)
        if isinstance(drawn, Response):
            return drawn
        if session is not None:
            await self._store.add_turns(owner, session, (_IMAGE, asked.description))
        return JSONResponse({"image": drawn.base64()}, headers=asked.headers())

    async def _drawn(self, prompt: str) -> Drawn | Response:
        config = self._drawing.config
        if config is None:
            return JSONResponse({"detail": NO_SERVER}, 501)
        return await self._drawing.draw(config, prompt)

    async def _told(self, session: Session, action: str, inference: Inference) -> str:
        """The answer to an action, with as many earlier turns as the model has room for."""
        turns = await self._store.turns(session)
        said = [_message(sender, text) for sender, text in turns if sender in (_PLAYER, _AI)]
        count = min(CONTEXT_TURNS, len(said))
        while True:
            earlier = said[len(said) - count :]
            messages = [*_scenario(session), *earlier, Message(role="user", content=action)]
            try:
                return await _whole(GenerateRequest(messages=tuple(messages)), inference)
            except InvalidParams as e:
                if prompt_too_long(e) is None or not count:
                    raise
                count //= 2


async def _whole(request: GenerateRequest, inference: Inference) -> str:
    async with aclosing(generated(request, inference)) as chunks:
        return "".join([chunk.text async for chunk in chunks])


def _message(sender: str, text: str) -> Message:
    return Message(role="user" if sender == _PLAYER else "assistant", content=text)


def _scenario(session: Session) -> list[Message]:
    return [Message(role="system", content=session.scenario)] if session.scenario else []


def _owner(request: Request) -> str:
    owner: Any = request.scope["aitorrent.caller"]
    return str(owner)
