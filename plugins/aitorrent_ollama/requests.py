"""Converts requests to Ollama's API (docs/api.md). No I/O."""

from __future__ import annotations

from typing import Any

from aitorrentd.api import EmbedRequest, GenerateRequest, InvalidParams, Message, SamplingParams
from aitorrentd.api.models.features import features_used
from aitorrentd.api.models.sampling import refuse_params
from aitorrentd.api.models.tools import call_map, tool_map


def options(params: SamplingParams, num_ctx: int | None = None) -> dict[str, Any]:
    """Sampling parameters under Ollama's names (docs/modelfile.md); `num_ctx` is the configured
    default for requests without their own."""
    named = {
        "temperature": params.temperature,
        "top_p": params.top_p,
        "top_k": params.top_k,
        "min_p": params.min_p,
        "repeat_penalty": params.repeat_penalty,
        "repeat_last_n": params.repeat_last_n,
        "presence_penalty": params.presence_penalty,
        "frequency_penalty": params.frequency_penalty,
        "seed": params.seed,
        "num_predict": params.max_tokens,
        "stop": list(params.stop) or None,
        "num_ctx": params.num_ctx or num_ctx,
    }
    return {name: value for name, value in named.items() if value is not None}


def request_body(
    request: GenerateRequest, keep_alive: str | int | float | None, num_ctx: int | None = None
) -> tuple[str, dict[str, Any]]:
    """The path and body of a request for a streamed answer.

    Raises:
        InvalidParams: a parameter or an image that Ollama would drop.
    """
    params = request.params
    refuse_params(params, "Ollama", logit_bias="")
    body: dict[str, Any] = {"model": request.model}
    if request.messages is not None:
        refuse_params(params, "Ollama", context="it requires prompt, not messages")
        path = "/api/chat"
        body["messages"] = [_message(m) for m in request.messages]
    else:
        path = "/api/generate"
        body["prompt"] = request.prompt
        if request.raw:
            body["raw"] = True
        if params.context is not None:
            body["context"] = list(params.context)
    if request.tools and request.tool_choice != "none":
        refused = sorted(features_used(request) & {"tool_choice", "parallel_tool_calls"})
        if refused:
            names = ", ".join(refused)
            raise InvalidParams(
                f"Ollama cannot apply {names}; the model chooses", params=list(refused)
            )
        body["tools"] = [tool_map(tool) for tool in request.tools]
    body["stream"] = True
    # By default, Ollama drops the beginning of what exceeds the context, silently: of the prompt
    # (`truncate`), and of the conversation when the answer fills the context (`shift`). Servers
    # from before October 2025 ignore both fields.
    body["truncate"] = body["shift"] = False
    if params.format is not None:
        body["format"] = params.format
    if params.think is not None:
        body["think"] = params.think
    if params.logprobs:
        body["logprobs"] = True
        if params.top_logprobs is not None:
            body["top_logprobs"] = params.top_logprobs
    if chosen := options(params, num_ctx):
        body["options"] = chosen
    if keep_alive is not None:
        body["keep_alive"] = keep_alive
    return path, body


def embed_body(
    request: EmbedRequest, keep_alive: str | int | float | None, num_ctx: int | None = None
) -> dict[str, Any]:
    """The body of a request for vectors."""
    body: dict[str, Any] = {
        "model": request.model,
        "input": list(request.texts),
        # By default, Ollama cuts off what exceeds the context, silently.
        "truncate": request.truncate,
    }
    if request.dimensions is not None:
        body["dimensions"] = request.dimensions
    if num_ctx is not None:
        body["options"] = {"num_ctx": num_ctx}
    if keep_alive is not None:
        body["keep_alive"] = keep_alive
    return body


def _message(message: Message) -> dict[str, Any]:
    said: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        said["tool_calls"] = [call_map(call, as_object=True) for call in message.tool_calls]
    for name in ("tool_name", "tool_call_id"):
        if value := getattr(message, name):
            said[name] = value
    if message.images:
        said["images"] = [picture.base64 for picture in message.pictures()]
        if None in said["images"]:
            raise InvalidParams("Ollama cannot fetch an image from a URL; send it in base64")
    return said
