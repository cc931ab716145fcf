"""JSON Schemas and calls of tools as masks of the tokens that may come next, by llguidance.

llguidance follows the grammar with an Earley parser over the bytes of the model's tokens, so an
answer that ends by itself is valid whatever the weights are. A schema comes from a stranger: its
size and depth are limited here, and the work of the compiler and of each mask by llguidance.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any, Final

from aitorrent_shards.chats.grammars import ANSWER, CallRules, call_grammars
from aitorrentd.api import InvalidParams

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer
    from llguidance._lib import JsonCompileOptions

MAX_SCHEMA_BYTES: Final = 64 * 1024
MAX_SCHEMA_DEPTH: Final = 64
_MAX_SHOWN: Final = 200
_BITS: Final = bytes([1, 2, 4, 8, 16, 32, 64, 128])
_OPTIONS: Final[JsonCompileOptions] = {
    "item_separator": ",",
    "key_separator": ":",
    "whitespace_flexible": True,
    # Some space helps models; without a limit, a poor one may send nothing else.
    "whitespace_pattern": r"[ \n\t]{0,16}",
    "coerce_one_of": False,
    "lenient": False,
}
"Set for every schema, since one may contain options of its own (`x-guidance`)."
_TOOL_OPTIONS: Final[JsonCompileOptions] = {**_OPTIONS, "lenient": True}
"""Tools often have annotations of no effect on what a model writes, such as `format: uri`; agents
cannot leave them out."""
_MAX_KEPT: Final = 4
_MAX_TOOL_BYTES: Final = 512 * 1024
"Schemas of all tools; agents send some 50 kB."
_NOTHING: Final = "NoExtension"
"llguidance: nothing can follow."
_ANY_OBJECT: Final = {"type": "object"}


class Grammar:
    """The grammar of one answer; `commit` every token but the one that ends it."""

    def __init__(
        self,
        matcher: LLMatcher,
        end_ids: Collection[int],
        named_ends: Collection[int],
        *,
        is_lazy: bool = False,
    ) -> None:
        """`end_ids` are the model's end tokens, `named_ends` also those of its tokenizer. A lazy
        grammar leaves the model free wherever the answer may end: in text, between calls."""
        self._matcher, self._end_ids, self._named_ends = matcher, end_ids, named_ends
        self.is_lazy = is_lazy
        self._mask: bytes | None = None

    @property
    def is_binding(self) -> bool:
        """Whether the model's next token has to be one of `mask`, whatever it prefers; if not, its
        choice has to pass `takes`."""
        return not (self.is_lazy and self._matcher.is_accepting())

    def takes(self, token: int) -> bool:
        """Whether a token may come next."""
        if token in self._named_ends:
            return token in self._end_ids and self._matcher.is_accepting()
        return self._matcher.validate_tokens([token]) == 1

    def commit(self, token: int) -> bool:
        """Record a chosen token; returns whether nothing more can follow it.

        Raises:
            InvalidParams: the grammar exceeds a limit here.
        """
        self._mask = None
        self._matcher.consume_token(token)
        self._check()
        return self._matcher.is_stopped()

    def mask(self) -> bytes:
        """The tokens that may come next: bit `id & 7` of byte `id >> 3`.

        Raises:
            InvalidParams: none may, or the grammar exceeds a limit here.
        """
        if self._mask is None:
            bits = bytearray(self._matcher.compute_bitmask())
            self._check()
            can_end = self._matcher.is_accepting()
            for token in self._named_ends:
                bits[token >> 3] &= ~_BITS[token & 7]
            for token in self._end_ids if can_end else ():
                bits[token >> 3] |= _BITS[token & 7]
            if not any(bits):
                raise _refused(_NOTHING)
            self._mask = bytes(bits)
        return self._mask

    def _check(self) -> None:
        if self._matcher.is_error():
            raise _refused(self._matcher.get_error())


class GrammarCompiler:
    """Compiles the grammars for one tokenizer. Blocking: call it in a thread."""

    def __init__(
        self, tokenizer: Callable[[], str], vocab: int, end_ids: Collection[int], *, model: str
    ) -> None:
        """`tokenizer` returns the content of a tokenizer.json."""
        self._tokenizer, self._vocab, self._model = tokenizer, vocab, model
        self._end_ids = sorted(i for i in end_ids if i < vocab)
        self._made: LLTokenizer | None = None
        self._kept: dict[str, LLMatcher] = {}
        "Compiled grammars, the latest last."
        self._keeping = threading.Lock()

    def compile(self, form: str | Mapping[str, Any]) -> Grammar:
        """The grammar of `json` (any object) or of a JSON Schema.

        Raises:
            InvalidParams: the schema is wrong, not supported, or too large.
        """
        schema = _schema(form)
        check_size(schema)
        tokens = self._tokens()
        import llguidance

        try:
            grammar = llguidance.LLMatcher.grammar_from_json_schema(
                dict(schema), overrides=_OPTIONS
            )
        except ValueError as e:
            raise _refused(str(e)) from None
        matcher = self._matcher(grammar)
        if matcher.is_error():
            raise _refused(matcher.get_error())
        found = Grammar(matcher, self._end_ids, {*self._end_ids, *tokens.eos_tokens})
        found.mask()
        return found

    def compile_calls(
        self, rules: CallRules, form: str | Mapping[str, Any] | None = None
    ) -> Grammar:
        """The grammar of an answer that may call tools, or has to; `form` is that of an answer
        that does not, as in `compile`.

        A schema that cannot be applied is refused where a call is required or the tool is `strict`;
        elsewhere the tool's arguments are any object.

        Raises:
            InvalidParams: a schema is wrong, not supported, or too large.
        """
        main, schemas = call_grammars(rules, has_answer=form is not None)
        for name, schema in schemas.items():
            check_size(schema, _parameters_of(rules, name))
        if sum(len(json.dumps(schema)) for schema in schemas.values()) > _MAX_TOOL_BYTES:
            raise InvalidParams(
                f"the tools' schemas have more than {_MAX_TOOL_BYTES} bytes", params=["tools"]
            )
        for name, schema in schemas.items():
            options = _OPTIONS if rules.is_exact(_number(name)) else _TOOL_OPTIONS
            schemas[name] = {**schema, "x-guidance": options}
        if form is not None:
            self.compile(form)
            schemas[ANSWER] = {**_schema(form), "x-guidance": _OPTIONS}
        matcher = self._matcher(_joined(main, schemas))
        if matcher.is_error():
            for name in schemas.keys() - {ANSWER}:
                schemas[name] = self._applicable(rules, name, schemas[name])
            matcher = self._matcher(_joined(main, schemas))
        if matcher.is_error():
            raise _refused(matcher.get_error(), "tools")
        ends = {*self._end_ids, *self._tokens().eos_tokens}
        is_lazy = form is None and not rules.is_required
        return Grammar(matcher, self._end_ids, ends, is_lazy=is_lazy)

    def _applicable(self, rules: CallRules, name: str, schema: dict[str, Any]) -> dict[str, Any]:
        alone = self._matcher(_joined(f"start: @{name}", {name: schema}))
        if not alone.is_error():
            return schema
        if rules.is_exact(_number(name)):
            raise _refused(alone.get_error(), _parameters_of(rules, name))
        return {} if "_" in name else dict(_ANY_OBJECT)

    def _matcher(self, grammar: str) -> LLMatcher:
        """A matcher at the beginning of a grammar. The latest grammars are kept, since agents send
        the same tools with every turn: 90 kB of schemas take 0.2 s to compile."""
        tokens = self._tokens()
        import llguidance

        with self._keeping:
            kept = self._kept.pop(grammar, None)
        if kept is None:
            limits = llguidance.LLParserLimits(verbose_errors=False)
            kept = llguidance.LLMatcher(tokens, grammar, log_level=0, limits=limits)
        if kept.is_error():
            return kept
        copy = kept.deep_copy()
        with self._keeping:
            self._kept[grammar] = kept
            while len(self._kept) > _MAX_KEPT:
                del self._kept[next(iter(self._kept))]
        return copy

    def _tokens(self) -> LLTokenizer:
        if self._made is None:
            # The import takes 70 ms and 12 MiB, and most answers need no grammar.
            import llguidance

            try:
                self._made = llguidance.LLTokenizer(
                    self._tokenizer(),
                    n_vocab=self._vocab,
                    eos_token=self._end_ids or None,
                    slices=llguidance.LLTokenizer.json_slices(),
                )
            except ValueError as e:
                raise InvalidParams(
                    f"format: the tokenizer of {self._model} cannot be used with it:"
                    f" {str(e)[:_MAX_SHOWN]}",
                    params=["format"],
                ) from None
        return self._made


def _schema(form: str | Mapping[str, Any]) -> Mapping[str, Any]:
    return _ANY_OBJECT if isinstance(form, str) else form


def _joined(main: str, schemas: Mapping[str, Mapping[str, Any]]) -> str:
    parts = [{"name": name, "json_schema": schema} for name, schema in schemas.items()]
    return json.dumps({"grammars": [{"name": "main", "lark_grammar": main}, *parts]})


def _number(name: str) -> int:
    """Which tool a schema belongs to: `t3` is the third one's, `t3_0` that of a parameter."""
    return int(name[1:].partition("_")[0])


def _parameters_of(rules: CallRules, name: str) -> str:
    return f"parameters of the tool {rules.tools[_number(name)].name}"


def check_size(schema: Mapping[str, Any], what: str = "format") -> None:
    """Refuse a schema that is too deep or too long; `what` names it.

    Raises:
        InvalidParams: it is.
    """
    level: list[Any] = [schema]
    depth = 0
    while level := [inner for each in level for inner in _inside(each)]:
        depth += 1
        if depth > MAX_SCHEMA_DEPTH:
            raise InvalidParams(
                f"{what}: the schema is nested more than {MAX_SCHEMA_DEPTH} levels deep",
                params=[_param(what)],
            )
    if (size := len(json.dumps(schema))) > MAX_SCHEMA_BYTES:
        raise InvalidParams(
            f"{what}: the schema has {size} bytes; at most {MAX_SCHEMA_BYTES} are accepted",
            params=[_param(what)],
        )


def _inside(value: Any) -> Collection[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _param(what: str) -> str:
    return what if what == "format" else "tools"


def _refused(why: str, what: str = "format") -> InvalidParams:
    if _NOTHING in why:
        return InvalidParams(f"{what}: no JSON value matches this schema", params=[_param(what)])
    text = " ".join(why.replace("<non-verbose/>", "").split())[:_MAX_SHOWN]
    return InvalidParams(f"{what}: the schema cannot be applied: {text}", params=[_param(what)])


def allows(mask: bytes, token: int) -> bool:
    """Whether a mask has a token."""
    return bool(mask[token >> 3] & _BITS[token & 7])


def with_tokens(mask: bytes, tokens: Collection[int]) -> bytes:
    """A mask that has these tokens too."""
    if not tokens:
        return mask
    bits = bytearray(mask)
    for token in tokens:
        bits[token >> 3] |= _BITS[token & 7]
    return bytes(bits)


def only_one(mask: bytes) -> int | None:
    """The token of a mask that has only one."""
    bits = int.from_bytes(mask, "little")
    return bits.bit_length() - 1 if bits.bit_count() == 1 else None
