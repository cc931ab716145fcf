"""What an error from a peer says besides its text: how long the prompt is, which parameters it is
about, which layers are missing, when to ask again. Programs act on it: agents shorten a
conversation that is too long, and do not repeat at once what fails for want of layers. No I/O.

Nodes ignore facts that they do not know, so a new one needs no new protocol.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field

from aitorrentd.api import AitorrentError

_COUNTS: Final = 2**53
_MOST_WAIT_S: Final = 3600
_Count = Annotated[int, Field(ge=0, lt=_COUNTS)]
_Seconds = Annotated[int, Field(ge=1, le=_MOST_WAIT_S)]
_Name = Annotated[str, Field(max_length=64)]
_Layers = Annotated[list[_Count], Field(min_length=2, max_length=2)]
_MOST_LAYERS: Final = 64


class ErrorFacts(BaseModel):
    """The data of an error that crosses between peers."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    prompt_tokens: _Count | None = None
    context: _Count | None = None
    max_tokens: _Count | None = None
    retry_after_s: _Seconds | None = None
    params: list[_Name] | None = Field(None, max_length=32)
    layers: list[_Layers] | None = Field(None, max_length=_MOST_LAYERS)
    "Ranges without a holder: the first layer, and one past the last."

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
    if type(wait_s := data.get("retry_after_s")) is int and 0 < wait_s <= _MOST_WAIT_S:
        found["retry_after_s"] = wait_s
    params = data.get("params")
    if isinstance(params, list) and all(isinstance(name, str) for name in params):
        found["params"] = [name[:64] for name in params[:32]]
    if isinstance(layers := data.get("layers"), list | tuple):
        ranges = [list(each) for each in layers if isinstance(each, list | tuple)]
        found["layers"] = [
            each
            for each in ranges[:_MOST_LAYERS]
            if len(each) == 2 and all(type(n) is int and 0 <= n < _COUNTS for n in each)
        ]
    return found
