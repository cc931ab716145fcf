"""Conversations of Anthropic's clients, as turns of this node. No I/O.

Results of tools are blocks in a user's message there, and turns of their own here. Instructions may
come in the middle of the conversation; chat templates take a system turn only at the beginning, so
later ones are marked text in a user's turn. Turns of the same author follow each other; they are
one, because many templates demand that user and assistant alternate.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from pydantic import ValidationError

from aitorrent_gateway.anthropic.blocks import (
    Block,
    Said,
    blocks_of,
    joined,
    said,
    unknown_type,
)
from aitorrent_gateway.core.fields import explained, text_of, wrong
from aitorrentd.api import InvalidParams, Message

_BILLING: Final = re.compile(r"x-anthropic-billing-header:[^\n]*\n?")
"What Claude Code begins its instructions with; it differs each time, and would spoil caches."
_UNSAID: Final = frozenset({"thinking", "redacted_thinking", "fallback"})
"Blocks of an assistant that a model does not need to see again."
_OF_MESSAGE: Final = frozenset({"role", "content", "id", "type", "model", "name", "usage"}) | {
    "stop_reason",
    "stop_sequence",
    "container",
    "context_management",
}
"Fields of a message; a client may send an answer back whole."
_ELSEWHERE: Final = ("server_tool_use", "mcp_tool_use", "mcp_tool_listing", "container_upload")
_ELSEWHERE_END: Final = "_tool_result"
"Blocks of tools that another server has run."


@dataclass(slots=True)
class Conversation:
    """A conversation, and what it says about tools."""

    turns: list[Message] = field(default_factory=list)
    offered: set[str] = field(default_factory=set)
    "Names of deferred tools that it makes available."
    removed: set[str] = field(default_factory=set)
    "Names of tools that it takes away."
    defined: list[dict[str, Any]] = field(default_factory=list)
    "Tools that it defines, as in `tools`."
    dropped: set[str] = field(default_factory=set)
    "Types of blocks, and fields of messages, that are left out."


def conversation(system: object, messages: object) -> Conversation:
    """The conversation of a request; `system` may be None.

    Raises:
        InvalidParams: with `param` in its data.
    """
    if not isinstance(messages, list) or not messages:
        raise wrong("messages", "must be a list of at least one message")
    reader = _Reader()
    if system is not None:
        reader.system("system", system)
    for index, message in enumerate(messages):
        reader.message(f"messages[{index}]", message)
    return reader.finished()


@dataclass(slots=True)
class _Turn:
    where: str
    role: str
    text: str = ""
    images: list[str] = field(default_factory=list)
    calls: list[dict[str, Any]] = field(default_factory=list)
    call_id: str = ""
    tool: str = ""

    def made(self) -> Message:
        """The turn.

        Raises:
            InvalidParams: it is not valid.
        """
        fields = {
            "role": self.role,
            "content": self.text,
            "images": self.images,
            "tool_calls": self.calls,
            "tool_call_id": self.call_id,
            "tool_name": self.tool,
        }
        try:
            return Message.model_validate(fields)
        except ValidationError as e:
            found = explained(e)
            raise InvalidParams(f"{self.where}: {found.message}", param=self.where) from None


class _Reader:
    def __init__(self) -> None:
        self._found = Conversation()
        self._turns: list[_Turn] = []
        self._tools: dict[str, str] = {}
        "Names of called tools, by the id of the call."

    def system(self, where: str, content: object) -> None:
        """Add instructions."""
        texts = []
        for index, block in enumerate(blocks_of(where, content)):
            at = f"{where}[{index}]"
            if not self._changes_tools(at, block):
                texts.append(_BILLING.sub("", _only_text(at, block), count=1))
        text = "\n".join(filter(None, texts))
        if not text:
            return
        if not self._turns or self._turns[-1].role == "system":
            self._turn(where, "system").text += "\n\n" * bool(self._turns[-1].text) + text
        else:
            self._say(where, Said(f"<system-reminder>\n{text}\n</system-reminder>"))

    def message(self, where: str, message: object) -> None:
        """Add a message."""
        role = message.get("role") if isinstance(message, dict) else None
        if not isinstance(message, dict) or role not in ("user", "assistant", "system"):
            raise wrong(f"{where}.role", "must be one of user, assistant, system")
        beside = {key for key, value in message.items() if value is not None} - _OF_MESSAGE
        if "images" in beside:
            raise wrong(f"{where}.images", "must be blocks of the type image in its content")
        self._found.dropped.update(f"messages.{key}" for key in beside)
        content = message.get("content")
        if role == "system":
            if content is not None:  # it may only change how much the model thinks
                self.system(f"{where}.content", content)
            return
        blocks = blocks_of(f"{where}.content", content)
        (self._user if role == "user" else self._assistant)(where, blocks)

    def finished(self) -> Conversation:
        """The conversation.

        Raises:
            InvalidParams: a turn is not valid, or nothing is asked.
        """
        last = self._turns[-1] if self._turns else None
        is_begun = last is not None and bool(last.text.strip()) and not last.calls
        if last is None or last.role == "system" or (last.role == "assistant" and not is_begun):
            raise wrong(
                "messages",
                "must end with a user message, or with text that the assistant has begun",
            )
        self._found.turns = [turn.made() for turn in self._turns]
        return self._found

    def _user(self, where: str, blocks: Sequence[Block]) -> None:
        texts, images = [], list[str]()
        for index, block in enumerate(blocks):
            at = f"{where}.content[{index}]"
            if block["type"] == "tool_result":
                images += self._result(at, block)
                continue
            if self._changes_tools(at, block) or self._is_dropped(block):
                continue
            found = said(at, block)
            if found is None:
                raise unknown_type(at, block)
            texts.append(found.text)
            images += found.images
        if texts or images:
            self._say(where, Said("".join(texts), tuple(images)))
        elif not blocks:
            self._say(where, Said())

    def _result(self, at: str, block: Block) -> Sequence[str]:
        """Add the turn of a tool; its images, which only a user's turn may have."""
        ident = text_of(f"{at}.tool_use_id", block.get("tool_use_id"))
        content = block.get("content")
        found = Said() if content is None else joined(f"{at}.content", content)
        if isinstance(content, list):
            for each in content:
                if each["type"] == "tool_reference":
                    self._found.offered.add(each["tool_name"])
        text = f"Error: {found.text}" if block.get("is_error") is True else found.text
        turn = _Turn(at, "tool", text, call_id=ident, tool=self._tools.get(ident, ""))
        self._turns.append(turn)
        return found.images

    def _assistant(self, where: str, blocks: Sequence[Block]) -> None:
        turn = self._turn(where, "assistant")
        for index, block in enumerate(blocks):
            at = f"{where}.content[{index}]"
            if block["type"] == "tool_use":
                turn.calls.append(self._call(at, block))
            elif block["type"] not in _UNSAID and not self._is_dropped(block):
                turn.text += _only_text(at, block)

    def _call(self, at: str, block: Block) -> dict[str, Any]:
        ident, name = text_of(f"{at}.id", block.get("id")), text_of(f"{at}.name", block.get("name"))
        arguments = block.get("input") or {}  # clients send "" and null for no arguments
        if not isinstance(arguments, dict):
            raise wrong(f"{at}.input", "must be an object")
        self._tools[ident] = name
        return {"id": ident, "name": name, "arguments": json.dumps(arguments, ensure_ascii=False)}

    def _changes_tools(self, at: str, block: Block) -> bool:
        """Note a block that adds or removes a tool."""
        if block["type"] not in ("tool_addition", "tool_removal"):
            return False
        tool = block.get("tool")
        kind = tool.get("type") if isinstance(tool, dict) else None
        if isinstance(tool, dict) and kind == "tool_definition":
            definition = tool.get("definition")
            if not isinstance(definition, dict):
                raise wrong(f"{at}.tool.definition", "must be an object")
            self._found.defined.append(definition)
        elif isinstance(tool, dict) and kind == "tool_reference":
            name = text_of(f"{at}.tool.name", tool.get("name"))
            adds = block["type"] == "tool_addition"
            (self._found.offered.add if adds else self._found.offered.discard)(name)
            (self._found.removed.discard if adds else self._found.removed.add)(name)
        else:
            raise wrong(f"{at}.tool", "must be of the type tool_reference or tool_definition")
        return True

    def _is_dropped(self, block: Block) -> bool:
        kind: str = block["type"]
        if kind not in _ELSEWHERE and not kind.endswith(_ELSEWHERE_END):
            return False
        self._found.dropped.add(kind)
        return True

    def _turn(self, where: str, role: str) -> _Turn:
        """The last turn, if it is of this author; else a new one."""
        if not self._turns or self._turns[-1].role != role:
            self._turns.append(_Turn(where, role))
        return self._turns[-1]

    def _say(self, where: str, said: Said) -> None:
        turn = self._turn(where, "user")
        turn.text += "\n\n" * bool(turn.text and said.text) + said.text
        turn.images += said.images


def _only_text(at: str, block: Block) -> str:
    found = said(at, block)
    if found is None or found.images:
        raise unknown_type(at, block)
    return found.text
