"""Chat templates of Hugging Face models: Jinja, in a sandbox.

Provides what `transformers` provides to templates: trim_blocks, lstrip_blocks, loop controls,
`tojson` without HTML escapes, `raise_exception`, `strftime_now` and `{% generation %}` (which marks
answers for training and means nothing here). Blocking; the template is the model's, not a peer's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import jinja2
import jinja2.ext
from jinja2 import nodes
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from aitorrentd.api import InvalidParams


class _Generation(jinja2.ext.Extension):
    """Renders the content of `{% generation %}...{% endgeneration %}`."""

    tags = {"generation"}  # noqa: RUF012  declared this way by jinja2

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """The nodes inside the block."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _raise(message: object) -> None:
    raise jinja2.TemplateError(str(message))


def _to_json(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, **options)


def _now(pattern: str) -> str:
    return datetime.now().strftime(pattern)


class ChatTemplate:
    """Renders a conversation as a single text, in the model's format."""

    def __init__(self, source: str, tokens: Mapping[str, str], *, model: str) -> None:
        """`tokens` are special tokens by role, such as bos_token.

        Raises:
            InvalidParams: not a Jinja template.
        """
        self._tokens, self._model = dict(tokens), model
        self._knows_developer = "developer" in source
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols]
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _raise
        environment.globals["strftime_now"] = _now
        try:
            self._template = environment.from_string(source)
        except jinja2.TemplateError as e:
            raise InvalidParams(f"the chat template of {model} is damaged: {e}") from None

    def _message(self, message: Mapping[str, str]) -> dict[str, str]:
        """Treat a developer message as a system message where the template lacks that role."""
        role = message.get("role", "")
        known = role != "developer" or self._knows_developer
        return {**message, "role": role if known else "system"}

    def render(self, messages: Sequence[Mapping[str, str]]) -> str:
        """The rendered conversation, ready for the assistant's next turn.

        Raises:
            InvalidParams: the template rejects these messages.
        """
        try:
            return self._template.render(
                messages=[self._message(m) for m in messages],
                tools=None,
                documents=None,
                add_generation_prompt=True,
                **self._tokens,
            )
        except (jinja2.TemplateError, TypeError, ValueError, LookupError, ArithmeticError) as e:
            raise InvalidParams(
                f"the chat template of {self._model} rejects this conversation: {e}"
            ) from None
