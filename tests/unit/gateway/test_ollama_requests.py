"""Requests of Ollama's clients: what is honoured, accepted, refused with its name, or hostile."""

from __future__ import annotations

import math
from typing import Any

import pytest

from aitorrent_gateway.ollama import options
from aitorrent_gateway.ollama.names import pick, tagged, unsupported
from aitorrent_gateway.ollama.requests import chat, generate, harmless
from aitorrentd.api import GenerateRequest, InvalidParams, ModelView

HELLO = [{"role": "user", "content": "hello"}]
CALL = {"function": {"name": "f", "arguments": {"a": 1}}}
# As langchain-ollama sends those that nobody set.
NULLS = dict.fromkeys(options.KNOWN)

SAME = {
    "min_p": 0.1,
    "repeat_penalty": 1.1,
    "repeat_last_n": 64,
    "presence_penalty": 1,
    "frequency_penalty": 1.5,
}


def params(**fields: Any) -> dict[str, Any]:
    """The parameters that a chat request sets."""
    request = chat({"model": "m", "messages": HELLO, **fields}).request
    assert request is not None
    return request.params.model_dump(exclude_unset=True, exclude_none=True)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"options": NULLS}, {}),
        ({"options": {"temperature": 0, "top_k": 40.0}}, {"temperature": 0, "top_k": 40}),
        ({"options": {"top_p": 0, "top_k": -1}}, {"top_p": 1e-6, "top_k": 0}),
        (
            {"options": {"num_predict": 128.0, "num_ctx": 8192}},
            {"max_tokens": 128, "num_ctx": 8192},
        ),
        ({"options": {"num_predict": -1, "seed": -1}}, {"max_tokens": -1}),
        ({"options": {"num_predict": -2}}, {"max_tokens": -1}),
        ({"options": {"num_predict": 0, "num_ctx": 0}}, {}),
        ({"options": {"seed": -7}}, {"seed": 2**63 - 7}),
        ({"options": {"stop": ["a", "", "a", "b"]}}, {"stop": ("a", "b")}),
        ({"options": {"stop": "a"}}, {"stop": ("a",)}),
        ({"options": SAME}, SAME),
        ({"options": {"mirostat": 0, "mirostat_tau": 5.0, "tfs_z": 1.0, "typical_p": 1}}, {}),
        ({"options": {"num_gpu": 99, "num_thread": 4, "use_mmap": False, "numa": False}}, {}),
        ({"format": ""}, {}),
        ({"format": "json"}, {"format": "json"}),
        ({"format": {"type": "object"}}, {"format": {"type": "object"}}),
        ({"think": True}, {"think": True}),
        ({"think": False}, {"think": False}),
        ({"think": "high"}, {"think": "high"}),
        ({"think": ""}, {}),
        ({"logprobs": True, "top_logprobs": 2}, {"logprobs": True, "top_logprobs": 2}),
        ({"logprobs": False, "top_logprobs": 0}, {}),
        ({"tools": [], "images": [], "keep_alive": "5m", "truncate": True, "shift": False}, {}),
        (dict.fromkeys(("options", "format", "think", "tools", "keep_alive", "stream")), {}),
    ],
)
def test_parameters(fields: dict[str, Any], expected: dict[str, Any]) -> None:
    assert params(**fields) == expected


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": ""}, "model"),
        ({"model": 5}, "model"),
        ({"model": "m" * 257}, "model"),
        ({"options": []}, "options"),
        ({"options": {"temperature": "0.7"}}, "options.temperature"),
        ({"options": {"temperature": -1}}, "temperature"),
        ({"options": {"top_k": 1.5}}, "options.top_k"),
        ({"options": {"num_predict": True}}, "options.num_predict"),
        ({"options": {"stop": [1]}}, "options.stop"),
        ({"options": {"stop": [str(n) for n in range(10**4)]}}, "stop"),  # stop_list_bomb
        ({"options": {"mirostat": 2}}, "options.mirostat"),
        ({"options": {"typical_p": 0.7}}, "options.typical_p"),
        ({"format": "yaml"}, "format"),
        ({"format": []}, "format"),
        ({"think": "much"}, "think"),
        ({"think": 1}, "think"),
        ({"stream": "yes"}, "stream"),
        ({"logprobs": True, "top_logprobs": 99}, "top_logprobs"),
        ({"messages": {}}, "messages"),
        ({"messages": ["hello"]}, "messages[0]"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0]"),
        ({"messages": [{"role": "user", "content": 1}]}, "messages[0].content"),
        ({"messages": [{"role": "robot", "content": ""}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "tool_calls": [{}]}]}, "messages[0].tool_calls[0]"),
        ({"tools": [{"type": "web_search"}]}, "tools[0]"),
        ({"tools": {}}, "tools"),
    ],
)
def test_what_is_wrong_is_named(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidParams, match=".") as caught:
        chat({"model": "m", "messages": HELLO, **fields})
    assert caught.value.data["param"] == param


def test_a_missing_model_is_told_with_what_it_is() -> None:
    with pytest.raises(InvalidParams, match="^model is required: a name of at most 256 characters"):
        chat({"messages": HELLO})


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"suffix": "}"}, "suffix"),
        ({"template": "{{ .Prompt }}"}, "template"),
        ({"context": [1], "system": "be brief"}, "context"),
        ({"context": ["a"]}, "context"),
        ({"raw": True, "system": "be brief"}, "raw"),
        ({"images": "aGk="}, "images"),
    ],
)
def test_prompts_that_cannot_be_answered(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidParams, match=param) as caught:
        generate({"model": "m", "prompt": "a", **fields})
    assert caught.value.data["param"] == param


@pytest.mark.parametrize(
    "image",
    ["http://169.254.169.254/latest/meta-data", "https://a.example/a.png", "file:///etc/passwd"],
)
def test_ssrf_image_url(image: str) -> None:
    turn = {"role": "user", "content": "what is this?", "images": [image]}
    with pytest.raises(InvalidParams, match="is not a data: URL"):
        chat({"model": "m", "messages": [turn]})
    with pytest.raises(InvalidParams, match="is not a data: URL"):
        generate({"model": "m", "prompt": "what?", "images": [image]})


def test_turns_of_a_conversation() -> None:
    turns = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "hi", "images": ["aGk="], "thinking": None},
        {"role": "assistant", "content": "", "thinking": "hm", "tool_calls": [CALL | {"id": "1"}]},
        {"role": "tool", "content": "2", "name": "f"},
        {"role": "tool", "content": "3", "tool_name": "g", "tool_call_id": "1"},
        {"role": "assistant"},
    ]
    tools = [
        {
            "type": "function",
            "function": {"name": "f", "description": None, "returns": "int", "parameters": {}},
        },
        {"function": {"name": "g"}},
    ]
    request = chat({"model": "m", "messages": turns, "tools": tools}).request
    assert request is not None and request.messages is not None
    assert [m.content for m in request.messages] == ["be brief", "hi", "", "2", "3", ""]
    assert request.messages[1].images == ("aGk=",)
    (call,) = request.messages[2].tool_calls
    assert (call.id, call.name, call.arguments) == ("1", "f", '{"a": 1}')
    assert [m.tool_name for m in request.messages[3:5]] == ["f", "g"]
    assert [tool.name for tool in request.tools] == ["f", "g"]


def test_prompts() -> None:
    plain = generate({"name": "m", "prompt": "a", "raw": True, "context": []})
    assert plain.request == GenerateRequest(model="m", prompt="a", raw=True)
    again = generate({"model": "m", "prompt": "a", "context": [1, 2], "system": ""}).request
    assert again is not None and again.params.context == (1, 2)
    seen = generate({"model": "m", "prompt": "a", "system": "s", "images": ["aGk="]}).request
    assert seen is not None and seen.messages is not None
    assert [(m.role, m.content, m.images) for m in seen.messages] == [
        ("system", "s", ()),
        ("user", "a", ("aGk=",)),
    ]


@pytest.mark.parametrize(
    ("keep_alive", "keep_s"),
    [
        *((zero, 0) for zero in (0, 0.0, -0.0, "0", "0s", "0m", "-0", " 0 ", "0h0m0s")),
        *((none, None) for none in (None, "")),
        # ollama#10422: "-2m" is for ever, too; open-webui#753: "-1" has no unit.
        *((ever, math.inf) for ever in (-1, "-1", "-1m", "-2m", "-1s", 1e300, "9" * 18 + "h")),
        *(("5m", 300), ("10s", 10), (1800, 1800), ("30", 30), ("1h30m", 5400), ("1.5h", 5400)),
        *((1.5, 1.5), ("500ms", 0.5), (".5m", 30), ("+5m", 300), (86400, 86400)),
    ],
)
def test_how_long_a_model_shall_stay(keep_alive: object, keep_s: float | None) -> None:
    for read, empty in ((generate, {}), (generate, {"prompt": ""}), (chat, {"messages": []})):
        asked = read({"model": "m", "keep_alive": keep_alive, **empty})
        assert (asked.request, asked.keep_s) == (None, keep_s)
    asked = generate({"model": "m", "prompt": "a", "keep_alive": keep_alive})
    assert (asked.request is not None, asked.keep_s) == (True, keep_s)


@pytest.mark.parametrize(
    "keep_alive",
    [
        *(True, False, [], {}),
        *("five minutes", "5 m", "5d", "m", "-", "--1", "1e3", "5mm", "١m"),
        *("5m" * 9, "9" * 19, "nan", "inf"),
    ],
)
def test_keep_alive_that_is_no_duration_is_refused(keep_alive: object) -> None:
    with pytest.raises(InvalidParams, match="keep_alive is neither seconds nor a duration"):
        generate({"model": "m", "keep_alive": keep_alive})


def test_unknown_fields_are_told() -> None:
    asked = chat({"model": "m", "messages": HELLO, "zz": 1, "options": {"yy": 1, "seed": 1}})
    assert asked.headers == {"x-aitorrent-ignored": "options.yy, zz"}


def test_parameters_that_ask_for_nothing_can_be_left_out() -> None:
    request = chat(
        {
            "model": "m",
            "messages": HELLO,
            "think": False,
            "options": {"num_ctx": 4096, "repeat_last_n": 64, "seed": 1},
        }
    ).request
    assert request is not None
    left = harmless(request, ["num_ctx", "think", "repeat_last_n"]).params
    assert left.model_dump(exclude_none=True, exclude_defaults=True) == {"seed": 1}
    for refused in (["seed"], ["num_ctx", "seed"], [], None, "num_ctx"):
        with pytest.raises(ValueError, match="changes the answer"):
            harmless(request, refused)
    words = chat({"model": "m", "messages": HELLO, "think": "high"}).request
    assert words is not None
    assert harmless(words, ["think"]).params.think is True
    thinking = chat({"model": "m", "messages": HELLO, "think": True}).request
    assert thinking is not None
    with pytest.raises(ValueError, match="changes the answer"):
        harmless(thinking, ["think"])


def test_a_name_without_a_tag_means_latest() -> None:
    assert tagged("m") == "m:latest"
    assert tagged("m:7b") == "m:7b"
    assert tagged("host:5000/m") == "host:5000/m:latest"
    views = [ModelView("a", "f"), ModelView("b:latest", "f"), ModelView("c:7b", "f")]
    picked = {name: pick(name, views) for name in ("a", "a:latest", "b", "b:latest", "c", "c:7b")}
    assert {name: view and view.name for name, view in picked.items()} == {
        "a": "a",
        "a:latest": "a",
        "b": "b:latest",
        "b:latest": "b:latest",
        "c": None,
        "c:7b": "c:7b",
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "m does not support tools: its chat template has no place for them",
            '"a:b" does not support tools: its chat template has no place for them',
        ),
        ("s cannot apply think: no switch", '"a:b" does not support thinking: no switch'),
        ("m does not support images; leave them out", "m does not support images; leave them out"),
        ("s cannot apply tool_choice", "s cannot apply tool_choice"),
    ],
)
def test_what_a_model_lacks_is_said_in_words_that_clients_look_for(
    text: str, expected: str
) -> None:
    found = unsupported("a:b", InvalidParams(text, params=["think"]))
    assert (found.message, found.data) == (expected, {"params": ["think"]})
