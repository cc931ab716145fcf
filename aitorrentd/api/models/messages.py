"""Turns of a conversation."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from aitorrentd.api.models.images import Image, Picture, joined_parts
from aitorrentd.api.models.tools import MAX_CALLS, ToolCall


def _is_text(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as e:
        half = f"\\u{ord(text[e.start]):04x}"
        raise ValueError(f"an unpaired surrogate ({half}), which UTF-8 cannot encode") from None
    return text


Text = Annotated[str, AfterValidator(_is_text)]
"Text that can be encoded as UTF-8."


class Message(BaseModel):
    """One turn of a conversation.

    `content` may be a list of parts, as in the OpenAI API: texts are joined, images go to `images`.
    The role `developer` is OpenAI's newer name for `system`. A null field counts as absent.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    role: Literal["system", "user", "assistant", "tool"] = Field(
        description="author of the turn; developer is accepted for system"
    )
    content: Text = Field(
        description="text, or a list of text and image parts as in the OpenAI API"
    )
    images: tuple[Image, ...] = Field(
        (), max_length=32, description="as base64, data URLs, or URLs that the server fetches"
    )
    tool_calls: tuple[ToolCall, ...] = Field(
        (), max_length=MAX_CALLS, description="the model's calls of tools, in an assistant's turn"
    )
    tool_call_id: Text = Field(
        "", max_length=256, description="in a tool's turn: the id of the call that it answers"
    )
    tool_name: Text = Field(
        "", max_length=128, description="in a tool's turn: which tool it is (Ollama)"
    )

    @model_validator(mode="before")
    @classmethod
    def _from_dialects(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        fields = {k: v for k, v in value.items() if v is not None}
        if fields.get("tool_calls"):
            fields.setdefault("content", "")
        if fields.get("role") == "developer":
            fields["role"] = "system"
        if isinstance(fields.get("content"), list | tuple):
            text, images = joined_parts(fields["content"])
            fields["content"] = text
            if images:
                fields["images"] = (*fields.get("images", ()), *images)
        return fields

    def pictures(self) -> tuple[Picture, ...]:
        """The images, in every form that a server may need."""
        return tuple(Picture.of(text) for text in self.images)
