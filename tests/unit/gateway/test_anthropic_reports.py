"""What users reported of other servers that speak Anthropic's dialect, each with an input of its
own; it holds here."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from aitorrent_gateway.anthropic.requests import asked
from aitorrent_gateway.anthropic.shapes import Identity, MessageStream, whole
from aitorrentd.api import Chunk, Message
from aitorrentd.api.models.tools import ToolCall

IDENTITY = Identity("msg_1", "m")
HELLO: dict[str, Any] = {"role": "user", "content": "hello"}


def turns(*messages: dict[str, Any], **fields: Any) -> Sequence[Message]:
    return asked({"messages": list(messages), **fields}).request.messages or ()


def call(ident: str, name: str = "Read", arguments: str = "{}") -> ToolCall:
    return ToolCall(id=ident, name=name, arguments=arguments)


def used(*idents: str) -> dict[str, Any]:
    blocks = [{"type": "tool_use", "id": i, "name": "Read", "input": {}} for i in idents]
    return {"role": "assistant", "content": blocks}


def result(ident: str, content: Any = "found") -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": ident, "content": content}


def streamed(*chunks: Chunk, stops: tuple[str, ...] = ()) -> list[Any]:
    """The data of the events of an answer."""
    stream = MessageStream(IDENTITY, shows_thinking=True, stops=stops)
    events = [stream.first(), *map(stream.piece, chunks), stream.last(chunks[-1])]
    return [
        json.loads(event.partition(b"data: ")[2])
        for event in b"".join(events).split(b"\n\n")
        if event
    ]


def test_system_messages_within_the_conversation() -> None:
    """vllm 44000, ollama 16372: status 400 for each request of Claude Code since 2.1.154.
    vllm 41114: "System message must be at the beginning" by the chat template."""
    late = {"role": "system", "content": [{"type": "text", "text": "today is Friday"}]}
    found = turns(HELLO, late, system="be kind")
    assert [turn.role for turn in found] == ["system", "user"]
    assert "today is Friday" in found[1].content


@pytest.mark.parametrize(
    "system",
    [
        "x-anthropic-billing-header: cc_version=2.1.100; cch={n};\nYou are kind.",
        [
            {"type": "text", "text": "x-anthropic-billing-header: cch={n};"},
            {"type": "text", "text": "You are kind."},
        ],
    ],
)
def test_the_line_that_differs_each_time(system: Any) -> None:
    """ollama 14918, vllm 36829: caches of the prompt were spoilt by each request. vllm-mlx 277: the
    line is the beginning of a block, so what follows it must stay."""
    given = [json.loads(json.dumps(system).replace("{n}", str(n))) for n in range(2)]
    first, second = (turns(HELLO, system=each)[0].content for each in given)
    assert first == second == "You are kind."


def test_blocks_start_before_they_grow() -> None:
    """litellm 13373, CLIProxyAPI 3720: "Content block not found" in Claude Code. open-webui 25963:
    parallel calls shared an index."""
    opened: list[int] = []
    events = streamed(
        Chunk("", thinking="hm"),
        Chunk("a", tool_calls=(call("1"), call("2"))),
        Chunk("b", done=True, reason="stop", tool_calls=(call("3"),)),
    )
    for event in events:
        if event["type"] == "content_block_start":
            assert event["index"] == (opened[-1] + 1 if opened else 0)
            opened.append(event["index"])
        elif event["type"].startswith("content_block"):
            assert event["index"] == opened[-1]
    stops = [e["index"] for e in events if e["type"] == "content_block_stop"]
    assert stops == opened == list(range(6))


def test_a_call_ends_the_turn_with_tool_use() -> None:
    """litellm 34692: with Ollama's reason `stop` agents dropped the call; and an empty text block
    came before it."""
    end = Chunk("", done=True, reason="stop", tool_calls=(call("toolu_1"),))
    events = streamed(end)
    assert events[-2]["delta"]["stop_reason"] == "tool_use"
    assert whole(IDENTITY, [end], shows_thinking=False)["stop_reason"] == "tool_use"
    starts = [e["content_block"]["type"] for e in events if e["type"] == "content_block_start"]
    assert starts == ["tool_use"]
    cut = Chunk("", done=True, reason="length", tool_calls=(call("toolu_1"),))
    assert streamed(cut)[-2]["delta"]["stop_reason"] == "max_tokens"


def test_the_end_tells_the_length_of_the_prompt() -> None:
    """claudish 123, 152: without it in `message_delta`, Claude Code never shortened a conversation.
    copilot-api 210: tokens from a cache are no part of `input_tokens`, and must be told too."""
    end = Chunk("", done=True, reason="stop", prompt_tokens=80_000, completion_tokens=2)
    assert streamed(end)[-2]["usage"]["input_tokens"] == 80_000
    cached = Chunk("", done=True, prompt_tokens=80_000, extra={"cached_tokens": 79_000})
    usage = streamed(cached)[-2]["usage"]
    assert (usage["input_tokens"], usage["cache_read_input_tokens"]) == (1_000, 79_000)


def test_a_tool_without_arguments() -> None:
    """vscode-copilot-release 8040: empty arguments broke the stream; clients send "" and null."""
    end = Chunk("", done=True, reason="tool_calls", tool_calls=(call("1", arguments=""),))
    (delta,) = [e["delta"] for e in streamed(end) if e["type"] == "content_block_delta"]
    assert delta == {"type": "input_json_delta", "partial_json": "{}"}
    nothings: tuple[Any, ...] = ("", None, {})
    for nothing in nothings:
        block = {"type": "tool_use", "id": "1", "name": "f", "input": nothing}
        found = turns(HELLO, {"role": "assistant", "content": [block]}, HELLO)
        assert found[1].tool_calls[0].arguments == "{}"


def test_results_of_parallel_calls_in_messages_of_their_own() -> None:
    """pydantic-ai 653, DeepSeek-V3 967: refused, though every call has its result."""
    found = turns(
        HELLO,
        used("1", "2"),
        {"role": "user", "content": [result("1")]},
        {"role": "user", "content": [result("2"), {"type": "text", "text": "go on"}]},
    )
    assert [(t.role, t.tool_call_id) for t in found[2:]] == [
        ("tool", "1"),
        ("tool", "2"),
        ("user", ""),
    ]


def test_images_of_parallel_results_do_not_part_them() -> None:
    """Zoo-Code 1705: an image between two results of one turn."""
    image = {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}
    picture = result("1", [{"type": "image", "source": image}])
    found = turns(HELLO, used("1", "2"), {"role": "user", "content": [picture, result("2")]})
    assert [turn.role for turn in found[2:]] == ["tool", "tool", "user"]
    assert len(found[-1].images) == 1


def test_references_to_tools_and_empty_texts_in_results() -> None:
    """claude-code 30995: "unsupported content type tool_reference". opencode 24087: "text content
    blocks must be non-empty" ended a session for good."""
    reference = {"type": "tool_reference", "tool_name": "Grep"}
    empty = {"type": "text", "text": ""}
    found = turns(HELLO, used("1"), {"role": "user", "content": [result("1", [reference, empty])]})
    assert "Grep" in found[-1].content
    assert turns(HELLO, {"role": "assistant", "content": [empty]}, HELLO)[1].content == ""


def test_tool_choice_without_tools() -> None:
    """CliRelay 739: titles of conversations come with `tools: []` and a choice."""
    made = asked({"messages": [HELLO], "tools": [], "tool_choice": {"type": "auto"}})
    assert (made.request.tools, made.request.tool_choice) == ((), None)


def test_thoughts_are_told() -> None:
    """llama.cpp 18542: thoughts of the model were lost, streamed or not."""
    chunks = [Chunk("", thinking="hm"), Chunk("a", done=True, reason="stop")]
    deltas = [e["delta"]["type"] for e in streamed(*chunks) if e["type"] == "content_block_delta"]
    assert deltas == ["thinking_delta", "signature_delta", "text_delta"]
    content = whole(IDENTITY, chunks, shows_thinking=True)["content"]
    assert [block["type"] for block in content] == ["thinking", "text"]


def test_the_stop_sequence_is_told_if_it_is_the_client_s() -> None:
    end = Chunk("", done=True, reason="stop", extra={"stop_text": "END"})
    told = {"stop_reason": "stop_sequence", "stop_sequence": "END"}
    assert streamed(end, stops=("END",))[-2]["delta"] == told
    # the model's own
    assert streamed(end, stops=("x",))[-2]["delta"]["stop_reason"] == "end_turn"
    none = Chunk("", done=True, reason="stop", extra={"stop_text": ""})
    assert streamed(none, stops=("x",))[-2]["delta"]["stop_sequence"] is None
