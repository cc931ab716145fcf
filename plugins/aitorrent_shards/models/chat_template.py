"""Chat templates of Hugging Face models: Jinja, in a sandbox.

Provides what `transformers` provides to templates: trim_blocks, lstrip_blocks, loop controls,
`tojson` without HTML escapes, `raise_exception`, `strftime_now` and `{% generation %}` (which marks
answers for training and means nothing here). Blocking; the template is the model's, not a peer's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import jinja2
import jinja2.ext
import jinja2.meta
from jinja2 import nodes
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from aitorrent_shards.models.folder import read_optional_json
from aitorrentd.api import InvalidParams

DEFAULT: Final = "default"
"The name of the template for plain conversations."
TOOL_USE: Final = "tool_use"
"The name of the template for conversations with tools, where it is another one."
_MAX_TEMPLATE_BYTES: Final = 2**20
_MAX_TEMPLATES: Final = 16
_HERE: Final = "CONTINUE_FINAL_MESSAGE_TAG "
"Stands where an answer continues. As in transformers: its space is lost where a template trims."
_NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})


def read_templates(folder: Path, settings: Mapping[str, Any]) -> dict[str, str]:
    """A model's chat templates by name; `settings` is its tokenizer_config.json.

    Those of `chat_template.jinja` and `additional_chat_templates/` come first, then those of the
    settings, then `chat_template.json`, which multimodal processors use.

    Raises:
        InvalidParams: a file cannot be read.
    """
    named = sorted((folder / "additional_chat_templates").glob("*.jinja"))[:_MAX_TEMPLATES]
    found = {path.stem: _read_source(path) for path in named}
    if (single := folder / "chat_template.jinja").is_file():
        found[DEFAULT] = _read_source(single)
    older = read_optional_json(folder / "chat_template.json")
    return found or _named(settings.get("chat_template")) or _named(older.get("chat_template"))


def _named(stated: object) -> dict[str, str]:
    """Templates from a text, a list of {name, template}, or a map."""
    if isinstance(stated, list):
        stated = {t.get("name"): t.get("template") for t in stated if isinstance(t, dict)}
    if not isinstance(stated, dict):
        stated = {DEFAULT: stated}
    return {str(n): source for n, source in stated.items() if isinstance(source, str) and source}


def _read_source(path: Path) -> str:
    try:
        if path.stat().st_size <= _MAX_TEMPLATE_BYTES:
            return path.read_text("utf-8")
    except (OSError, ValueError) as e:
        raise InvalidParams(f"{path} cannot be read: {e}") from None
    raise InvalidParams(f"{path} is larger than {_MAX_TEMPLATE_BYTES} bytes")


class _Generation(jinja2.ext.Extension):
    """Renders the content of `{% generation %}...{% endgeneration %}`."""

    tags = {"generation"}  # noqa: RUF012  declared this way by jinja2

    def parse(self, parser: Parser) -> nodes.Node:
        """The nodes inside the block, which is a scope of its own as in transformers."""
        line = next(parser.stream).lineno
        return nodes.Scope(
            parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line
        )


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
            self.variables = jinja2.meta.find_undeclared_variables(environment.parse(source))
            "What the template uses, such as `tools` and `enable_thinking`."
        except jinja2.TemplateError as e:
            raise InvalidParams(f"the chat template of {model} is damaged: {e}") from None

    def _message(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """Treat a developer message as a system message where the template lacks that role."""
        role = message.get("role", "")
        known = role != "developer" or self._knows_developer
        return {**message, "role": role if known else "system"}

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        variables: Mapping[str, Any] = _NOTHING,
        continues: bool = False,
    ) -> str:
        """The rendered conversation, ready for the assistant's next turn, or for more of its last
        one if the answer `continues` that. `variables` are further ones that the template uses.

        Raises:
            InvalidParams: the template rejects these messages, or leaves out the last one.
        """
        turns = [self._message(m) for m in messages]
        if continues:
            turns[-1]["content"] += _HERE
        try:
            text = self._template.render(
                messages=turns,
                tools=list(tools) or None,
                documents=None,
                add_generation_prompt=not continues,
                **{**self._tokens, **variables},
            )
        except (jinja2.TemplateError, TypeError, ValueError, LookupError, ArithmeticError) as e:
            raise InvalidParams(
                f"the chat template of {self._model} rejects this conversation: {e}"
            ) from None
        return self._until_here(text) if continues else text

    def _until_here(self, text: str) -> str:
        before, mark, after = text.rpartition(_HERE.rstrip())
        if not mark:
            raise InvalidParams(
                f"the chat template of {self._model} leaves out the last turn, which the answer"
                " would continue"
            )
        return before if after.startswith(" ") else before.rstrip()
