"""Requests of OpenAI's clients, as one of this node. No I/O.

A null counts as absent. What this node cannot do is refused with its name; what has no effect on
the answer is accepted; fields that nobody knows are reported, and do not matter.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from pydantic import ValidationError

from aitorrent_gateway.core.documents import body_of
from aitorrent_gateway.core.fields import (
    MAX_SEED,
    explained,
    flag,
    ignored_header,
    one_of,
    present,
    seed_of,
    top_p_of,
    unsupported,
    whole,
    wrong,
)
from aitorrent_gateway.openai.tools import offered_tools
from aitorrent_gateway.openai.turns import continues, turn_of
from aitorrentd.api import GenerateRequest, InvalidParams

DEFAULT_TOKENS: Final = 16
"Of a completion without max_tokens, as at OpenAI."
MAX_CHOICES: Final = 8
"The largest `n`, and how many answers to one request run at a time: each takes a place."
MAX_ANSWERS: Final = 64
"To all prompts of one request for completions."
SAME: Final = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repeat_penalty",
    "presence_penalty",
    "frequency_penalty",
    "logit_bias",
)
NO_EFFECT: Final = frozenset(
    {
        "include_obfuscation",
        "metadata",
        "moderation",
        "prediction",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "safety_identifier",
        "service_tier",
        "store",
        "user",
        "verbosity",
    }
)
_COMMON: Final = frozenset(
    {*SAME, *NO_EFFECT, "model", "max_tokens", "seed", "stop", "stream", "stream_options", "n"}
    | {"logprobs"}
)
_CHAT: Final = _COMMON | {
    "messages",
    "add_generation_prompt",
    "continue_final_message",
    "max_completion_tokens",
    "response_format",
    "reasoning_effort",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "functions",
    "function_call",
    "top_logprobs",
    "modalities",
    "audio",
    "web_search_options",
}
_COMPLETION: Final = _COMMON | {"prompt", "suffix", "echo", "best_of"}
# Values of fields that this node does not have, with which they ask for nothing.
_NOTHING: Final[dict[str, tuple[Any, ...]]] = {
    "functions": ([],),
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
    "audio": (),
    "web_search_options": (),
    "suffix": ("",),
    "echo": (False,),
}
EFFORTS: Final = {
    "none": False,
    "minimal": "low",
    "low": "low",
    "medium": "medium",
    "high": "high",
    "xhigh": "high",
    "max": "high",
}


def chat_body() -> dict[str, Any]:
    """The schema of a request to /v1/chat/completions."""
    return body_of(_CHAT, SAME, ["messages"])


def completion_body() -> dict[str, Any]:
    """The schema of a request to /v1/completions."""
    return body_of(_COMPLETION, SAME, ["prompt"])


@dataclass(frozen=True, slots=True)
class Asked:
    """What a client asks for."""

    request: GenerateRequest
    is_stream: bool
    with_usage: bool
    "Whether the stream ends with a chunk that has the usage."
    headers: Mapping[str, str]
    "Of the answer: which fields nobody knows."
    choices: int = 1
    "How many answers to each prompt."
    prompts: Sequence[str] = ()
    "If there are several; `request` has the first."

    @property
    def answers(self) -> int:
        """How many there are to all prompts."""
        return self.choices * max(1, len(self.prompts))

    def requests(self) -> list[GenerateRequest]:
        """One for each answer, those to one prompt together; a seed counts up among these, so that
        they differ."""
        request, seed = self.request, self.request.params.seed
        made = [request] * self.choices
        if self.choices > 1 and seed is not None:
            seeds = [(seed + n) % MAX_SEED for n in range(self.choices)]
            params = [request.params.model_copy(update={"seed": each}) for each in seeds]
            made = [request.model_copy(update={"params": each}) for each in params]
        if not self.prompts:
            return made
        return [
            each.model_copy(update={"prompt": prompt}) for prompt in self.prompts for each in made
        ]


def chat(body: Mapping[str, Any]) -> Asked:
    """A request to /v1/chat/completions.

    Raises:
        InvalidParams: with `param` in its data.
    """
    fields = present(body)
    _refuse(fields)
    params = sampling(fields)
    limit = "max_completion_tokens" if "max_completion_tokens" in fields else "max_tokens"
    if limit in fields:
        params["max_tokens"] = fields[limit]
    params |= _format(fields.get("response_format"))
    if "reasoning_effort" in fields:
        params["think"] = one_of("reasoning_effort", fields["reasoning_effort"], EFFORTS)
    if flag("logprobs", fields.get("logprobs", False)):
        params["logprobs"] = True
    if top := fields.get("top_logprobs"):  # 0 asks for nothing
        params["top_logprobs"] = top
    messages = fields.get("messages")
    if not isinstance(messages, list) or not messages:
        raise wrong("messages", "must be a list of at least one message")
    if continues(fields, messages[-1]):
        params["continues"] = True
    unknown: set[str] = set()
    made = {
        "messages": [turn_of(index, each, unknown) for index, each in enumerate(messages)],
        "params": params,
        **offered_tools(fields, unknown),
    }
    try:
        return _asked(fields, _CHAT, made, unknown)
    except InvalidParams as e:
        raise _renamed(e, "max_tokens", limit) from None


def completion(body: Mapping[str, Any]) -> Asked:
    """A request to /v1/completions; errors as in `chat`."""
    fields = present(body)
    _refuse(fields)
    params = sampling(fields) | {"max_tokens": fields.get("max_tokens", DEFAULT_TOKENS)}
    top = whole(fields.get("logprobs", False))
    if top is not False:
        if type(top) is not int:
            raise wrong("logprobs", "must be the number of likeliest tokens")
        params |= {"logprobs": True, "top_logprobs": top}
    prompts = _prompts(fields.get("prompt", ""))
    if "best_of" in fields and fields["best_of"] != fields.get("n", 1):
        raise unsupported("best_of")
    made = {"raw": True, "params": params}
    try:
        for each in prompts[1:MAX_ANSWERS]:
            request_of(fields, {"prompt": each, **made})
        asked = _asked(fields, _COMPLETION, {"prompt": prompts[0], **made})
    except InvalidParams as e:
        raise _renamed(e, "top_logprobs", "logprobs") from None
    if len(prompts) * asked.choices > MAX_ANSWERS:
        raise wrong(
            "prompt",
            f"has {len(prompts)} texts, and n is {asked.choices}; a request has at most"
            f" {MAX_ANSWERS} answers",
        )
    return replace(asked, prompts=prompts) if len(prompts) > 1 else asked


def _prompts(value: Any) -> list[str]:
    prompts = value if isinstance(value, list) else [value]
    if prompts in ([], [""]):
        raise wrong("prompt", "is required: a string of at least one character")
    if not all(isinstance(each, str) and each for each in prompts):
        raise wrong(
            "prompt",
            "must be a string or a list of strings, none of them empty; token ids are not accepted",
        )
    return prompts


def _renamed(error: InvalidParams, name: str, own: str) -> InvalidParams:
    """The error with the client's `own` name of a field, if it is about that one."""
    if error.data.get("param") != name:
        return error
    return InvalidParams(error.message.replace(name, own, 1), param=own)


def _refuse(fields: Mapping[str, Any]) -> None:
    """Refuse what would change the answer, and is not there."""
    for name, harmless in _NOTHING.items():
        if name not in fields:
            continue
        value = fields[name]
        if not any(type(value) is type(each) and value == each for each in harmless):
            raise unsupported(name)


def sampling(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters that chat, completions and responses have in common."""
    params = {name: fields[name] for name in SAME if name in fields}
    if "top_p" in params:
        params["top_p"] = top_p_of(params["top_p"])
    if params.get("top_k") == -1:  # vLLM's word for "all"
        params["top_k"] = 0
    if (seed := fields.get("seed")) is not None:
        params["seed"] = seed_of(seed)
    if (stop := fields.get("stop")) is not None:
        texts = stop if isinstance(stop, list) else [stop]
        if not all(isinstance(text, str) for text in texts):
            raise wrong("stop", "must be a string or a list of strings")
        params["stop"] = [text for text in texts if text != ""]  # which would stop at once
    return params


def _format(value: Any) -> dict[str, Any]:
    if value is None:
        return {}
    kind = value.get("type") if isinstance(value, dict) else None
    if kind == "json_schema":
        # llama.cpp and its kin have the schema without a name around it.
        return {"format": schema_of("response_format", value.get("json_schema", value))}
    if kind == "json_object" and isinstance(value, dict) and "schema" in present(value):
        return {"format": schema_of("response_format", value)}
    return format_of("response_format", kind)


def format_of(name: str, kind: object) -> dict[str, Any]:
    """The parameter for a format without a schema."""
    if kind == "text":
        return {}
    if kind == "json_object":
        return {"format": "json"}
    raise wrong(name, "must be of the type text, json_object or json_schema")


def schema_of(name: str, described: object) -> dict[str, Any]:
    """The schema in a description of one."""
    schema = described.get("schema") if isinstance(described, dict) else None
    if not isinstance(schema, dict):
        raise wrong(name, "has no json_schema.schema")
    return schema


def _asked(
    fields: Mapping[str, Any],
    known: frozenset[str],
    made: dict[str, Any],
    unknown: Iterable[str] = (),
) -> Asked:
    stream = flag("stream", fields.get("stream", False))
    options = fields.get("stream_options", {})
    if not isinstance(options, dict):
        raise wrong("stream_options", "must be an object")
    with_usage = flag("stream_options.include_usage", options.get("include_usage") or False)
    choices = whole(fields.get("n", 1))
    if type(choices) is not int or not 1 <= choices <= MAX_CHOICES:
        raise wrong("n", f"must be an integer from 1 to {MAX_CHOICES}")
    request = request_of(fields, made)
    headers = ignored_header(fields, known, unknown)
    return Asked(request, stream, with_usage, headers, choices)


def request_of(fields: Mapping[str, Any], made: dict[str, Any]) -> GenerateRequest:
    """The request that `made` describes, for the model in `fields`.

    Raises:
        InvalidParams: with `param` in its data.
    """
    model = fields.get("model", "")
    if not isinstance(model, str):
        raise wrong("model", "must be a string")
    try:
        return GenerateRequest.model_validate({"model": model, **made})
    except ValidationError as e:
        raise explained(e) from None
