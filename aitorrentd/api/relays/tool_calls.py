"""Tools that a model calls, gathered from a server's answer. No I/O.

A call comes instead of the answer, often with the reason `stop`. Where the request offers no tools,
an answer that is nothing but a call would look empty and complete, so it is an error.
"""

from __future__ import annotations

import json
import secrets
from typing import Any, Final

from pydantic import ValidationError

from aitorrentd.api.models.tools import MAX_CALLS, ToolCall
from aitorrentd.errors import ProtocolError, Unavailable

_MAX_NAME: Final = 64
_MAX_CHARS: Final = 1024 * 1024
ENDS: Final = frozenset({"tool_calls", "tool_call", "tool_use", "function_call"})
"Finish reasons of servers for an answer that ends with calls."


class ToolCalls:
    """Gathers the tool calls in the messages of one answer by `server`.

    `offered` is whether the request offers tools.
    """

    def __init__(self, server: str, *, offered: bool = False) -> None:
        self._server, self._offered = server, offered
        self._name = ""
        self._pieces: dict[int, dict[str, str]] = {}
        self._chars = 0

    def note(self, message: object) -> None:
        """Look for tool calls in a message, or in a piece of one.

        Raises:
            ProtocolError: too many, or too long.
        """
        if not isinstance(message, dict):
            return
        found = message.get("tool_calls")
        calls = [message.get("function_call"), *(found if isinstance(found, list) else ())]
        for call in calls:
            if isinstance(call, dict) and call:
                self._name = self._name or _name_of(call)
                if self._offered:
                    self._add(call)

    def _add(self, call: dict[str, Any]) -> None:
        """Add a piece: OpenAI numbers the calls and sends their arguments in pieces; Ollama sends
        whole calls, and numbers them within the function if at all."""
        inner = call.get("function")
        function: dict[str, Any] = inner if isinstance(inner, dict) else call
        index, name, said = call.get("index"), function.get("name"), function.get("arguments")
        if type(index) is not int:
            index = len(self._pieces) if name or not self._pieces else max(self._pieces)
        piece = self._pieces.setdefault(index, {"id": "", "name": "", "arguments": ""})
        text = json.dumps(said) if isinstance(said, dict) else said
        for key, more in (("id", call.get("id")), ("name", name)):
            if isinstance(more, str) and more and not piece[key]:
                piece[key] = more
        if isinstance(text, str):
            piece["arguments"] += text
            self._chars += len(text)
        if len(self._pieces) > MAX_CALLS or self._chars > _MAX_CHARS:
            raise ProtocolError(f"{self._server} sent too many or too long tool calls")

    def calls(self) -> tuple[ToolCall, ...]:
        """The calls, in order, each with an id.

        Raises:
            ProtocolError: a call without a valid name.
        """
        try:
            return tuple(
                ToolCall(
                    id=piece["id"] or f"call_{secrets.token_hex(8)}",
                    name=piece["name"],
                    arguments=piece["arguments"],
                )
                for _, piece in sorted(self._pieces.items())
            )
        except ValidationError as e:
            problem = e.errors(include_url=False, include_input=False)[0]
            where = ".".join(map(str, problem["loc"]))
            raise ProtocolError(
                f"{self._server} sent a tool call with a bad {where}: {problem['msg']}"
            ) from None

    def check(self, *, has_text: bool) -> str:
        """A warning about a call that nobody offered, beside a text; an empty string without one.

        Raises:
            Unavailable: the model called such a tool, and the answer has no text.
        """
        if not self._name or self._offered:
            return ""
        if has_text:
            return f"the model also called {self._name}, which the request does not offer"
        raise Unavailable(f"{self._server}: the model called {self._name} instead of answering")


def _name_of(call: dict[str, Any]) -> str:
    function = call.get("function")
    name = (function if isinstance(function, dict) else call).get("name")
    return f"the tool {name[:_MAX_NAME]!r}" if isinstance(name, str) and name else "a tool"
