"""Requests of Anthropic's clients: what is honoured, accepted, refused by name, or hostile."""

from __future__ import annotations

from typing import Any

import pytest

from aitorrent_gateway.anthropic.requests import asked
from aitorrentd.api import InvalidParams, Message
from aitorrentd.api.models.tools import NamedTool

HELLO: list[Any] = [{"role": "user", "content": "hello"}]
READ = {
    "name": "Read",
    "description": "Reads a file",
    "input_schema": {"type": "object", "properties": {"path": {"type": "string"}}},
}
PNG = {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}
CALL = {"type": "tool_use", "id": "toolu_1", "name": "Read", "input": {"path": "ä"}}
RESULT = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "text of a"}


def params(**fields: Any) -> dict[str, Any]:
    """The parameters that a request sets."""
    made = asked({"model": "m", "messages": HELLO, **fields})
    return made.request.params.model_dump(exclude_unset=True)


def turns(*messages: Any, **fields: Any) -> list[tuple[str, str]]:
    """Author and text of each turn."""
    return [(turn.role, turn.content) for turn in conversation(*messages, **fields)]


def conversation(*messages: Any, **fields: Any) -> tuple[Message, ...]:
    made = asked({"model": "m", "messages": list(messages), **fields}).request.messages
    assert made is not None
    return made


def user(*blocks: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(blocks)}


def assistant(*blocks: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": list(blocks)}


def text(said: str, **fields: Any) -> dict[str, Any]:
    return {"type": "text", "text": said, **fields}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"temperature": 0.5, "top_p": 0.9, "top_k": 4, "max_tokens": 5},) * 2,
        ({"top_p": 0}, {"top_p": 1e-6}),
        ({"stop_sequences": ["a", "b"]}, {"stop": ("a", "b")}),
        ({"stop_sequences": []}, {}),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, {"think": True}),
        ({"thinking": {"type": "disabled"}}, {"think": False}),
        ({"thinking": {"type": "adaptive"}, "output_config": {"effort": "high"}}, {}),
        (
            {"output_config": {"format": {"type": "json_schema", "schema": {"a": 1}}}},
            {"format": {"a": 1}},
        ),
        ({"output_format": {"type": "json_schema", "schema": {"a": 1}}}, {"format": {"a": 1}}),
        # how Anthropic's service handles a request
        (
            {"metadata": {"user_id": "u"}, "service_tier": "auto", "speed": "fast"}
            | {"cache_control": {"type": "ephemeral"}, "context_management": {"edits": []}}
            | {"mcp_servers": [], "tools": [], "tool_choice": {"type": "auto"}},
            {},
        ),
        (dict.fromkeys(("temperature", "tools", "system", "thinking", "tool_choice")), {}),
    ],
)
def test_parameters(fields: dict[str, Any], expected: dict[str, Any]) -> None:
    assert params(**fields) == expected


@pytest.mark.parametrize(
    ("thinking", "shows"),
    [
        (None, False),
        ({"type": "disabled"}, False),
        ({"type": "enabled"}, True),
        ({"type": "adaptive"}, True),
        ({"type": "adaptive", "display": "omitted"}, False),
    ],
)
def test_thoughts_are_shown_to_those_who_ask_for_them(thinking: Any, shows: bool) -> None:
    assert asked({"messages": HELLO, "thinking": thinking}).shows_thinking is shows


def test_system_may_be_a_text_or_blocks_without_the_line_that_differs_by_release() -> None:
    assert turns(*HELLO, system="be short")[0] == ("system", "be short")
    blocks = [
        text("x-anthropic-billing-header: cc_version=2.1; cch=eb6c6;"),
        text("be short", cache_control={"type": "ephemeral"}),
        text("be kind"),
    ]
    assert turns(*HELLO, system=blocks) == [("system", "be short\nbe kind"), ("user", "hello")]
    assert turns(*HELLO, system="") == [("user", "hello")]


def test_later_instructions_stand_in_the_turn_of_the_user() -> None:
    found = turns(
        {"role": "system", "content": "be short"},
        user(text("hello")),
        {"role": "system", "content": [text("today is Friday")]},
        {"role": "system", "content": None, "output_config": {"effort": "low"}},
        system="be kind",
    )
    reminder = "hello\n\n<system-reminder>\ntoday is Friday\n</system-reminder>"
    assert found == [("system", "be kind\n\nbe short"), ("user", reminder)]


def test_turns_of_one_author_in_a_row_are_one() -> None:
    found = turns(
        user(text("a"), text("b")),
        user(text("c")),
        assistant(text("d")),
        assistant(text("e")),
        user(text("f")),
    )
    assert found == [("user", "ab\n\nc"), ("assistant", "de"), ("user", "f")]


def test_calls_and_results_of_tools_become_turns() -> None:
    thought = {"type": "thinking", "thinking": "hm", "signature": "unsigned"}
    found = conversation(
        user(text("read a")),
        assistant(thought, {"type": "redacted_thinking", "data": "x"}, text("I will"), CALL),
        user(RESULT, text("go on")),
    )
    assert [(t.role, t.content) for t in found[1:]] == [
        ("assistant", "I will"),
        ("tool", "text of a"),
        ("user", "go on"),
    ]
    (call,) = found[1].tool_calls
    assert (call.id, call.name, call.arguments) == ("toolu_1", "Read", '{"path": "ä"}')
    assert (found[2].tool_call_id, found[2].tool_name) == ("toolu_1", "Read")


@pytest.mark.parametrize(
    ("result", "said"),
    [
        ({"content": None}, ""),
        ({"content": []}, ""),
        ({"content": [text("a"), text("b")]}, "ab"),
        ({"content": "no such file", "is_error": True}, "Error: no such file"),
        (
            {"content": [{"type": "tool_reference", "tool_name": "Grep"}]},
            "The tool Grep is available now.",
        ),
        (
            {"content": [{"type": "document", "source": {"type": "text", "data": "a"}}]},
            "a",
        ),
    ],
)
def test_results_of_tools(result: dict[str, Any], said: str) -> None:
    found = conversation(*HELLO, assistant(CALL), user(RESULT | result))
    assert (found[-1].role, found[-1].content) == ("tool", said)


def test_images_are_kept_and_those_of_a_tool_stand_in_the_turn_of_the_user() -> None:
    image = {"type": "image", "source": PNG}
    first = conversation(user(image, text("what is it?")))[0]
    assert (first.content, first.images) == (
        "what is it?",
        ("data:image/png;base64,iVBORw0KGgo=",),
    )
    found = conversation(*HELLO, assistant(CALL), user(RESULT | {"content": [image]}))
    assert [(t.role, t.content, len(t.images)) for t in found[2:]] == [
        ("tool", "", 0),
        ("user", "", 1),
    ]


def test_documents_and_search_results_are_text() -> None:
    document = {
        "type": "document",
        "title": "T",
        "source": {"type": "content", "content": [text("a"), text("b")]},
    }
    found = {"type": "search_result", "title": "S", "source": "x.org", "content": [text("c")]}
    assert turns(user(document, text("\n"), found)) == [("user", "T\nab\nS\nx.org\nc")]


def test_what_other_servers_ran_is_left_out_and_reported() -> None:
    ran = {"type": "server_tool_use", "id": "a", "name": "web_search", "input": {}}
    result = {"type": "web_search_tool_result", "tool_use_id": "a", "content": []}
    search = {"type": "web_search_20250305", "name": "web_search"}
    made = asked(
        {
            "messages": [*HELLO, assistant(ran, result, text("b")), *HELLO],
            "tools": [search, READ],
            "frobnicate": 1,
        }
    )
    assert [turn.content for turn in made.request.messages or ()] == ["hello", "b", "hello"]
    assert [tool.name for tool in made.request.tools] == ["Read"]
    assert made.headers["x-aitorrent-ignored"].split(", ") == [
        "frobnicate",
        "server_tool_use",
        "web_search_20250305",
        "web_search_tool_result",
    ]


def names(**fields: Any) -> list[str]:
    return [tool.name for tool in asked({"messages": HELLO, **fields}).request.tools]


def test_tools() -> None:
    bash = {"type": "bash_20250124", "name": "bash"}
    made = asked({"messages": HELLO, "tools": [READ | {"type": "custom", "strict": True}, bash]})
    read, shell = made.request.tools
    assert (read.description, read.parameters, read.strict) == (
        *(READ["description"], READ["input_schema"], True),
    )
    assert shell.parameters is not None
    assert "command" in shell.parameters["properties"]


@pytest.mark.parametrize(
    "kind", ["bash_20250124", "text_editor_20250728", "memory_20250818", "memory_20991231"]
)
def test_tools_of_anthropic_that_the_client_runs_are_offered(kind: str) -> None:
    made = asked({"messages": HELLO, "tools": [{"type": kind, "name": "own"}]})
    assert (names(tools=[{"type": kind, "name": "own"}]), made.headers) == (["own"], {})
    (tool,) = made.request.tools
    assert tool.parameters is not None
    assert "command" in tool.parameters["properties"]


def test_deferred_tools_are_offered_when_the_conversation_refers_to_them() -> None:
    grep = {"name": "Grep", "input_schema": {}, "defer_loading": True}
    assert names(tools=[READ, grep]) == ["Read"]
    found = {"type": "tool_reference", "tool_name": "Grep"}
    searched = [*HELLO, assistant(CALL), user(RESULT | {"content": [found]})]
    assert names(tools=[READ, grep], messages=searched) == ["Read", "Grep"]
    # Anthropic's own search is not here, so nothing would refer to it
    search = {"type": "tool_search_tool_regex_20251119", "name": "tool_search_tool_regex"}
    assert names(tools=[search, grep]) == ["Grep"]


def test_the_conversation_adds_and_removes_tools() -> None:
    grep = {"name": "Grep", "input_schema": {}, "defer_loading": True}
    by_name = {"type": "tool_reference", "name": "Grep"}
    added = {"role": "system", "content": [{"type": "tool_addition", "tool": by_name}]}
    removed = {"role": "system", "content": [{"type": "tool_removal", "tool": by_name}]}
    glob = {"type": "tool_definition", "definition": {"name": "Glob", "input_schema": {}}}
    defined = {"role": "system", "content": [{"type": "tool_addition", "tool": glob}]}
    assert names(tools=[grep], messages=[*HELLO, added]) == ["Grep"]
    assert names(tools=[grep], messages=[*HELLO, added, removed]) == []
    assert names(messages=[*HELLO, defined]) == ["Glob"]


@pytest.mark.parametrize(
    ("choice", "wanted", "parallel"),
    [
        ({"type": "auto"}, None, None),
        ({"type": "any"}, "required", None),
        ({"type": "none"}, "none", None),
        ({"type": "tool", "name": "Read"}, NamedTool(name="Read"), None),
        ({"type": "any", "disable_parallel_tool_use": True}, "required", False),
        ({"type": "auto", "disable_parallel_tool_use": False}, None, None),
    ],
)
def test_tool_choice(choice: Any, wanted: Any, parallel: bool | None) -> None:
    request = asked({"messages": HELLO, "tools": [READ], "tool_choice": choice}).request
    assert (request.tool_choice, request.parallel_tool_calls) == (wanted, parallel)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"temperature": -1}, "temperature"),
        ({"stop_sequences": "a"}, "stop_sequences"),
        ({"stop_sequences": ["x"] * 10**5}, "stop_sequences"),  # stop_list_bomb
        ({"stop_sequences": ["\ud800"]}, "stop_sequences[0]"),
        ({"stream": 1}, "stream"),
        ({"model": 1}, "model"),
        ({"model": "m" * 257}, "model"),
        ({"system": 1}, "system"),
        ({"system": [{"type": "image", "source": PNG}]}, "system[0]"),
        ({"system": [{"text": "a"}]}, "system[0]"),
        ({"thinking": True}, "thinking"),
        ({"thinking": {"type": "often"}}, "thinking.type"),
        ({"output_config": []}, "output_config"),
        ({"output_config": {"format": {"type": "text"}}}, "output_config.format"),
        ({"output_format": {"type": "json_schema"}}, "output_format.schema"),
        ({"mcp_servers": [{"url": "http://localhost"}]}, "mcp_servers"),
        ({"container": "c"}, "container"),
        ({"compaction": {"type": "summarize"}}, "compaction"),
        # Only the new turn is sent, so an answer would be about half a conversation.
        ({"thread": {"type": "continue", "previous_message_id": "msg_1"}}, "thread"),
        ({"messages": []}, "messages"),
        ({"messages": None}, "messages"),
        ({"messages": ["hello"]}, "messages[0].role"),
        ({"messages": [{"role": "tool", "content": "a"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [user("a")]}, "messages[0].content[0]"),
        ({"messages": [user(text("a"), {"type": "audio"})]}, "messages[0].content[1]"),
        ({"messages": [user({"type": "text"})]}, "messages[0].content[0].text"),
        ({"messages": [user(text("\ud800"))]}, "messages[0]"),
        ({"messages": [*HELLO, assistant(text("I look."), CALL)]}, "messages"),
        ({"messages": [*HELLO, assistant(text(" "))]}, "messages"),
        ({"temperature": True}, "temperature"),
        ({"max_tokens": True}, "max_tokens"),
        ({"messages": [*HELLO, assistant(CALL | {"name": ""}), *HELLO]}, "messages[1]"),
        ({"messages": [*HELLO, assistant(CALL | {"input": [1]})]}, "messages[1].content[0].input"),
        ({"messages": [user(RESULT | {"content": 7})]}, "messages[0].content[0].content"),
        ({"messages": [user({"type": "tool_result"})]}, "messages[0].content[0].tool_use_id"),
        ({"messages": [user({"type": "image"})]}, "messages[0].content[0].source"),
        (
            {"messages": [user({"type": "image", "source": PNG | {"media_type": "text/html"}})]},
            "messages[0].content[0].source.media_type",
        ),
        (
            {"messages": [user({"type": "image", "source": PNG | {"data": "?"}})]},
            "messages[0]",
        ),
        (
            {"messages": [user({"type": "document", "source": PNG})]},
            "messages[0].content[0].source",
        ),
        ({"messages": HELLO, "tools": {}}, "tools"),
        ({"tools": [7]}, "tools[0]"),
        ({"tools": [{"name": "a b"}]}, "tools[0].name"),
        ({"tools": [{"name": "a", "input_schema": 7}]}, "tools[0].input_schema"),
        ({"tools": [{"name": "a", "type": 7}]}, "tools[0].type"),
        ({"tools": [READ, READ]}, "tools[1].name"),
        ({"tools": [READ | {"name": f"t{n}"} for n in range(300)]}, "tools"),
        ({"tool_choice": "auto"}, "tool_choice"),
        ({"tool_choice": {"type": "all"}}, "tool_choice.type"),
        ({"tool_choice": {"type": "any"}}, "tool_choice"),
        ({"tool_choice": {"type": "tool", "name": "x"}, "tools": [READ]}, "tool_choice.name"),
    ],
)
def test_what_is_wrong_or_not_there_is_refused_with_its_name(
    fields: dict[str, Any], param: str
) -> None:
    with pytest.raises(InvalidParams, match=".") as caught:
        asked({"model": "m", "messages": HELLO, **fields})
    assert caught.value.data["param"] == param
    assert caught.value.message.startswith(param)
    assert len(caught.value.message) < 500


@pytest.mark.parametrize(
    "source",
    [
        {"type": "url", "url": "http://169.254.169.254/latest/meta-data"},
        {"type": "url", "url": "file:///etc/passwd"},
        {"type": "url"},
        {"type": "file", "file_id": "file_1"},
    ],
)
def test_ssrf_image_url(source: dict[str, Any]) -> None:
    with pytest.raises(InvalidParams, match=r"messages\[0\]\.content\[0\]\.source"):
        asked({"messages": [user({"type": "image", "source": source})]})


def test_an_image_by_its_address_is_refused_with_what_to_send() -> None:
    source = {"type": "url", "url": "https://example.org/cat.png"}
    text = r"content\[0\]\.source\.type must be base64; the server fetches no URLs$"
    with pytest.raises(InvalidParams, match=text):
        asked({"messages": [user({"type": "image", "source": source})]})
