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
    MISTRAL_LIST = "list"
    '`[TOOL_CALLS][{"name": …, "arguments": {…}}, …]`: Mistral up to tokenizer v7, Granite 3.'
    MISTRAL_ARGS = "Mistral"
    "`[TOOL_CALLS]name[ARGS]{…}`, repeated: Mistral from tokenizer v11 on."
    PARAMETERS = "parameters"
    "Each argument between tags of its own, a text without quotes: Qwen3-Coder, GLM, MiniMax."
    DEEPSEEK = "DeepSeek"
    "A section of calls, each a name and an object between tags: DeepSeek V3 and R1, V3.1."
    HARMONY = "harmony"
    "Messages in channels, those of one addressed to a tool: gpt-oss."


@dataclass(frozen=True, slots=True)
class Syntax:
    """What stands around the name and the parameters of a call."""

    name_open: str
    name_close: str
    "Empty if what follows the name ends it."
    key_open: str
    key_close: str
    value_open: str
    value_close: str
    end: str
    trims: bool
    "Whether one line feed at each edge of a value is none of it."


@dataclass(frozen=True, slots=True)
class ToolFormat:
    """How a model calls tools."""

    style: Style
    open: Tag
    close: Tag | None = None
    "After each call (Hermes, parameters), or after all of them (DeepSeek)."
    inner: Tag | None = None
    "Between name and arguments (Mistral, DeepSeek)."
    ident: Tag | None = None
    "Before an id of nine letters and digits between these two, where the model may write one."
    is_single: bool = False
    "Whether the template takes one call in a message only."
    has_short_ids: bool = False
    "Whether the template takes only ids of nine letters and digits."
    syntax: Syntax | None = None
    "Of parameters."
    each: tuple[Tag, Tag] | None = None
    "Around each call of a section (DeepSeek)."
    is_fenced: bool = False
    "Whether arguments stand in a block of Markdown, after the call's type (DeepSeek V3, R1)."
    parts: tuple[Tag, ...] = ()
    "Further tags in calls: those of parameters, and those of harmony's messages."

    @property
    def tags(self) -> tuple[Tag, ...]:
        """Every tag."""
        named = (self.open, self.close, self.inner, self.ident)
        return (*(tag for tag in named if tag is not None), *(self.each or ()), *self.parts)

    @property
    def arguments_key(self) -> str:
        """The key of the arguments in the object of a call."""
        return "parameters" if self.style is Style.LLAMA else "arguments"

    @property
    def begin(self) -> str | None:
        """How each call begins after the opening tag; None where that is an object, or a name in
        Mistral's format."""
        if self.syntax is not None:
            return self.syntax.name_open
        return self.each[0].text if self.each is not None else None

    @property
    def openings(self) -> tuple[str, ...]:
        """The texts with which calls begin. Some models forget the outer tag."""
        return (self.open.text, self.begin) if self.begin else (self.open.text,)

    @property
    def ends_outside(self) -> bool:
        """Whether after a call comes text, or the tag of the next one."""
        if self.syntax is not None and self.close is not None:
            return self.syntax.end == self.close.text
        return self.style is Style.MISTRAL_ARGS

    def is_spelled(self, tag: Tag) -> bool:
        """Whether the tag's text counts as the tag."""
        return tag.token is None or self.begin is not None


@dataclass(frozen=True, slots=True)
class ThinkTags:
    """Before and after a model's reasoning, which comes before its answer."""

    open: Tag
    close: Tag


_CODER: Final = Syntax(
    "<function=", ">", "<parameter=", ">", "", "</parameter>", "</function>", trims=True
)
_GLM: Final = Syntax(
    "", "", "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>", "</tool_call>", trims=False
)
_INVOKE: Final = Syntax(
    '<invoke name="', '">', '<parameter name="', '">', "", "</parameter>", "</invoke>", trims=False
)
_SECTION: Final = ("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>")
_EACH: Final = ("<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>")
_SEPARATOR: Final = "<｜tool▁sep｜>"
CHANNEL: Final = "<|channel|>"
MESSAGE: Final = "<|message|>"
START: Final = "<|start|>"
CONSTRAIN: Final = "<|constrain|>"
END: Final = "<|end|>"
HARMONY_ENDS: Final = ("<|return|>", "<|call|>")
"What ends an answer in harmony: after text, and after a call."


def tool_format(template: str, token_id: TokenId) -> ToolFormat | None:
    """The format of the calls that a chat template shows; None if it is not a known one."""

    def tag(text: str) -> Tag:
        return Tag(text, token_id(text))

    if CHANNEL in template and MESSAGE in template:
        parts = (MESSAGE, START, CONSTRAIN, END, *HARMONY_ENDS)
        return ToolFormat(
            Style.HARMONY, tag(CHANNEL), is_single=True, parts=tuple(tag(text) for text in parts)
        )
    if (found := _with_parameters(template, tag)) is not None:
        return found
    if _EACH[0] in template:
        return ToolFormat(
            Style.DEEPSEEK,
            tag(_SECTION[0]),
            close=tag(_SECTION[1]),
            inner=tag(_SEPARATOR),
            each=(tag(_EACH[0]), tag(_EACH[1])),
            is_fenced="```json" in template,
        )
    if "<tool_call>" in template and "</tool_call>" in template:
        return ToolFormat(Style.HERMES, tag("<tool_call>"), close=tag("</tool_call>"))
    if "[TOOL_CALLS]" in template:
        return _mistral(template, tag)
    if "<|tool_call|>" in template:
        return ToolFormat(Style.MISTRAL_LIST, tag("<|tool_call|>"))
    if "<|python_tag|>" in template or '"parameters": dictionary of argument' in template:
        single = "single tool-call" in template
        return ToolFormat(Style.LLAMA, tag("<|python_tag|>"), is_single=single)
    return None


def _with_parameters(template: str, tag: Callable[[str], Tag]) -> ToolFormat | None:
    if "<arg_key>" in template:
        syntax, outer = _GLM, "<tool_call>"
    elif "<function=" in template:
        syntax = _CODER
        outer = next((t for t in ("<tool_call>", "<seed:tool_call>") if t in template), "")
    elif '<invoke name="' in template:
        syntax, outer = _INVOKE, "<minimax:tool_call>" if "<minimax:tool_call>" in template else ""
    else:
        return None
    if not outer:
        return None
    closing = outer.replace("<", "</")
    inner = (syntax.key_open, syntax.key_close, syntax.value_open, syntax.value_close)
    parts = (t for t in map(tag, inner) if t.token is not None)
    return ToolFormat(
        Style.PARAMETERS, tag(outer), close=tag(closing), syntax=syntax, parts=tuple(parts)
    )


def _mistral(template: str, tag: Callable[[str], Tag]) -> ToolFormat:
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


_THINKING: Final = (
    ("<think>", "</think>"),
    ("[THINK]", "[/THINK]"),
    ("<seed:think>", "</seed:think>"),
)


def think_tags(template: str, token_id: TokenId) -> ThinkTags | None:
    """How a model marks its reasoning, by its template or its added tokens; None if it does not."""
    for opening, closing in _THINKING:
        open_id, close_id = token_id(opening), token_id(closing)
        is_shown = opening in template or closing in template
        if is_shown or (open_id is not None and close_id is not None):
            return ThinkTags(Tag(opening, open_id), Tag(closing, close_id))
    return None
