"""What games are answered, as JSON Schemas by media type. No I/O."""

from __future__ import annotations

from typing import Any, Final

from aitorrent_gateway.core.schemas import ANY_OBJECT, COUNT, TEXT, Json, each, maybe, one_of, shape
from aitorrent_gateway.ollama.answer_schemas import generate

JSON: Final = "application/json"
_PICTURE: Final[Json] = {"type": "string", "contentEncoding": "binary"}
_FORMATS: Final = ("image/png", "image/jpeg", "image/webp")
Answers = dict[str, Json]


def error() -> Json:
    """Of an error; where a body is wrong, each problem with its place."""
    return shape({"detail": one_of(TEXT, each(ANY_OBJECT))})


def hello() -> Answers:
    """Of GET /txt, and of a turn in a session."""
    return {JSON: shape({"text": TEXT})}


def text() -> Answers:
    """Of POST /txt, as Ollama's."""
    return generate()


def sample() -> Answers:
    """Of GET /img."""
    return {"image/png": _PICTURE}


def scene() -> Answers:
    """Of a picture in a session."""
    return {JSON: shape({"image": TEXT})}


def picture() -> Answers:
    """Of POST /img, which also answers with the picture itself."""
    return {**scene(), **dict.fromkeys(_FORMATS, _PICTURE)}


def models() -> Answers:
    """Of /list_models."""
    return {JSON: shape({"models": each(TEXT)})}


def user() -> Answers:
    """Of /users."""
    return {JSON: shape({"user_id": COUNT})}


def new_session() -> Answers:
    """Of /sessions."""
    return {JSON: shape({"session_id": COUNT})}


def session() -> Answers:
    """Of a session."""
    fields: dict[str, Any] = {"id": COUNT, "user_id": COUNT, "scenario": maybe(TEXT)}
    return {JSON: shape(fields)}
