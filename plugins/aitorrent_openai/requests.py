"""Converts requests to the OpenAI API. No I/O."""

from __future__ import annotations

from typing import Any, Final

from aitorrentd.api import EmbedRequest, GenerateRequest, Message, SamplingParams
from aitorrentd.api.models.sampling import REST_OF_CONTEXT, refuse_params
from aitorrentd.api.models.tools import NamedTool, call_map, tool_map

CHAT: Final = "/chat/completions"
COMPLETIONS: Final = "/completions"

_EFFORT: Final = "the OpenAI API takes low, medium or high"


def _sampling(params: SamplingParams) -> dict[str, Any]:
    named = {
        "temperature": params.temperature,
        "top_p": params.top_p,
        "presence_penalty": params.presence_penalty,
        "frequency_penalty": params.frequency_penalty,
        # Not part of OpenAI's API, which rejects them by name; vLLM, llama.cpp and others apply
        # them. vLLM, SGLang and OpenRouter use the first name of the penalty, llama.cpp and LM
        # Studio the second, and both ignore the other.
        "top_k": params.top_k,
        "min_p": params.min_p,
        "repetition_penalty": params.repeat_penalty,
        "repeat_penalty": params.repeat_penalty,
        "seed": params.seed,
        # Without a limit, these servers use the rest of the context.
        "max_tokens": None if params.max_tokens == REST_OF_CONTEXT else params.max_tokens,
        "stop": list(params.stop) or None,
        "logit_bias": {str(k): v for k, v in (params.logit_bias or {}).items()} or None,
    }
    return {name: value for name, value in named.items() if value is not None}


def chat_body(request: GenerateRequest) -> dict[str, Any]:
    """The body for `/chat/completions`; a bare prompt becomes the user message.

    Raises:
        InvalidParams: a parameter that this API does not have.
    """
    params = request.params
    refuse_params(params, "an OpenAI-compatible server", context="", num_ctx="", repeat_last_n="")
    messages = request.messages or (Message(role="user", content=request.prompt or ""),)
    body = {
        "model": request.model,
        "messages": [_message(m) for m in messages],
        "stream": True,
        "stream_options": {"include_usage": True},
        **_sampling(params),
    }
    if request.tools:
        body["tools"] = [tool_map(tool) for tool in request.tools]
    if isinstance(request.tool_choice, NamedTool):
        named = {"name": request.tool_choice.name}
        body["tool_choice"] = {"type": "function", "function": named}
    elif request.tool_choice is not None and request.tools:
        body["tool_choice"] = request.tool_choice
    if request.parallel_tool_calls is not None and request.tools:
        body["parallel_tool_calls"] = request.parallel_tool_calls
    if params.format == "json":
        body["response_format"] = {"type": "json_object"}
    elif params.format is not None:
        schema = {"name": "answer", "schema": params.format}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    if params.continues:  # as vLLM, SGLang and llama.cpp call it; OpenAI has none, and says so
        body |= {"continue_final_message": True, "add_generation_prompt": False}
    if params.logprobs:
        body["logprobs"] = True
        if params.top_logprobs is not None:
            body["top_logprobs"] = params.top_logprobs
    if isinstance(params.think, str):
        body["reasoning_effort"] = params.think
    elif params.think is not None:
        refuse_params(params, "an OpenAI-compatible server", think=_EFFORT)
    return body


def _message(message: Message) -> dict[str, Any]:
    said: dict[str, Any] = {"role": message.role, "content": _content(message)}
    if message.tool_calls:
        said["content"] = said["content"] or None
        said["tool_calls"] = [call_map(call) for call in message.tool_calls]
    if message.tool_call_id:
        said["tool_call_id"] = message.tool_call_id
    return said


def _content(message: Message) -> str | list[dict[str, Any]]:
    if not message.images:
        return message.content
    images = [{"type": "image_url", "image_url": {"url": i.url}} for i in message.pictures()]
    return [{"type": "text", "text": message.content}, *images]


def completion_body(request: GenerateRequest) -> dict[str, Any]:
    """The body for `/completions`, which continues a bare prompt.

    Raises:
        InvalidParams: a parameter that this API does not have.
    """
    why = "/completions does not have it"
    refuse_params(
        request.params,
        "an OpenAI-compatible server",
        context="",
        num_ctx="",
        repeat_last_n="",
        format=why,
        think=why,
    )
    params = request.params
    top = {"logprobs": params.top_logprobs or 0} if params.logprobs else {}
    return {
        "model": request.model,
        "prompt": request.prompt or "",
        "stream": True,
        "stream_options": {"include_usage": True},
        **_sampling(params),
        **top,
    }


def embed_body(request: EmbedRequest) -> dict[str, Any]:
    """The body for `/embeddings`.

    The API has no `truncate`: the server refuses a text that is too long, and says so.
    """
    body: dict[str, Any] = {
        "model": request.model,
        "input": list(request.texts),
        "encoding_format": "float",
    }
    if request.dimensions is not None:
        body["dimensions"] = request.dimensions
    return body


def without(body: dict[str, Any], param: str, message: str) -> dict[str, Any] | None:
    """The body for a server that rejected `param`, or None if there is no alternative.

    Older servers lack `stream_options`; OpenAI's newer models require `max_completion_tokens`.
    """
    if "stream_options" in body and "stream_options" in f"{param} {message}":
        return {k: v for k, v in body.items() if k != "stream_options"}
    if "max_tokens" in body and (param == "max_tokens" or "max_completion_tokens" in message):
        rest = {k: v for k, v in body.items() if k != "max_tokens"}
        return {**rest, "max_completion_tokens": body["max_tokens"]}
    return None
