"""Tools that a model may call, and its calls, in the shapes of OpenAI and Ollama. No I/O."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from aitorrentd.errors import InvalidParams

MAX_TOOLS: Final = 256
"Tools in a request."
MAX_CALLS: Final = 128
"Calls of tools in a message or an answer."
MAX_ARGUMENTS: Final = 1024 * 1024
"Characters of a call's arguments."
_NAME: Final = r"^[A-Za-z0-9_.:/-]{1,128}$"


def is_tool_name(name: str) -> bool:
    """Whether a tool may have this name."""
    return re.fullmatch(_NAME, name) is not None


class _OfFunction(BaseModel):
    """Accepts the fields beside `type`, or inside `function` as in the OpenAI API."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _unwrapped(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        fields = {k: v for k, v in value.items() if v is not None}
        kind = fields.pop("type", "function")
        if kind != "function":
            raise ValueError(f"a tool of type {str(kind)[:32]!r}; only functions can be called")
        inner = fields.pop("function", None)
        if isinstance(inner, dict):
            fields |= {k: v for k, v in inner.items() if v is not None}
        fields.pop("index", None)
        if isinstance(fields.get("arguments"), dict):
            fields["arguments"] = json.dumps(fields["arguments"])
        return fields


class Tool(_OfFunction):
    """A function that the model may call; also accepted as OpenAI's {type, function}."""

    name: str = Field(pattern=_NAME, description="of the function")
    description: str = Field("", max_length=65_536, description="when and how to call it")
    parameters: dict[str, Any] | None = Field(None, description="JSON Schema of the arguments")
    strict: bool | None = Field(None, description="whether calls must match the schema (OpenAI)")


class ToolCall(_OfFunction):
    """A call of a tool by the model; also accepted as OpenAI's or Ollama's {function}."""

    id: str = Field("", max_length=256, description="repeated in the tool's answer")
    name: str = Field(pattern=_NAME, description="of the called function")
    arguments: str = Field(
        "{}",
        max_length=MAX_ARGUMENTS,
        description="a JSON object, as an object or as text; a model may write invalid JSON",
    )

    @field_validator("arguments")
    @classmethod
    def _is_text(cls, value: str) -> str:
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ValueError("an unpaired surrogate, which UTF-8 cannot encode") from None
        return value or "{}"


class NamedTool(BaseModel):
    """A choice of one tool; also accepted as OpenAI's {type, function: {name}}."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=_NAME, description="of the tool to call")

    @model_validator(mode="before")
    @classmethod
    def _unwrapped(cls, value: Any) -> Any:
        inner = value.get("function") if isinstance(value, dict) else None
        return inner if isinstance(inner, dict) else value


ToolChoice = Literal["auto", "none", "required"] | NamedTool
"Whether the model may call tools, must not, or must call one, or that one."


def check_tools(tools: Sequence[Tool], choice: ToolChoice | None, *, has_messages: bool) -> None:
    """Reject tools without a conversation, two of one name, and a choice of a tool that is missing.

    Raises:
        ValueError: one of these.
    """
    names = [tool.name for tool in tools]
    if tools and not has_messages:
        raise ValueError('"tools" require "messages"')
    if len(set(names)) < len(names):
        raise ValueError('"tools" has two of the same name')
    if choice == "required" and not tools:
        raise ValueError('"tool_choice" is required, but there are no "tools"')
    if isinstance(choice, NamedTool) and choice.name not in names:
        raise ValueError(f'"tool_choice" names {choice.name!r}, which is not in "tools"')


def tool_map(tool: Tool) -> dict[str, Any]:
    """The tool as OpenAI, Ollama and chat templates take it."""
    return {
        "type": "function",
        "function": tool.model_dump(exclude_none=True) | {"parameters": tool.parameters or _NONE},
    }


_NONE: Final[dict[str, Any]] = {"type": "object", "properties": {}}


def call_map(call: ToolCall, *, as_object: bool = False) -> dict[str, Any]:
    """The call as OpenAI takes it; with `as_object`, as Ollama does: arguments as an object.

    Raises:
        InvalidParams: they are to be an object, and are none.
    """
    arguments: Any = call.arguments
    if as_object:
        try:
            arguments = json.loads(call.arguments)
        except (ValueError, RecursionError):
            arguments = None
        if not isinstance(arguments, dict):
            raise InvalidParams(f"the arguments of the call of {call.name} are not a JSON object")
    function = {"name": call.name, "arguments": arguments}
    return {"id": call.id, "type": "function", "function": function}
