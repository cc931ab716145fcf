"""Requests of OpenAI's clients: what is honoured, accepted, refused with its name, or hostile."""

from __future__ import annotations

import json
from typing import Any

import pytest

from aitorrent_gateway.core.bodies import MAX_DEPTH, json_object
from aitorrent_gateway.openai.answering import NAMES
from aitorrent_gateway.openai.errors import openai_error
from aitorrent_gateway.openai.requests import MAX_ANSWERS, MAX_CHOICES, chat, completion
from aitorrent_gateway.openai.responses.answering import NAMES as RESPONSES_NAMES
from aitorrentd.api import InvalidParams

HELLO = [{"role": "user", "content": "hello"}]


def asked(**fields: Any) -> dict[str, Any]:
    """The parameters that a chat request sets."""
    request = chat({"model": "m", "messages": HELLO, **fields}).request
    return request.params.model_dump(exclude_unset=True)


def tool(name: str, **more: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, **more}}


def named(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


def allowed(mode: str, *names: str) -> dict[str, Any]:
    tools = [named(name) for name in names]
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": tools}}


def fault(body: dict[str, Any], read: Any = chat) -> InvalidParams:
    with pytest.raises(InvalidParams, match=".") as caught:
        read({"model": "m", **body})
    return caught.value


@pytest.mark.parametrize(
    ("fields", "params"),
    [
        ({"temperature": 0.5, "top_p": 0.9}, {"temperature": 0.5, "top_p": 0.9}),
        ({"top_p": 0}, {"top_p": 1e-6}),
        ({"top_p": 0.0}, {"top_p": 1e-6}),
        ({"max_tokens": 5}, {"max_tokens": 5}),
        ({"max_completion_tokens": 6, "max_tokens": 5}, {"max_tokens": 6}),
        ({"stop": "a"}, {"stop": ("a",)}),
        ({"stop": ["a", "b"]}, {"stop": ("a", "b")}),
        ({"seed": -1}, {"seed": 2**63 - 1}),
        ({"seed": 7.0, "max_tokens": 5.0}, {"seed": 7, "max_tokens": 5}),
        ({"top_k": -1}, {"top_k": 0}),
        ({"presence_penalty": 1, "frequency_penalty": -1},) * 2,
        ({"top_k": 4, "min_p": 0.1, "repeat_penalty": 1.1},) * 2,
        ({"response_format": {"type": "text"}}, {}),
        ({"response_format": {"type": "json_object"}}, {"format": "json"}),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {"a": 1}}}},
            {"format": {"a": 1}},
        ),
        # llama.cpp's own ways
        ({"response_format": {"type": "json_schema", "schema": {"a": 1}}}, {"format": {"a": 1}}),
        ({"response_format": {"type": "json_object", "schema": {"a": 1}}}, {"format": {"a": 1}}),
        ({"response_format": {"type": "json_object", "schema": None}}, {"format": "json"}),
        ({"n": 1.0, "max_completion_tokens": 7.0}, {"max_tokens": 7}),
        ({"tools": [], "tool_choice": {"type": "auto"}}, {}),
        ({"add_generation_prompt": True, "continue_final_message": False}, {}),
        ({"reasoning_effort": "minimal"}, {"think": "low"}),
        ({"reasoning_effort": "none"}, {"think": False}),
        # nothing is asked for
        (
            {"tools": [], "tool_choice": "auto", "n": 1, "logprobs": False, "top_logprobs": 0}
            | {"parallel_tool_calls": False, "modalities": ["text"], "user": "u", "store": True},
            {},
        ),
        ({"logit_bias": {}}, {"logit_bias": None}),
        ({"logit_bias": {"5": -100, "0": 1}}, {"logit_bias": {5: -100.0, 0: 1.0}}),
        ({"logprobs": True}, {"logprobs": True}),
        ({"logprobs": True, "top_logprobs": 20}, {"logprobs": True, "top_logprobs": 20}),
        ({"stop": ["", "a"]}, {"stop": ("a",)}),
        ({"stop": ""}, {"stop": ()}),
        (dict.fromkeys(("temperature", "tools", "n", "stop", "seed", "response_format")), {}),
    ],
)
def test_parameters(fields: dict[str, Any], params: dict[str, Any]) -> None:
    assert asked(**fields) == params


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"n": 0}, "n"),
        ({"n": MAX_CHOICES + 1}, "n"),
        ({"n": True}, "n"),
        ({"n": 10**9}, "n"),  # n_bomb
        ({"tools": {}}, "tools"),
        ({"tools": ["f"]}, "tools[0]"),
        ({"tools": [{"type": "custom", "custom": {"name": "f"}}]}, "tools[0].type"),
        ({"tools": [{"type": "function"}]}, "tools[0].name"),
        ({"tools": [tool("a b")]}, "tools[0].name"),
        ({"tools": [tool("f", parameters=1)]}, "tools[0].parameters"),
        ({"tools": [tool("f"), tool("f")]}, "tools"),
        ({"tools": [tool(f"f{n}") for n in range(10**4)]}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [tool("f")], "tool_choice": "any"}, "tool_choice"),
        ({"tools": [tool("f")], "tool_choice": 1}, "tool_choice"),
        ({"tools": [tool("f")], "tool_choice": {"type": "function"}}, "tool_choice"),
        ({"tools": [tool("f")], "tool_choice": {"type": "custom"}}, "tool_choice"),
        ({"tools": [tool("f")], "tool_choice": named("g")}, "tool_choice"),
        ({"tools": [tool("f")], "tool_choice": allowed("auto", "g")}, "tool_choice"),
        ({"tools": [tool("f")], "tool_choice": allowed("never", "f")}, "tool_choice"),
        ({"tools": [tool("f")], "parallel_tool_calls": "no"}, "parallel_tool_calls"),
        ({"functions": [{}]}, "functions"),
        ({"logprobs": 2}, "logprobs"),
        ({"top_logprobs": 5}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"logit_bias": {"hello": 1}}, "logit_bias"),
        ({"logit_bias": {"5": 101}}, "logit_bias.5"),
        ({"logit_bias": {str(n): 1 for n in range(10**5)}}, "logit_bias"),  # logit_bias_bomb
        ({"audio": {}}, "audio"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"web_search_options": {}}, "web_search_options"),
        ({"stop": ["x"] * 10**5}, "stop"),  # stop_list_bomb
        ({"stop": [1]}, "stop"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": -1}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"top_p": True}, "top_p"),
        ({"max_tokens": True}, "max_tokens"),
        ({"max_completion_tokens": 0, "max_tokens": 5}, "max_completion_tokens"),
        ({"max_completion_tokens": 1.5}, "max_completion_tokens"),
        ({"presence_penalty": False}, "presence_penalty"),
        ({"logprobs": True, "top_logprobs": True}, "top_logprobs"),
        ({"n": 1.5}, "n"),
        ({"n": "1"}, "n"),
        ({"logit_bias": {" 1": 1}}, "logit_bias"),
        ({"logit_bias": {"1_0": 1}}, "logit_bias"),
        ({"logit_bias": {"+1": 1}}, "logit_bias"),
        ({"logit_bias": {"01": 1}}, "logit_bias"),
        ({"logit_bias": {"1.0": 1}}, "logit_bias"),
        ({"logit_bias": {"1": True}}, "logit_bias"),
        ({"logit_bias": {"-1": 1}}, "logit_bias"),
        ({"response_format": {"type": "json_object", "schema": "a"}}, "response_format"),
        ({"continue_final_message": True}, "continue_final_message"),
        ({"continue_final_message": 1}, "continue_final_message"),
        ({"add_generation_prompt": False}, "add_generation_prompt"),
        ({"tools": [tool("f")], "tool_choice": {"type": "any"}}, "tool_choice"),
        ({"top_p": False}, "top_p"),
        ({"top_p": -1}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"seed": "1"}, "seed"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": []}, "stream_options"),
        ({"stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
        ({"response_format": "json"}, "response_format"),
        ({"response_format": {"type": "grammar"}}, "response_format"),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        ({"reasoning_effort": 3}, "reasoning_effort"),
        ({"model": 1}, "model"),
        ({"model": "m" * 257}, "model"),
        ({"model": "\ud800"}, "model"),
        ({"messages": []}, "messages"),
        ({"messages": {}}, "messages"),
        ({"messages": None}, "messages"),
        ({"messages": ["hello"]}, "messages[0]"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "root", "content": "a"}]}, "messages[0].role"),
        ({"messages": [*HELLO, {"role": "user", "content": 1}]}, "messages[1].content"),
        ({"messages": HELLO * 5000}, "messages"),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"id": "a"}]}]},
            "messages[0].tool_calls[0]",
        ),
        ({"messages": [{"role": "assistant", "tool_calls": {}}]}, "messages[0].tool_calls"),
        (
            {"messages": [{"role": "assistant", "function_call": {"name": "f"}}]},
            "messages[0].function_call",
        ),
        (
            {"messages": [{"role": "user", "content": "a", "images": ["http://localhost/"]}]},
            "messages[0].images",
        ),
    ],
)
def test_what_is_not_there_or_wrong_is_refused_with_its_name(
    fields: dict[str, Any], param: str
) -> None:
    error = fault({"messages": HELLO, **fields})
    assert error.data["param"] == param
    assert param.split("[")[0] in error.message
    assert len(error.message) < 500


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/latest/meta-data",
        "file:///etc/passwd",
        "https://example.org/cat.png",
        "//localhost:8000/v1/models",
        None,
        7,
    ],
)
def test_ssrf_image_url(url: Any) -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": url}}]
    error = fault({"messages": [{"role": "user", "content": parts}]})
    assert error.message == (
        "messages[0].content has an image that is not a data: URL; the server fetches no URLs"
    )


def test_image_in_the_request_is_kept() -> None:
    parts = [
        {"type": "text", "text": "a"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}},
    ]
    (turn,) = chat({"messages": [{"role": "user", "content": parts}]}).request.messages or ()
    assert (turn.content, len(turn.images)) == ("a", 1)


@pytest.mark.parametrize(
    ("choice", "names", "picked"),
    [
        (None, ["f", "g"], None),
        ("required", ["f", "g"], "required"),
        ("none", ["f", "g"], "none"),
        (named("g"), ["f", "g"], "g"),
        (allowed("required", "g"), ["g"], "required"),
        (allowed("auto", "f", "g"), ["f", "g"], "auto"),
    ],
)
def test_tools_and_the_choice_among_them(choice: Any, names: list[str], picked: Any) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string"}}}
    tools = [tool("f", parameters=schema, strict=True, description="d"), tool("g")]
    fields = {"tools": tools, "tool_choice": choice, "parallel_tool_calls": False}
    request = chat({"model": "m", "messages": HELLO, **fields}).request
    assert [each.name for each in request.tools] == names
    assert getattr(request.tool_choice, "name", request.tool_choice) == picked
    assert request.parallel_tool_calls is False
    if names == ["f", "g"]:
        f, _ = request.tools
        assert (f.parameters, f.strict, f.description) == (schema, True, "d")


def test_turns_with_calls_and_their_results() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    turns = [
        *HELLO,
        {"role": "assistant", "content": None, "tool_calls": [call | {"signature": "s"}]},
        {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "12"}]},
    ]
    asked = chat({"messages": turns, "tools": [tool("f", cache_control={})]})
    _, said, result = asked.request.messages or ()
    assert (said.content, [c.model_dump() for c in said.tool_calls]) == (
        "",
        [{"id": "c1", "name": "f", "arguments": '{"a": 1}'}],
    )
    assert (result.role, result.content, result.tool_call_id) == ("tool", "12", "c1")
    assert asked.headers == {"x-aitorrent-ignored": "tools.cache_control"}


CALLED: dict[str, Any] = {"id": "c", "type": "function", "function": {"name": "f"}}


@pytest.mark.parametrize(
    ("turn", "content"),
    [
        # langchain 34751: parts of /v1/responses in a chat were answered with 400
        ({"role": "assistant", "content": [{"type": "output_text", "text": "a"}]}, "a"),
        # lmstudio 261, vllm 10015: so were null and nothing beside calls, and null functions
        ({"role": "assistant", "content": None, "tool_calls": [CALLED], "function_call": None}, ""),
        # llama.cpp 12279
        ({"role": "assistant", "tool_calls": [CALLED]}, ""),
        # vllm 25001: of a result in parts, the first alone was kept
        (
            {
                "role": "tool",
                "tool_call_id": "c",
                "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}],
            },
            "ab",
        ),
    ],
)
def test_turns_that_other_servers_refused(turn: dict[str, Any], content: str) -> None:
    (read,) = chat({"messages": [turn]}).request.messages or ()
    assert read.content == content


@pytest.mark.parametrize("arguments", [None, "", "{}"])
def test_call_without_arguments_is_one_with_none(arguments: Any) -> None:
    """langchain 34242: functions without parameters get null or an empty text, which is no JSON."""
    call = CALLED | {"function": {"name": "f", "arguments": arguments}}
    (turn,) = (
        chat({"messages": [{"role": "assistant", "tool_calls": [call]}]}).request.messages or ()
    )
    assert turn.tool_calls[0].arguments == "{}"


def test_fields_of_a_message_that_nobody_knows_are_reported() -> None:
    turn = {"role": "user", "content": "a", "name": "ann", "cache_control": {"type": "ephemeral"}}
    assert chat({"messages": [turn]}).headers == {"x-aitorrent-ignored": "messages.cache_control"}


def test_seeds_of_choices_differ() -> None:
    asked = chat({"messages": HELLO, "n": 3, "seed": -2})
    assert [each.params.seed for each in asked.requests()] == [2**63 - 2, 2**63 - 1, 0]
    assert [each.params.seed for each in chat({"messages": HELLO, "n": 2}).requests()] == [None] * 2


def test_unknown_fields_are_reported_as_far_as_they_can_stand_in_a_header() -> None:
    fields = {"frobnicate": 1, "a\r\nb": 2, "ö": 3, "x" * 41: 4, "unset": None}
    assert chat({"messages": HELLO, **fields}).headers == {"x-aitorrent-ignored": "frobnicate"}
    many = {f"f{n}": 1 for n in range(1000)}
    assert len(chat({"messages": HELLO, **many}).headers["x-aitorrent-ignored"].split(", ")) == 20


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"prompt": [1, 2]}, "prompt"),
        ({"prompt": [[1, 2], [3]]}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [""]}, "prompt"),
        ({"prompt": ["a", ""]}, "prompt"),
        ({"prompt": ["a", 7]}, "prompt"),
        ({"prompt": ["a", "\ud800"]}, "prompt"),
        ({"prompt": ["a"] * (MAX_ANSWERS + 1)}, "prompt"),
        ({"prompt": ["a"] * 9, "n": MAX_CHOICES}, "prompt"),
        ({"prompt": ["a", "b"], "logprobs": 21}, "logprobs"),
        ({"prompt": {}}, "prompt"),
        ({}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": "a", "suffix": "b"}, "suffix"),
        ({"prompt": "a", "echo": True}, "echo"),
        ({"prompt": "a", "best_of": 2}, "best_of"),
        ({"prompt": "a", "logprobs": True}, "logprobs"),
        ({"prompt": "a", "logprobs": 21}, "logprobs"),
        ({"prompt": "a", "logprobs": -1}, "logprobs"),
        ({"prompt": "a", "logprobs": 2.5}, "logprobs"),
    ],
)
def test_completions_refuse_with_the_name(body: dict[str, Any], param: str) -> None:
    assert fault(body, completion).data["param"] == param


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"temperature": "hot"}, "temperature must be a number"),
        ({"temperature": 200}, "temperature must be at most 100"),
        ({"max_tokens": 0}, "max_tokens must be at least 1"),
        ({"top_k": 1.5}, "top_k must be an integer"),
        ({"stream": "yes"}, "stream must be true or false"),
        ({"model": 7}, "model must be a string"),
        ({"messages": []}, "messages must be a list of at least one message"),
        ({"reasoning_effort": "loud"}, "reasoning_effort must be one of "),
    ],
)
def test_a_refusal_says_what_the_field_must_be(fields: dict[str, Any], text: str) -> None:
    assert fault({"messages": HELLO, **fields}).message.startswith(text)


def test_completion_continues_the_text_as_it_is() -> None:
    request = completion({"model": "m", "prompt": ["once"]}).request
    assert (request.prompt, request.raw, request.params.max_tokens) == ("once", True, 16)


def test_each_prompt_of_a_completion_has_its_choices_in_turn() -> None:
    asked = completion({"model": "m", "prompt": ["once", "twice"], "n": 2, "seed": 5})
    assert [(each.prompt, each.params.seed) for each in asked.requests()] == [
        ("once", 5),
        ("once", 6),
        ("twice", 5),
        ("twice", 6),
    ]
    assert asked.answers == 4
    assert all(each.raw for each in asked.requests())


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", "not valid JSON"),
        (b"[]", "not a JSON object"),
        (b"{", "not valid JSON: .* at line 1, column 2"),
        (b"\xff{}", "not UTF-8"),
        (b'{"a":NaN}', "has NaN, which is not JSON"),
        (b'{"a":-Infinity}', "has -Infinity"),
        (b'{"model":"a","model":"b"}', "has the key 'model' twice"),
        (b'{"a":{"b":1,"b":2}}', "has the key 'b' twice"),
        (b'{"a":' + b"[" * 100 + b"]" * 100 + b"}", f"nests more than {MAX_DEPTH} levels"),
        (b'{"a":' + b"[" * 10**6, f"nests more than {MAX_DEPTH} levels"),
        (b'{"a":' + b"9" * 5000 + b"}", "a number that is too long"),
    ],
)
def test_hostile_json(body: bytes, text: str) -> None:
    with pytest.raises(InvalidParams, match=text):
        json_object(body)


def test_deep_but_not_too_deep_json_is_read() -> None:
    deep = {"a": 1}
    for _ in range(MAX_DEPTH - 2):
        deep = {"a": deep}  # type: ignore[dict-item]
    assert json_object(json.dumps(deep).encode()) == deep


THINKING = "m does not support thinking: its chat template cannot turn it on or off"


@pytest.mark.parametrize(
    ("error", "names", "text", "param"),
    [
        (
            InvalidParams(THINKING, params=["think"]),
            *(NAMES, f"{THINKING}; leave out reasoning_effort", "reasoning_effort"),
        ),
        (
            InvalidParams(THINKING, params=["think"]),
            *(RESPONSES_NAMES, f"{THINKING}; leave out reasoning.effort", "reasoning.effort"),
        ),
        (
            InvalidParams("s cannot apply format: no schemas", params=["format"]),
            *(NAMES, "s cannot apply response_format: no schemas", "response_format"),
        ),
        (
            InvalidParams("too long", prompt_tokens=3007, context=512),
            NAMES,
            "This model's maximum context length is 512 tokens. However, your messages have 3007 "
            "tokens. Shorten them.",
            "messages",
        ),
        (
            InvalidParams("too long", prompt_tokens=3007, context=512),
            RESPONSES_NAMES,
            "This model's maximum context length is 512 tokens. However, your input has 3007 "
            "tokens. Shorten it.",
            "input",
        ),
        (
            InvalidParams("too long", prompt_tokens=500, max_tokens=40, context=512),
            NAMES,
            "This model's maximum context length is 512 tokens. However, your messages have 500 "
            "tokens and max_tokens is 40. Lower it.",
            "messages",
        ),
    ],
)
def test_errors_name_what_the_client_sent(
    error: InvalidParams, names: dict[str, str], text: str, param: str
) -> None:
    for _ in range(2):  # an error may come by twice
        found = openai_error(error, names)
        assert (found.message, found.data["param"]) == (text, param)
