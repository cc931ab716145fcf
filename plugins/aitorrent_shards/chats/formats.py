"""The formats in which models call tools and mark their reasoning. No I/O.

Which one a model writes follows from its chat template: the same text that shows the model what to
write.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Final

TokenId = Callable[[str], int | None]
"The id of an added token, or None if the tokenizer has none of this text."


@dataclass(frozen=True, slots=True)
class Tag:
    """A mark in an answer: a token of its own, or text where the tokenizer has no such token."""

    text: str
    token: int | None = None


class Style(Enum):
    """How a call is written."""

    HERMES = "Hermes"
    '`<tool_call>{"name": …, "arguments": {…}}</tool_call>`: Hermes, Qwen 2.5, Qwen 3.'
    LLAMA = "Llama"
    'The answer is `{"name": …, "parameters": {…}}`, maybe after `<|python_tag|>`: Llama 3.'
    MISTRAL_LIST = "Mistral list"
    '`[TOOL_CALLS][{"name": …, "arguments": {…}}, …]`: Mistral up to tokenizer v7.'
    MISTRAL_ARGS = "Mistral"
    "`[TOOL_CALLS]name[ARGS]{…}`, repeated: Mistral from tokenizer v11 on."


@dataclass(frozen=True, slots=True)
class ToolFormat:
    """How a model calls tools."""

    style: Style
    open: Tag
    close: Tag | None = None
    "After each call (Hermes)."
    inner: Tag | None = None
    "Between name and arguments (Mistral)."
    ident: Tag | None = None
    "Before an id of nine letters and digits between these two, where the model may write one."
    is_single: bool = False
    "Whether the template takes one call in a message only."
    has_short_ids: bool = False
    "Whether the template takes only ids of nine letters and digits."

    @property
    def tags(self) -> tuple[Tag, ...]:
        """Every tag."""
        return tuple(
            tag for tag in (self.open, self.close, self.inner, self.ident) if tag is not None
        )

    @property
    def arguments_key(self) -> str:
        """The key of the arguments in the object of a call."""
        return "parameters" if self.style is Style.LLAMA else "arguments"


@dataclass(frozen=True, slots=True)
class ThinkTags:
    """Before and after a model's reasoning, which comes before its answer."""

    open: Tag
    close: Tag


def tool_format(template: str, token_id: TokenId) -> ToolFormat | None:
    """The format of the calls that a chat template shows; None if it is not a known one."""

    def tag(text: str) -> Tag:
        return Tag(text, token_id(text))

    is_xml = "<function=" in template or "<arg_key>" in template  # Qwen3-Coder, GLM
    if "<tool_call>" in template and "</tool_call>" in template and not is_xml:
        return ToolFormat(Style.HERMES, tag("<tool_call>"), close=tag("</tool_call>"))
    if "[TOOL_CALLS]" in template:
        short = "length" in template and "9" in template
        if "[ARGS]" in template:
            return ToolFormat(
                Style.MISTRAL_ARGS,
                tag("[TOOL_CALLS]"),
                inner=tag("[ARGS]"),
                ident=tag("[CALL_ID]") if "[CALL_ID]" in template else None,
                has_short_ids=short,
            )
        return ToolFormat(Style.MISTRAL_LIST, tag("[TOOL_CALLS]"), has_short_ids=short)
    if "<|python_tag|>" in template or '"parameters": dictionary of argument' in template:
        single = "single tool-call" in template
        return ToolFormat(Style.LLAMA, tag("<|python_tag|>"), is_single=single)
    return None


_THINKING: Final = (("<think>", "</think>"), ("[THINK]", "[/THINK]"))


def think_tags(template: str, token_id: TokenId) -> ThinkTags | None:
    """How a model marks its reasoning, by its template or its added tokens; None if it does not."""
    for opening, closing in _THINKING:
        open_id, close_id = token_id(opening), token_id(closing)
        is_shown = opening in template or closing in template
        if is_shown or (open_id is not None and close_id is not None):
            return ThinkTags(Tag(opening, open_id), Tag(closing, close_id))
    return None
