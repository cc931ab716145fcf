"""Requests of games, and how their errors look. No I/O.

Wrong fields are told as FastAPI does: status 422 and a list with the place of each.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Final, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from aitorrent_gateway.core.bodies import json_object
from aitorrentd.api import InvalidParams
from aitorrentd.api.faces.errors import HttpFault

MAX_TEXT_CHARS: Final = 100_000
Text = Annotated[str, Field(min_length=1, max_length=MAX_TEXT_CHARS)]
Ident = Annotated[int, Field(ge=1, lt=2**53)]
B = TypeVar("B", bound="Body")


class Body(BaseModel):
    """A request's body; fields that nobody knows are ignored, as FastAPI does."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)


class TextBody(Body):
    """POST /txt."""

    prompt: Text
    stream: bool = False
    model: Annotated[str, Field(max_length=256)] = ""

    @model_validator(mode="before")
    @classmethod
    def _older(cls, value: Any) -> Any:
        """Older clients call the prompt `context`; a null counts as absent."""
        if not isinstance(value, dict):
            return value
        fields = {key: each for key, each in value.items() if each is not None}
        return fields | ({} if "prompt" in fields else {"prompt": fields.get("context")})


class PictureBody(Body):
    """POST /img."""

    prompt: Text


class UserBody(Body):
    """POST /users."""

    username: Annotated[str, Field(min_length=1, max_length=200)]


class SessionBody(Body):
    """POST /sessions."""

    user_id: Ident
    scenario: Annotated[str, Field(max_length=MAX_TEXT_CHARS)] | None = None


class ActionBody(Body):
    """POST /generate-text."""

    session_id: Ident
    action: Text


class SceneBody(Body):
    """POST /generate-image."""

    description: Text
    session_id: Ident | None = None


class Unprocessable(Exception):
    """The body is wrong; `detail` is FastAPI's list."""

    def __init__(self, detail: list[dict[str, Any]]) -> None:
        super().__init__(str(detail))
        self.detail = detail


def read(kind: type[B], body: bytes) -> B:
    """The body of a request.

    Raises:
        Unprocessable: what is wrong.
    """
    try:
        return kind.model_validate(json_object(body))
    except InvalidParams as e:
        problem = {"type": "json_invalid", "loc": ["body"], "msg": e.message}
        raise Unprocessable([problem]) from None
    except ValidationError as e:
        raise Unprocessable(
            [
                {"type": each["type"], "loc": ["body", *each["loc"]], "msg": each["msg"]}
                for each in e.errors(include_url=False, include_input=False, include_context=False)
            ]
        ) from None


def error_body(fault: HttpFault, request_id: str) -> bytes:
    """An error in FastAPI's shape."""
    return json.dumps({"detail": fault.message}).encode()
