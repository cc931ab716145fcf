"""What an error from a peer says besides its text: how long the prompt is, which parameters it is
about. Programs act on it: agents shorten a conversation that is too long. No I/O."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from aitorrentd.api import AitorrentError

_Count = Annotated[int, Field(ge=0, lt=2**53)]
_Name = Annotated[str, Field(max_length=64)]


class ErrorFacts(BaseModel):
    """The data of an error that crosses between peers."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    prompt_tokens: _Count | None = None
    context: _Count | None = None
    max_tokens: _Count | None = None
    params: list[_Name] | None = Field(None, max_length=32)

    def as_data(self) -> dict[str, Any]:
        """As data of an error."""
        return self.model_dump(exclude_none=True)


def facts_of(error: AitorrentError) -> dict[str, Any]:
    """What a peer learns of an error's data; nothing that its program did not mean for callers."""
    data = error.data
    found: dict[str, Any] = {
        name: data[name]
        for name in ("prompt_tokens", "context", "max_tokens")
        if type(data.get(name)) is int
    }
    params = data.get("params")
    if isinstance(params, list) and all(isinstance(name, str) for name in params):
        found["params"] = [name[:64] for name in params[:32]]
    return found
