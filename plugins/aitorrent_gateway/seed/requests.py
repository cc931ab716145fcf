"""Requests of games, and how their errors look. No I/O.

Wrong fields are told as FastAPI does: status 422 and a list with the place of each.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Final, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from aitorrent_gateway.core.bodies import json_object
from aitorrent_gateway.core.fields import explained, ignored_header, present
from aitorrent_gateway.ollama.options import KNOWN, params_of
from aitorrentd.api import GenerateRequest, InvalidParams
from aitorrentd.api.faces.errors import HttpFault
from aitorrentd.api.models.sampling import SamplingParams

MAX_TEXT_CHARS: Final = 100_000
Text = Annotated[str, Field(min_length=1, max_length=MAX_TEXT_CHARS)]
Ident = Annotated[int, Field(ge=1, lt=2**53)]
B = TypeVar("B", bound="Body")


class Body(BaseModel):
    """A request's body; fields that nobody knows do not matter, as in FastAPI, and are reported."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True)

    def headers(self) -> dict[str, str]:
        """Of the answer: which fields nobody knows."""
        return ignored_header(present(self.model_extra or {}), frozenset())


class TextBody(Body):
    """POST /txt."""

    prompt: Text
    stream: bool = False
    model: Annotated[str, Field(max_length=256)] = ""
    options: dict[str, Any] = Field(default_factory=dict)
    "As in Ollama's /api/generate, which answers in the same shape."

    @model_validator(mode="before")
    @classmethod
    def _older(cls, value: Any) -> Any:
        """Older clients call the prompt `context`; a null counts as absent."""
        if not isinstance(value, dict):
            return value
        fields = {key: each for key, each in value.items() if each is not None}
        return fields if "prompt" in fields else fields | {"prompt": fields.pop("context", None)}

    def wanted(self) -> GenerateRequest:
        """What the node shall answer.

        Raises:
            Unprocessable: an option has no valid value, or cannot be done here.
        """
        try:
            params = SamplingParams.model_validate(params_of(self.options))
        except ValidationError as e:
            raise _wrong_options(explained(e)) from None
        except InvalidParams as e:
            raise _wrong_options(e) from None
        return GenerateRequest(model=self.model, prompt=self.prompt, params=params)

    def headers(self) -> dict[str, str]:
        """Of the answer: which fields and options nobody knows."""
        inner = present(self.options).keys() - KNOWN
        unknown = present(self.model_extra or {})
        return ignored_header(unknown, frozenset(), {f"options.{name}" for name in inner})


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


def _wrong_options(error: InvalidParams) -> Unprocessable:
    place = ["body", "options"]
    return Unprocessable([{"type": "value_error", "loc": place, "msg": error.message}])


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
