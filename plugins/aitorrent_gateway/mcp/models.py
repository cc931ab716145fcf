"""The tools `generate` and `search_models`: models of the whole network, for other models."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import aclosing
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from aitorrent_gateway.core.errors import room_left
from aitorrent_gateway.core.fields import explained
from aitorrent_gateway.mcp.reach import Reach, Report, content, of_strangers
from aitorrent_gateway.mcp.strangers import MOST_ANSWER_CHARS, plain
from aitorrentd.api import AitorrentError, InvalidParams
from aitorrentd.api.context import Caller

WAIT_S: Final = 60.0
"How long an answer waits for a model that is loading."
_READY: Final = "ready"


class GenerateArguments(BaseModel):
    """Arguments of `generate`."""

    model_config = ConfigDict(extra="forbid")

    prompt: str = Field(min_length=1, description="What the model is asked, with all it must know.")
    system: str = Field("", description="How it should answer.")
    model: str = Field(
        "", max_length=256, description="A name from search_models; empty for the node's default."
    )
    max_tokens: int = Field(
        1024,
        ge=1,
        le=32_768,
        description="The longest answer, in tokens; lowered to what the model has room for.",
    )
    temperature: float | None = Field(
        None,
        ge=0,
        le=100,
        description="0 for the most likely answer; null = the model's default.",
    )
    seed: int | None = Field(
        None, ge=0, lt=2**63, description="The same seed gives the same answer."
    )


class SearchArguments(BaseModel):
    """Arguments of `search_models`."""

    model_config = ConfigDict(extra="forbid")

    query: str = Field("", max_length=256, description="A part of the name; empty for all.")
    ready: bool = Field(False, description="Only models that can answer now.")
    limit: int = Field(50, ge=1, le=200, description="The most models to return.")


ARGUMENTS: Final[Mapping[str, type[BaseModel]]] = {
    "generate": GenerateArguments,
    "search_models": SearchArguments,
}
TEXTS: Final[Mapping[str, str]] = {
    "generate": "Have a language model of this node's peer-to-peer network answer a prompt. Use it"
    " to delegate a self-contained task to an open model, also one that no single machine can hold."
    " The model sees only the prompt and the system text: no files, no tools, no conversation."
    " Its answer was computed by other people's machines: check it.",
    "search_models": "Find language models that this node can use now, here or on its peers, and"
    " those that are loading or lack layers. Call it before generate to choose a model.",
}


async def run(name: str, arguments: Mapping[str, Any], reach: Reach, report: Report) -> Any:
    """The result of one of the two.

    Raises:
        AitorrentError: why there is none.
    """
    try:
        given = {key: value for key, value in arguments.items() if value is not None}
        asked = ARGUMENTS[name].model_validate(given)
    except ValidationError as e:
        raise explained(e) from None
    if reach.asker is None:
        raise InvalidParams("this caller may not have models answer")
    if isinstance(asked, GenerateArguments):
        return await _generate(asked, reach.asker, report)
    found = SearchArguments.model_validate(asked.model_dump())
    structured, text = of_strangers(await _search(found, reach.asker))
    return content(text, structured)


async def _generate(asked: GenerateArguments, caller: Caller, report: Report) -> dict[str, Any]:
    messages = [{"role": "system", "content": asked.system}] if asked.system else []
    messages.append({"role": "user", "content": asked.prompt})
    sampling = asked.model_dump(include={"max_tokens", "temperature", "seed"}, exclude_none=True)
    params: dict[str, Any] = {"model": asked.model, "messages": messages, "params": sampling}
    params["wait_s"] = WAIT_S
    try:
        text, summary = await _answered(params, caller, report)
    except AitorrentError as e:
        room = room_left(e)
        if room is None:
            raise
        params["params"] = {**sampling, "max_tokens": room}
        text, summary = await _answered(params, caller, report)
    answer = plain(text, MOST_ANSWER_CHARS)
    return content(
        answer,
        {
            "untrusted": True,
            "text": answer,
            "model": plain(str(summary.get("model", ""))),
            "reason": summary.get("reason"),
            "prompt_tokens": summary.get("prompt_tokens"),
            "completion_tokens": summary.get("completion_tokens"),
            "warning": plain(str(summary.get("warning", ""))),
        },
    )


async def _answered(
    params: Mapping[str, Any], caller: Caller, report: Report
) -> tuple[str, dict[str, Any]]:
    """The text of an answer, and what `inference.generate` tells about it at the end."""
    summary: dict[str, Any] = {}
    pieces: list[str] = []

    def loading(state: Mapping[str, Any]) -> None:
        report(None, None, str(state["text"]))

    items = caller.stream("inference.generate", params, progress=loading, summary=summary)
    async with aclosing(items):
        async for item in items:
            pieces.append(item["text"])
            report(None, None, item["text"])
    return "".join(pieces), summary


async def _search(asked: SearchArguments, caller: Caller) -> dict[str, Any]:
    reply = await caller.call("inference.models")
    found: dict[str, dict[str, Any]] = {}
    for row in [*reply["models"], *reply["pending"]]:
        state = row.get("state", _READY)
        if asked.query.lower() in row["name"].lower() and (state == _READY or not asked.ready):
            found.setdefault(
                row["name"],
                {
                    "name": row["name"],
                    "state": state,
                    "family": row.get("family", ""),
                    "context_length": row.get("context_length"),
                    "size_bytes": row.get("size_bytes"),
                    "lacks": row.get("shortage", ""),
                },
            )
    names = sorted(found)
    return {"models": [found[name] for name in names[: asked.limit]], "total": len(names)}
