"""Tools that a model calls, gathered from a server's answer. No I/O.

A call comes instead of the answer, often with the reason `stop`. Where the request offers no tools,
an answer that is nothing but a call would look empty and complete, so it is an error.
"""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass, field
from typing import Any, Final

from pydantic import ValidationError

from aitorrentd.api.models.call_parts import CallPart
from aitorrentd.api.models.tools import MAX_CALLS, ToolCall, is_tool_name
from aitorrentd.api.relays.texts import TextJoiner
from aitorrentd.errors import ProtocolError, Unavailable

_MAX_NAME: Final = 64
_MAX_CHARS: Final = 1024 * 1024
ENDS: Final = frozenset({"tool_calls", "tool_call", "tool_use", "function_call"})
"Finish reasons of servers for an answer that ends with calls."


@dataclass(slots=True)
class _Call:
    """A call of which parts have arrived."""

    index: int | None
    id: str = ""
    name: str = ""
    arguments: str = ""
    passed: int = -1
    "Characters of the arguments that were passed on; -1 before the name was."
    joiner: TextJoiner = field(default_factory=TextJoiner)


class ToolCalls:
    """Gathers the tool calls in the messages of one answer by `server`.

    `offered` is whether the request offers tools.
    """

    def __init__(self, server: str, *, offered: bool = False) -> None:
        self._server, self._offered = server, offered
        self._name = ""
        self._calls: list[_Call] = []
        self._whole = 0
        "Calls that were passed on whole."
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
        index, said = call.get("index"), function.get("arguments")
        index = index if type(index) is int else None
        ident, name = _text(call.get("id")), _text(function.get("name"))
        text = json.dumps(said) if isinstance(said, dict) else _text(said)
        self._chars += len(text)
        found = self._found(index, ident, name)
        if found is None:
            found = _Call(index)
            self._calls.append(found)
        found.id, found.name = found.id or ident.strip(), found.name or name
        if found.arguments == "{}" and text.lstrip().startswith("{"):
            found.arguments = ""  # a placeholder before the arguments
        found.arguments += found.joiner.add(text)
        if len(self._calls) > MAX_CALLS or self._chars > _MAX_CHARS:
            raise ProtocolError(f"{self._server} sent too many or too long tool calls")

    def _found(self, index: int | None, ident: str, name: str) -> _Call | None:
        """The call that a piece belongs to; None if it begins one.

        Some servers number all calls 0, or none; some repeat the name or the id in each piece, and
        some number the pieces.
        """
        numbered = [call for call in self._calls if call.index == index and index is not None]
        found = numbered[-1] if numbered else None
        if found is None:
            # Without a name it can only go on with the last one.
            return self._calls[-1] if self._calls and not name and not ident.strip() else None
        is_other = bool(ident.strip() and found.id and ident.strip() != found.id)
        if name and found.name and (is_other or not ident.strip()):
            is_new = is_other or name != found.name or _is_object(found.arguments)
            return None if is_new else found
        return found

    @property
    def is_open(self) -> bool:
        """Whether a part of a call was passed on, and its end not."""
        return self._whole < len(self._calls) and self._calls[self._whole].passed >= 0

    def ended(self) -> tuple[ToolCall, ...]:
        """The call that is open, if its arguments are complete: a text follows it."""
        if not self.is_open or not _is_object(self._calls[self._whole].arguments):
            return ()
        self._whole += 1
        return (self._made(self._calls[self._whole - 1]),)

    def passed_on(self) -> tuple[tuple[ToolCall, ...], tuple[CallPart, ...]]:
        """(calls that are complete, parts of the next one), as `Chunk` has them; each once."""
        whole: list[ToolCall] = []
        while self._whole < len(self._calls):
            call = self._calls[self._whole]
            if self._whole + 1 == len(self._calls) or not _is_object(call.arguments):
                return tuple(whole), _parts(call)
            whole.append(self._made(call))
            self._whole += 1
        return tuple(whole), ()

    def calls(self) -> tuple[ToolCall, ...]:
        """The calls that were not passed on whole, in order, each with an id.

        Raises:
            ProtocolError: a call without a valid name.
        """
        rest, self._whole = self._calls[self._whole :], len(self._calls)
        return tuple(map(self._made, rest))

    def _made(self, call: _Call) -> ToolCall:
        call.id = call.id or _new_id()
        call.arguments += call.joiner.rest()
        try:
            return ToolCall(id=call.id, name=call.name, arguments=call.arguments)
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


def _parts(call: _Call) -> tuple[CallPart, ...]:
    """What of a call was not passed on, once its name is certain."""
    begins, at = call.passed < 0, max(call.passed, 0)
    # Some servers send this before the arguments.
    text = "" if call.arguments == "{}" else call.arguments[at:]
    if begins and (not is_tool_name(call.name) or not (call.id or text)):
        return ()
    if not begins and not text:
        return ()
    call.id = call.id or _new_id()
    call.passed = at + len(text)
    return (CallPart(text, call.id, call.name) if begins else CallPart(text),)


def _new_id() -> str:
    return f"call_{secrets.token_hex(8)}"


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False
