"""The lines of `/ai-torrent/1/generate`, byte for byte, and strangers' versions of them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from aitorrent_inference.peers import generate_protocol as wire
from aitorrentd.api import (
    AitorrentError,
    Busy,
    Chunk,
    GenerateRequest,
    InvalidParams,
    Message,
    NotFound,
    ProtocolError,
    SamplingParams,
    StageView,
    Unavailable,
)
from aitorrentd.api.models.logprobs import TokenLogprob
from tests.support.effort import examples
from tests.support.servers.canned import read

TIME_S = 1_732_092_306.25


def test_request_lines_are_as_documented() -> None:
    params = SamplingParams(temperature=0, max_tokens=5, context=(1, 2))
    line = wire.encode_request(GenerateRequest(model="m", prompt="Grüß", params=params))
    assert line == (
        '{"prompt":"Grüß","model":"m",'
        '"params":{"temperature":0.0,"max_tokens":5,"context":[1,2]}}\n'.encode()
    )
    messages = (Message(role="user", content="hi"),)
    line = wire.encode_request(GenerateRequest(messages=messages))
    assert line == b'{"messages":[{"role":"user","content":"hi"}],"params":{}}\n'


def test_request_of_the_first_ai_torrent_is_understood() -> None:
    request = wire.decode_request(b'{"prompt":"why?","params":{"context":[7,8]}}\n')
    assert request == GenerateRequest(prompt="why?", params=SamplingParams(context=(7, 8)))


def test_raw_prompt_stays_raw_on_the_wire() -> None:
    request = GenerateRequest(model="m", prompt="<s>x", raw=True)
    assert b'"raw":true' in wire.encode_request(request).replace(b" ", b"")
    assert wire.decode_request(wire.encode_request(request)) == request


def test_requests_survive_the_wire() -> None:
    request = GenerateRequest(
        model="m",
        messages=(Message(role="system", content="be brief"), Message(role="user", content="\n")),
        params=SamplingParams(
            temperature=0.5,
            top_p=0.9,
            top_k=3,
            min_p=0.1,
            repeat_penalty=1.1,
            repeat_last_n=64,
            presence_penalty=-1,
            frequency_penalty=2,
            seed=7,
            stop=("a", "b"),
            logit_bias={5: -1.5},
            logprobs=True,
            top_logprobs=3,
        ),
    )
    assert wire.decode_request(wire.encode_request(request)) == request


def test_tools_and_calls_survive_the_wire() -> None:
    turns = [
        {"role": "user", "content": "weather?"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {
                    "id": "c1",
                    "type": "function",
                    "function": {"name": "look", "arguments": {"a": 1}},
                }
            ],
        },
        {"role": "tool", "content": "rain", "tool_call_id": "c1"},
    ]
    tool = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
    request = GenerateRequest.model_validate(
        {
            "messages": turns,
            "tools": [tool],
            "tool_choice": {"type": "function", "function": {"name": "look"}},
            "parallel_tool_calls": False,
        }
    )
    assert wire.decode_request(wire.encode_request(request)) == request
    [call] = (request.messages or ())[1].tool_calls
    assert (call.id, call.name, call.arguments) == ("c1", "look", '{"a": 1}')
    last = Chunk("", done=True, reason="tool_calls", tool_calls=(call,))
    read_back = wire.decode_reply(wire.last_line("m", TIME_S, last, wire.Timing(3, 2, 1)))
    assert isinstance(read_back, Chunk)
    assert (read_back.reason, read_back.tool_calls) == ("tool_calls", (call,))


def test_logprobs_survive_the_wire_and_wrong_ones_are_refused() -> None:
    top = (TokenLogprob("a", -0.1, 7, b"a"), TokenLogprob("\ufffd", -3.5, 9, b"\xff"))
    chunk = Chunk("a", logprobs=(TokenLogprob("a", -0.1, 7, b"a", top), TokenLogprob("b", -9999.0)))
    assert wire.decode_reply(wire.text_line("m", TIME_S, chunk)) == chunk
    for wrong in (
        "7",
        '[{"token":"a"}]',
        '[{"token":"a","logprob":NaN}]',
        "[" + "{}," * 5000 + "1]",
    ):
        with pytest.raises(ProtocolError, match="bad answer line: .*logprob"):
            wire.decode_reply(f'{{"response":"a","logprobs":{wrong}}}'.encode())


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ({"num_predict": 7}, {"max_tokens": 7}),
        ({"num_predict": 7, "max_tokens": 3}, {"max_tokens": 3}),
        ({"num_predict": -1}, {"max_tokens": -1}),
        ({"repetition_penalty": 1.1}, {"repeat_penalty": 1.1}),
        ({"repetition_penalty": 1.1, "repeat_penalty": 1.2}, {"repeat_penalty": 1.2}),
        ({"min_p": 0.1, "repeat_last_n": -1}, {"min_p": 0.1, "repeat_last_n": -1}),
        ({"num_predict": -2, "seed": -1, "top_k": -1, "top_p": 0.0}, {"max_tokens": -1}),
        ({"stop": "END"}, {"stop": ("END",)}),
        ({"stop": ["a", "b"]}, {"stop": ("a", "b")}),
        ({"temperature": None, "num_ctx": 4096}, {"num_ctx": 4096}),
    ],
)
def test_parameters_under_ollamas_names_are_understood(
    raw: dict[str, Any], expected: dict[str, Any]
) -> None:
    assert wire.sampling_params(raw) == SamplingParams(**expected)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"", "EOF while parsing"),
        (b"\xff\xfe\n", "Invalid JSON"),
        (b"[1]\n", "should be an object"),
        (b"{}\n", 'give either "prompt" or'),
        (b'{"prompt":"a","messages":[{"role":"user","content":"b"}]}\n', "give either"),
        (b'{"prompt":1}\n', "prompt: "),
        (b'{"prompt":"a","params":{"temperature":-1}}\n', "temperature: "),
        (b'{"prompt":"a","params":{"temperature":NaN}}\n', "temperature: "),
        (b'{"prompt":"a","params":{"max_tokens":0}}\n', "max_tokens: "),
        (b'{"prompt":"a","params":{"logit_bias":{"x":1}}}\n', "logit_bias: 'x' is not"),
        (b'{"prompt":"a","params":{"logprobs":true,"top_logprobs":21}}\n', "top_logprobs: "),
        (b'{"prompt":"a","params":{"top_logprobs":2}}\n', '"top_logprobs" requires "logprobs"'),
        (b'{"prompt":"a","params":[]}\n', "params: "),
        (b'{"prompt":"a","tools":[{"name":"x"}]}\n', '"tools" require "messages"'),
        (b'{"prompt":"a","tools":[{"type":"web_search"}]}\n', "only functions can be called"),
        (b'{"prompt":"a","tool_choice":"required"}\n', "there are no"),
        (b'{"messages":[{"role":"king","content":""}]}\n', "messages.0.role: "),
        (b'{"prompt":"a","model":"' + b"m" * 300 + b'"}\n', "model: "),
        (b'{"x":' + b"[" * 5000 + b"]" * 5000 + b"}\n", "recursion limit"),
    ],
)
def test_bad_request_says_what_is_wrong(line: bytes, why: str) -> None:
    with pytest.raises((ProtocolError, InvalidParams), match=f"bad request: .*{why}"):
        wire.decode_request(line)


def test_each_unknown_parameter_is_refused_by_its_name() -> None:
    line = json.dumps(json.loads(read("requests", "unknown-params.json"))).encode()
    with pytest.raises(InvalidParams, match="temprature: unknown") as caught:
        wire.decode_request(line)
    assert "num_ctx" not in caught.value.message  # Ollama's, so it goes on
    with pytest.raises(InvalidParams, match="mirostat: unknown.*; tfs_z: unknown"):
        wire.decode_request(b'{"prompt":"a","params":{"mirostat":1,"tfs_z":2}}')
    with pytest.raises(InvalidParams, match="options: unknown"):
        wire.decode_request(b'{"prompt":"a","options":{"temperature":0}}')


def test_conversation_in_parts_with_images_crosses_the_wire() -> None:
    parts = wire.decode_request(read("requests", "content-parts.json"))
    assert [m.content for m in parts.messages or ()] == ["one two"]
    image = wire.decode_request(read("requests", "image-in-message.json"))
    assert [m.images for m in image.messages or ()] == [("aGVsbG8=",)]
    for request in (parts, image):
        assert wire.decode_request(wire.encode_request(request)) == request


def test_developer_is_the_system_and_null_is_nothing() -> None:
    line = b'{"messages":[{"role":"developer","content":"x","name":null,"tool_calls":null}]}'
    asked = wire.decode_request(line)
    assert asked.messages == (Message(role="system", content="x"),)
    with pytest.raises(InvalidParams, match=r"messages\.0\.audio: unknown"):
        wire.decode_request(line.replace(b'"tool_calls":null', b'"audio":[]'))


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ([{"type": "input_audio", "input_audio": {}}], "'input_audio'"),
        ([{"type": "image_url", "image_url": {}}], "without a url"),
        ([{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}], "neither base64"),
        ([3], "neither a text nor an object with a type"),
    ],
)
def test_part_that_cannot_be_sent_on_is_refused(content: Any, why: str) -> None:
    line = json.dumps({"messages": [{"role": "user", "content": content}]}).encode()
    with pytest.raises(InvalidParams, match=why):
        wire.decode_request(line)


def test_thinking_crosses_the_wire_apart_from_the_answer() -> None:
    line = wire.text_line("m", TIME_S, Chunk("", thinking="let me see"))
    assert wire.decode_reply(line) == Chunk("", thinking="let me see")
    assert b"thinking" not in wire.text_line("m", TIME_S, Chunk("hi"))


def test_half_a_character_is_no_text() -> None:
    for make in (
        lambda: GenerateRequest(prompt="a\ud800"),
        lambda: Message(role="user", content="\ud800"),
        lambda: SamplingParams(stop=("\ud800",)),
    ):
        with pytest.raises(ValidationError, match="an unpaired surrogate"):
            make()


def test_answer_lines_are_as_ollama_writes_them() -> None:
    assert wire.text_line("llama3.2", TIME_S, Chunk('The "sky"\n✓')) == (
        '{"model":"llama3.2","created_at":"2024-11-20T08:45:06.250000Z",'
        '"response":"The \\"sky\\"\\n✓","done":false}\n'.encode()
    )
    last = Chunk(
        "", done=True, reason="length", prompt_tokens=26, completion_tokens=290, context=(1, 2, 3)
    )
    assert wire.last_line("llama3.2", TIME_S, last, wire.Timing(5_000, 2_000, 3_000)) == (
        b'{"model":"llama3.2","created_at":"2024-11-20T08:45:06.250000Z","response":"",'
        b'"done":true,"done_reason":"length","context":[1,2,3],"total_duration":5000,'
        b'"prompt_eval_count":26,"prompt_eval_duration":2000,"eval_count":290,'
        b'"eval_duration":3000}\n'
    )
    assert wire.error_line(Busy("Too many requests")) == (
        b'{"error":"Too many requests","code":"busy"}\n'
    )


def test_backends_own_durations_and_stages_are_told() -> None:
    last = Chunk(
        "",
        done=True,
        reason="stop",
        stages=(StageView("12D3x", 0, 4),),
        extra={"total_duration": 9, "load_duration": 1, "eval_duration": 5, "model": "no"},
    )
    line = json.loads(wire.last_line("m", TIME_S, last, wire.Timing(1, 2, 3)))
    assert (line["total_duration"], line["load_duration"], line["eval_duration"]) == (9, 1, 5)
    assert line["prompt_eval_duration"] == 1  # without the loading before it
    assert line["stages"] == [{"peer": "12D3x", "start": 0, "end": 4}]
    assert "context" not in line


def test_context_that_would_break_the_line_limit_is_left_out() -> None:
    last = Chunk("", done=True, reason="stop", context=(1_000_000,) * 200_000)
    line = wire.last_line("m", TIME_S, last, wire.Timing(1, 1, 1))
    assert len(line) < wire.MAX_LINE_BYTES
    assert "context" not in json.loads(line)


def test_answers_survive_the_wire() -> None:
    last = Chunk(
        "",
        done=True,
        reason="length",
        prompt_tokens=3,
        completion_tokens=4,
        context=(1, 2),
        stages=(StageView("a", 0, 2), StageView("b", 2, 5)),
    )
    back = wire.decode_reply(wire.last_line("m", TIME_S, last, wire.Timing(9, 4, 5)))
    assert isinstance(back, Chunk)
    assert back.extra == {"total_duration": 9, "prompt_eval_duration": 4, "eval_duration": 5}
    assert back == Chunk(
        "",
        True,
        "length",
        prompt_tokens=3,
        completion_tokens=4,
        context=(1, 2),
        stages=last.stages,
        extra=back.extra,
    )
    assert wire.decode_reply(wire.text_line("m", TIME_S, Chunk("x"))) == Chunk("x")


def test_warning_crosses_the_wire_and_is_bounded() -> None:
    last = Chunk(
        "",
        done=True,
        reason="stop",
        warning="cut",
        extra={"reasoning_tokens": 7, "stop_text": "END"},
    )
    line = wire.last_line("m", TIME_S, last, wire.Timing(9, 4, 5))
    assert json.loads(line)["warning"] == "cut"
    back = wire.decode_reply(line)
    assert isinstance(back, Chunk)
    assert (back.warning, back.extra["reasoning_tokens"]) == ("cut", 7)
    assert back.extra["stop_text"] == "END"
    long = wire.decode_reply(json.dumps({"done": True, "warning": "x" * 100_000}).encode())
    none = wire.decode_reply(b'{"done":true,"warning":null,"reasoning_tokens":null}')
    assert isinstance(long, Chunk)
    assert isinstance(none, Chunk)
    assert (len(long.warning), none.warning, none.extra) == (1024, "", {})
    plain = json.loads(wire.last_line("m", TIME_S, Chunk("", done=True), wire.Timing(9, 4, 5)))
    assert not {"warning", "reasoning_tokens", "stop_text"} & set(plain)


def test_line_of_a_real_ollama_is_understood() -> None:
    line = (
        b'{"model":"llama3.2","created_at":"2023-08-04T19:22:45.499127Z","response":"","done":true,'
        b'"context":[1,2,3],"total_duration":10706818083,"load_duration":6338219291,'
        b'"prompt_eval_count":26,"prompt_eval_duration":130079000,"eval_count":259,'
        b'"eval_duration":4232710000}\n'
    )
    chunk = wire.decode_reply(line)
    assert isinstance(chunk, Chunk)
    assert (chunk.reason, chunk.prompt_tokens, chunk.completion_tokens) == ("stop", 26, 259)
    assert chunk.extra["load_duration"] == 6338219291


def test_first_line_of_an_answer_may_have_the_length_of_the_prompt() -> None:
    line = wire.text_line("m", 0.0, Chunk("a", prompt_tokens=7))
    assert wire.decode_reply(line) == Chunk("a", prompt_tokens=7)
    assert b"prompt_eval_count" not in wire.text_line("m", 0.0, Chunk("b"))


def test_errors_keep_what_programs_act_on() -> None:
    """Agents shorten a conversation whose length they are told; nothing else leaves this node."""
    facts: dict[str, Any] = {"prompt_tokens": 9, "context": 8, "params": ["tools"]}
    line = wire.error_line(InvalidParams("too long", path="/secret", max_tokens="no", **facts))
    assert b"secret" not in line
    error = wire.decode_reply(line)
    assert isinstance(error, InvalidParams)
    assert error.data == facts
    with pytest.raises(ProtocolError, match="about"):
        wire.decode_reply(b'{"error":"x","code":"invalid_params","about":{"context":"8"}}')


@pytest.mark.parametrize(("told", "kept"), [(7, 7), (3600, 3600), (0, None), (10**6, None)])
def test_next_node_knows_when_to_ask_again(told: int, kept: int | None) -> None:
    error = wire.decode_reply(wire.error_line(Busy("too many calls", retry_after_s=told)))
    assert isinstance(error, Busy)
    assert error.data.get("retry_after_s") == kept
    with pytest.raises(ProtocolError, match="about"):  # of a peer that does not keep to it
        wire.decode_reply(b'{"error":"x","code":"busy","about":{"retry_after_s":1000000}}')


def test_missing_layers_are_known_at_the_next_node_too() -> None:
    """Clients do not repeat at once what fails for want of layers, however far these are."""
    holes = [[4, 8], [9, 10]]
    odd: list[Any] = [[2**60, 3], [1], "x"]
    line = wire.error_line(Unavailable("no reachable node holds layers", layers=[*holes, *odd]))
    error = wire.decode_reply(line)
    assert isinstance(error, Unavailable)
    assert error.data == {"layers": holes}
    assert wire.error_line(error) == line  # and at the one after it
    many = json.loads(wire.error_line(Unavailable("x", layers=[(0, 1)] * 1000)))
    assert len(many["about"]["layers"]) == 64
    with pytest.raises(ProtocolError, match="about"):
        wire.decode_reply(b'{"error":"x","about":{"layers":[[1,2,3]]}}')


@pytest.mark.parametrize(
    ("line", "kind", "text"),
    [
        (b'{"error":"Too many requests"}', Busy, "Too many requests"),
        (b'{"error":"full","code":"busy"}', Busy, "full"),
        (b'{"error":"no model","code":"not_found"}', NotFound, "no model"),
        (b'{"error":"broke"}', Unavailable, "broke"),
        (b'{"error":"x","code":"denied"}', Unavailable, "x"),
        (b'{"error":"x","done":true}', Unavailable, "x"),
    ],
)
def test_error_lines_become_errors(line: bytes, kind: type[AitorrentError], text: str) -> None:
    error = wire.decode_reply(line)
    assert type(error) is kind
    assert error.message == text


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{",
        b"null",
        b'{"response":7}',
        b'{"response":"","done":true,"done_reason":"because"}',
        b'{"done":true,"eval_count":-1}',
        b'{"done":true,"eval_count":1e400}',
        b'{"done":true,"context":[-1]}',
        b'{"done":true,"context":["a"]}',
        b'{"response":"\\ud800"}',
        b'{"error":{"message":"x"}}',
    ],
)
def test_bad_answer_line_is_a_protocol_error(line: bytes) -> None:
    with pytest.raises(ProtocolError, match="bad answer line"):
        wire.decode_reply(line)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=12,
)
fields = st.sampled_from(
    [
        "prompt",
        "messages",
        "model",
        "params",
        "response",
        "done",
        "done_reason",
        "context",
        "error",
        "code",
        "stages",
        "eval_count",
        "total_duration",
    ]
)
lines = st.binary(max_size=200) | st.dictionaries(fields, json_values, max_size=6).map(
    lambda value: json.dumps(value).encode()
)


@settings(max_examples=examples(200))
@given(lines)
@example(b'{"prompt":"\\ud800"}')
@example(b'{"prompt":"a","params":{"stop":"\\udfff"}}')
@example(b'{"prompt":"a","params":{"seed":1e999,"top_p":true,"context":[99999999999999999999]}}')
def test_any_bytes_are_a_request_or_a_protocol_error(line: bytes) -> None:
    try:
        request = wire.decode_request(line)
    except (ProtocolError, InvalidParams):
        return
    assert wire.decode_request(wire.encode_request(request)) == request


@settings(max_examples=examples(200))
@given(lines)
def test_any_bytes_are_a_chunk_an_error_or_a_protocol_error(line: bytes) -> None:
    try:
        reply = wire.decode_reply(line)
    except ProtocolError:
        return
    assert isinstance(reply, Chunk | AitorrentError)
    (reply.text if isinstance(reply, Chunk) else reply.message).encode()
