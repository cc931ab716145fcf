"""Grammars of calls: each names an offered tool and has arguments that match its JSON Schema.

Lark as llguidance takes it (llguidance, docs/syntax.md). Tokens that are tags are written by their
ids, since llguidance keeps every added token out of text.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

from aitorrent_shards.chats.formats import (
    CHANNEL,
    CONSTRAIN,
    MESSAGE,
    START,
    Style,
    Tag,
    ToolFormat,
)
from aitorrent_shards.chats.parameters import ParameterRules
from aitorrentd.api.models.tools import MAX_CALLS, Tool

_SPACE: Final = r"SPACE: /[ \n\t]{0,8}/"
_GAP: Final = r"[ \n\t]{0,8}"
_ANYTHING: Final = "/(?s:.*)/"
ANSWER: Final = "answer"
"The name of the grammar of an answer that is no call."


@dataclass(frozen=True, slots=True)
class CallRules:
    """What a request says about calls."""

    format: ToolFormat
    tools: tuple[Tool, ...]
    "Those that may be called."
    is_required: bool
    is_parallel: bool
    may_think: bool = False
    "Whether reasoning may come first in a format whose grammar has it too (harmony)."

    def is_exact(self, number: int) -> bool:
        """Whether every keyword of a tool's schema has to hold."""
        return self.is_required or bool(self.tools[number].strict)

    @property
    def is_several(self) -> bool:
        """Whether one answer may have several calls."""
        return self.is_parallel and not self.format.is_single


def call_grammars(rules: CallRules, *, has_answer: bool) -> tuple[str, dict[str, dict[str, Any]]]:
    """The main grammar, and the schemas that it refers to by name; with `has_answer` also to that
    of an answer in JSON.

    Raises:
        InvalidParams: a schema that has to hold cannot be written in this format.
    """
    schemas = {f"t{n}": arguments_schema(tool) for n, tool in enumerate(rules.tools)}
    is_free = not rules.is_required and not has_answer
    if rules.format.style is Style.HARMONY:
        return "\n".join([*_harmony(rules, has_answer), _SPACE]), schemas
    if rules.format.syntax is not None:
        found = ParameterRules(rules.format, rules.format.syntax)
        for n, tool in enumerate(rules.tools):
            found.add(tool.name, schemas[f"t{n}"], is_exact=rules.is_exact(n))
        lines = [*_tagged(rules, is_free), *found.lines, _SPACE]
        return "\n".join([*lines, *_start(rules, has_answer)]), found.schemas
    build = _llama if rules.format.style is Style.LLAMA else _tagged
    lines = [*build(rules, is_free), _SPACE, *_start(rules, has_answer)]
    return "\n".join(lines), schemas


def _start(rules: CallRules, has_answer: bool) -> list[str]:
    """Where the model is not free."""
    if rules.is_required:
        return ["start: calls"]
    return [f"start: @{ANSWER} | calls"] if has_answer else []


def arguments_schema(tool: Tool) -> dict[str, Any]:
    """The JSON Schema of a tool's arguments, which are always an object."""
    if not tool.parameters:
        return {"type": "object", "properties": {}, "additionalProperties": False}
    if "$ref" in tool.parameters or tool.parameters.get("type") == "object":
        return dict(tool.parameters)
    return {**tool.parameters, "type": "object"}


def _tagged(rules: CallRules, is_free: bool) -> list[str]:
    """The rules for calls that a tag announces."""
    found = rules.format
    opening = _tag(found.open)
    is_list = found.style is Style.MISTRAL_LIST
    again = "" if found.each is not None else f"{opening} "
    more = f" (SPACE {again}call){{0,{MAX_CALLS - 1}}}" if rules.is_several and not is_list else ""
    if found.each is not None and found.close is not None:
        more += f" SPACE {_tag(found.close)}"
    lines = [f"calls: {opening} begun", f"begun: call{more}", f"call: {_call(rules)}"]
    if found.style in (Style.HERMES, Style.MISTRAL_LIST):
        lines.append(f"object: {_object(rules)}")
    if is_free and found.open.token is not None:
        # An added token is never part of TEXT.
        lines += ["start: TEXT calls?", f"TEXT: {_ANYTHING}"]
    elif is_free:
        # The shortest text that ends with the tag; a longest match would swallow it.
        lines += [
            "start: before begun | TEXT",
            f"before[lazy]: TEXT {opening}",
            f"TEXT: {_ANYTHING}",
        ]
    return lines


def _call(rules: CallRules) -> str:
    """A call after its tag."""
    found = rules.format
    match found.style:
        case Style.MISTRAL_LIST:
            rest = f' ("," SPACE object SPACE){{0,{MAX_CALLS - 1}}}' if rules.is_several else ""
            return f'SPACE "[" SPACE object SPACE{rest} "]"'
        case Style.MISTRAL_ARGS:
            inner = _tag(found.inner) if found.inner is not None else '""'
            if found.ident is not None:
                inner = f"({_tag(found.ident)} /[A-Za-z0-9]{{9}}/)? {inner}"
            each = (f"{_quoted(t.name)} {inner} SPACE @t{n}" for n, t in enumerate(rules.tools))
            return " | ".join(each)
        case Style.DEEPSEEK:
            return " | ".join(_deepseek(found, t.name, n) for n, t in enumerate(rules.tools))
        case Style.PARAMETERS:
            each = (f"c{n}" for n in range(len(rules.tools)))
            closing = "" if found.ends_outside or found.close is None else _tag(found.close)
            return f"SPACE ({' | '.join(each)}) SPACE {closing}"
        case _:
            return f"SPACE object SPACE{'' if found.close is None else ' ' + _tag(found.close)}"


def _object(rules: CallRules) -> str:
    """A call as an object; the name comes first, so that it decides about the arguments."""
    key = json.dumps(rules.format.arguments_key)
    each = (
        f"{_quoted(f'{json.dumps(tool.name)}, {key}: ')} @t{n}"
        for n, tool in enumerate(rules.tools)
    )
    name = json.dumps("name") + ": "
    return f'"{{" SPACE {_quoted(name)} ({" | ".join(each)}) SPACE "}}"'


def _deepseek(found: ToolFormat, name: str, number: int) -> str:
    """A call between its tags."""
    if found.each is None or found.inner is None:
        return ""
    opening, closing, inner = _tag(found.each[0]), _tag(found.each[1]), _tag(found.inner)
    if found.is_fenced:
        head, tail = _quoted(f"{name}\n```json\n"), _quoted("\n```")
        return f'{opening} "function" {inner} {head} @t{number} {tail} {closing}'
    return f"{opening} {_quoted(name)} {inner} @t{number} {closing}"


def _harmony(rules: CallRules, has_answer: bool) -> list[str]:
    """The rules for a whole answer of gpt-oss, whose prompt ends where a message begins."""
    tags = {tag.text: tag for tag in rules.format.tags}
    channel, message, start, constrain = (
        _tag(tags[text]) for text in (CHANNEL, MESSAGE, START, CONSTRAIN)
    )
    end = _tag(tags["<|end|>"])
    if rules.is_required or has_answer:
        each = (
            f'{channel} {_quoted(f"commentary to=functions.{tool.name} ")} {constrain} "json"'
            f" {message} @t{n}"
            for n, tool in enumerate(rules.tools)
        )
        found = [] if rules.is_required else [f'{channel} "final" {message} @{ANSWER}']
        first = "thoughts? " if rules.may_think else ""
        thoughts = f'thoughts: {channel} "analysis" {message} TEXT {end} {start} "assistant"'
        starts = [f"start: {first}({' | '.join((*found, *each))})"]
        return [*starts, *([thoughts, f"TEXT: {_ANYTHING}"] if first else [])]
    if tags[CHANNEL].token is None:
        return ["start: TEXT", f"TEXT: {_ANYTHING}"]
    # Free until a header names a tool: only there a header cannot be another one any more.
    by_channel, by_role = r"(analysis|commentary) to=functions\.", r"assistant to=functions\."
    rest = rf"(/ ?/ {constrain})? /( ?(json|code))?/ {message} SPACE"
    lines = ["start: TEXT? block* call?", "TEXT: /(?s:.+)/"]
    lines.append(
        f"block: ({message} | {end} | {constrain}) TEXT? | {channel} HEAD? | {start} ROLE?"
    )
    lines.append(f"HEAD: /(?s:.+)/ & ~/{by_channel}(?s:.*)/")
    lines.append(f"ROLE: /(?s:.+)/ & ~/{by_role}(?s:.*)/")
    calls = []
    for n, tool in enumerate(rules.tools):
        lines.append(f"CALLED{n}: /{by_channel}{_pattern(tool.name)}/")
        lines.append(f"SENT{n}: /{by_role}{_pattern(tool.name)}/")
        calls.append(f"{channel} CALLED{n} {rest} @t{n}")
        calls.append(f"{start} SENT{n} ({channel} /analysis|commentary/)? {rest} @t{n}")
    return [*lines, f"call: {' | '.join(calls)}"]


def _llama(rules: CallRules, is_free: bool) -> list[str]:
    """The rules for calls that are the whole answer, or follow a tag.

    What begins a call is one lexeme up to its arguments, since only there a text in JSON cannot go
    on as text any more.
    """
    more = f' (SPACE ";" object){{0,{MAX_CALLS - 1}}}' if rules.is_several else ""
    objects = (f'HEAD{n} SPACE @t{n} SPACE "}}"' for n in range(len(rules.tools)))
    heads = [f"HEAD{n}: /{_head(tool.name)}/" for n, tool in enumerate(rules.tools)]
    lines = [f"begun: object{more}", f"object: {' | '.join(objects)}", *heads]
    opening = rules.format.open
    tagged = "" if opening.token is None else f"{_tag(opening)} begun"
    lines.append(f"calls: begun{' | ' + tagged if tagged else ''}")
    if is_free:
        names = "|".join(_pattern(tool.name) for tool in rules.tools)
        lines.append(f"start: begun | TEXT{f' ({tagged})?' if tagged else ''}")
        lines.append(f"TEXT: {_ANYTHING} & ~/{_head(f'({names})', is_pattern=True)}(?s:.*)/")
    return lines


def _head(name: str, *, is_pattern: bool = False) -> str:
    """A pattern of a call up to its arguments; as in `heads`."""
    word = name if is_pattern else _pattern(name)
    kind = rf'("type"{_GAP}:{_GAP}"function"{_GAP},{_GAP})?'
    return (
        rf'{_GAP}\{{{_GAP}{kind}"name"{_GAP}:{_GAP}"{word}"{_GAP},{_GAP}'
        rf'"(parameters|arguments)"{_GAP}:'
    )


def _pattern(text: str) -> str:
    return "".join(c if c.isalnum() or c in "_- " else f"\\{c}" for c in text)


def _tag(tag: Tag) -> str:
    return json.dumps(tag.text) if tag.token is None else f"<[{tag.token}]>"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
