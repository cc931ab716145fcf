"""The control method about further names of models: `gateway.aliases`."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from aitorrent_gateway.core.aliases import Aliases
from aitorrentd.api import CallContext, Method, NoParams


class AliasRows(BaseModel):
    """Result of gateway.aliases."""

    model_config = ConfigDict(frozen=True)

    aliases: dict[str, str] = Field(description="models' own names, by their further names")


def alias_method(aliases: Aliases) -> Method:
    """The method that lists the names."""

    def names(call: CallContext, params: NoParams) -> AliasRows:
        return AliasRows(aliases=dict(aliases.names()))

    return Method(
        "gateway.aliases",
        names,
        "Further names of models in the APIs for programs: those of the settings, and copies that"
        " clients of Ollama made.",
        result=AliasRows,
    )
