"""Formats are told by chat templates, and what a template shows of a call is read as that call."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from aitorrent_shards.chats.formats import Style, tool_format
from aitorrent_shards.chats.harmony import HarmonyReader
from aitorrent_shards.chats.messages import template_messages, template_tools
from aitorrent_shards.chats.reading import AnswerReader
from aitorrent_shards.models.folder import read_model
from aitorrent_shards.models.tokenizer import ModelTokenizer
from aitorrentd.api import Message
from aitorrentd.api.models.tools import Tool
from tests.support.shards.models import make_model
from tests.unit.shards.chats.test_reading import THINK

HEAD = "{% for t in tools or [] %}{{ t | tojson }}{% endfor %}{% for m in messages %}"
CALLS = "{% if m.tool_calls %}{% for c in m.tool_calls %}{% set f = c.function %}"
TAIL = "{% endfor %}{% else %}[{{ m.role }}]{{ m.content }}{% endif %}{% endfor %}"
SECTION = "{% if loop.first %}<｜tool▁calls▁begin｜>{% endif %}<｜tool▁call▁begin｜>"
SECTION_END = "<｜tool▁call▁end｜>{% if loop.last %}<｜tool▁calls▁end｜>{% endif %}"
# In each a tool's arguments are taken in the way of the published template: as an object, as items,
# or as a text that is put together with others.
TEMPLATES: dict[str, tuple[Style, str]] = {
    "Qwen3-Coder": (
        Style.PARAMETERS,
        "<tool_call>\n<function={{ f.name }}>\n{% for k, v in f.arguments | items %}"
        "<parameter={{ k }}>\n{{ v if v is string else v | tojson }}\n</parameter>\n{% endfor %}"
        "</function>\n</tool_call>\n",
    ),
    "Seed-OSS": (
        Style.PARAMETERS,
        "<seed:tool_call>\n<function={{ f.name }}>\n{% for k, v in f.arguments.items() %}"
        "<parameter={{ k }}>{{ v if v is string else v | tojson }}</parameter>\n{% endfor %}"
        "</function>\n</seed:tool_call>",
    ),
    "GLM": (
        Style.PARAMETERS,
        "<tool_call>{{ f.name }}\n{% for k, v in f.arguments.items() %}<arg_key>{{ k }}</arg_key>\n"
        "<arg_value>{{ v if v is string else v | tojson }}</arg_value>\n{% endfor %}</tool_call>",
    ),
    "MiniMax": (
        Style.PARAMETERS,
        '<minimax:tool_call>\n<invoke name="{{ f.name }}">\n{% for k, v in f.arguments.items() %}'
        '<parameter name="{{ k }}">{{ v if v is string else v | tojson }}</parameter>\n'
        "{% endfor %}</invoke>\n</minimax:tool_call>",
    ),
    "DeepSeek V3": (
        Style.DEEPSEEK,
        SECTION + "{{ 'function<｜tool▁sep｜>' + f['name'] + '\\n```json\\n' + f['arguments']"
        " + '\\n```' }}" + SECTION_END,
    ),
    "DeepSeek V3.1": (
        Style.DEEPSEEK,
        SECTION + "{{ f['name'] + '<｜tool▁sep｜>' + f['arguments'] }}" + SECTION_END,
    ),
    "gpt-oss": (
        Style.HARMONY,
        "<|start|>assistant<|channel|>commentary to=functions.{{ f.name }} <|constrain|>json"
        "<|message|>{{ f.arguments | tojson }}<|call|>",
    ),
    "Hermes": (
        Style.HERMES,
        "<tool_call>\n{{ {'name': f.name, 'arguments': f.arguments} | tojson }}\n</tool_call>",
    ),
    "Granite": (Style.MISTRAL_LIST, "<|tool_call|>[{{ f | tojson }}]"),
}
ARGUMENTS = {"city": 'Kö"ln\n{', "count": 3, "deep": True, "tags": ["a"]}
LOOK = Tool(
    name="look",
    parameters={
        "type": "object",
        "properties": {
            "city": {"type": "string"},
            "count": {"type": "integer"},
            "deep": {"type": "boolean"},
            "tags": {"type": "array"},
        },
    },
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model") / "m", layers=1)


@pytest.mark.parametrize("name", TEMPLATES)
def test_call_that_a_template_shows_is_read_as_that_call(folder: Path, name: str) -> None:
    style, shown = TEMPLATES[name]
    source = HEAD + CALLS + shown + TAIL
    (folder / "chat_template.jinja").write_text(source)
    tokenizer = ModelTokenizer(read_model(folder), model="m")
    tokenizer.check_tools()
    tokenizer.check_calls()
    assert tokenizer.tools is not None
    assert tokenizer.tools.style is style
    call = {"id": "c", "name": "look", "arguments": json.dumps(ARGUMENTS)}
    turns = (
        Message.model_validate({"role": "user", "content": "hi"}),
        Message.model_validate({"role": "assistant", "tool_calls": [call]}),
        Message.model_validate({"role": "tool", "content": "18", "tool_call_id": "c"}),
    )
    ids = tokenizer.encode(None, template_messages(turns), tools=template_tools([LOOK]))
    text = str(tokenizer._tokenizer.decode(list(ids), skip_special_tokens=False))
    assert text.endswith("[tool]18")
    written = text.partition("[user]hi")[2].removesuffix("[tool]18")
    if style is Style.HARMONY:
        reader: HarmonyReader | AnswerReader = HarmonyReader(tokenizer.tools, [LOOK])
        written = written.removeprefix("<|start|>assistant")
    else:
        reader = AnswerReader(thinking=THINK, tools=tokenizer.tools, offered=[LOOK])
    pieces = [*reader.push(written), *reader.finish()[0]]
    (found,) = (piece.call for piece in pieces if piece.call is not None)
    assert (found.name, json.loads(found.arguments)) == ("look", ARGUMENTS)
    assert "".join(piece.text for piece in pieces).strip() == ""


def test_template_in_an_unknown_format_has_none() -> None:
    assert tool_format("<call>{{ tools }}</call>", lambda text: None) is None
    assert tool_format("<function=x>{{ tools }}</function>", lambda text: None) is None


def test_harmony_ends_with_its_own_tags(folder: Path) -> None:
    """A call ends the answer, also where the model's configuration does not name its tag."""
    (folder / "chat_template.jinja").write_text(HEAD + CALLS + TEMPLATES["gpt-oss"][1] + TAIL)
    path = folder / "tokenizer.json"
    made = json.loads(path.read_text())
    usual = dict(made["added_tokens"][0])
    made["added_tokens"].append(usual | {"id": 319, "content": "<|call|>"})
    path.write_text(json.dumps(made))
    tokenizer = ModelTokenizer(read_model(folder), model="m")
    assert tokenizer._tokenizer.token_to_id("<|call|>") in tokenizer.end_ids
