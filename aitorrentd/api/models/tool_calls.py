"""Tools that a model calls although no request offers any. No I/O.

The call comes instead of the answer, often with the reason `stop`: without a notice, the answer
would be empty and look complete.
"""

from __future__ import annotations

from typing import Any, Final

from aitorrentd.errors import Unavailable

_MAX_NAME: Final = 64


class ToolCalls:
    """Notes the tool calls in the messages of one answer by `server`."""

    def __init__(self, server: str) -> None:
        self._server = server
        self._name = ""

    def note(self, message: object) -> None:
        """Look for tool calls in a message, or in a piece of one."""
        if not isinstance(message, dict) or self._name:
            return
        calls = message.get("tool_calls")
        for call in [message.get("function_call"), *(calls if isinstance(calls, list) else ())]:
            if isinstance(call, dict) and call:
                self._name = _name_of(call)
                return

    def check(self, *, has_text: bool) -> str:
        """A warning about a tool call beside a text; an empty string without one.

        Raises:
            Unavailable: the model called a tool, and the answer has no text.
        """
        if not self._name:
            return ""
        if has_text:
            return f"the model also called {self._name}; tools are not supported"
        raise Unavailable(f"{self._server}: the model called {self._name} instead of answering")


def _name_of(call: dict[str, Any]) -> str:
    function = call.get("function")
    name = (function if isinstance(function, dict) else call).get("name")
    return f"the tool {name[:_MAX_NAME]!r}" if isinstance(name, str) and name else "a tool"
