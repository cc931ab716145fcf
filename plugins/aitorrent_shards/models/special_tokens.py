"""A model's special tokens, and their names in chat templates.

They are named in tokenizer_config.json or special_tokens_map.json, and listed there, in
added_tokens.json or in tokenizer.json. Precedence follows
`PreTrainedTokenizerBase._from_pretrained` of transformers 5.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tokenizers import AddedToken, Tokenizer

from aitorrent_shards.models.folder import read_optional_json
from aitorrentd.api import InvalidParams

_NAMED: Final = (
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
)
_FLAGS: Final = ("lstrip", "rstrip", "normalized", "single_word")
_MAX_ADDED: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class SpecialTokens:
    """Special tokens from the files next to tokenizer.json."""

    names: Mapping[str, str]
    "Texts by template name, such as `bos_token`."
    added: tuple[AddedToken, ...]
    "Tokens that tokenizer.json may lack, in order of their ids."
    unnamed: tuple[AddedToken, ...]
    "Further special tokens."

    def complete(self, tokenizer: Tokenizer) -> None:
        """Add the tokens that the tokenizer lacks or defines differently."""
        present = tokenizer.get_added_tokens_decoder().values()
        as_they_are = {repr(token) for token in present}
        missing = [token for token in self.added if repr(token) not in as_they_are]
        known = {token.content for token in (*present, *missing)}
        named = [AddedToken(text, special=True) for text in dict.fromkeys(self.names.values())]
        missing.extend(t for t in (*named, *self.unnamed) if t.content not in known)
        tokenizer.add_tokens(missing)


def read_special_tokens(folder: Path, settings: Mapping[str, Any]) -> SpecialTokens:
    """The special tokens of a model; `settings` is its tokenizer_config.json.

    Raises:
        InvalidParams: a file is damaged.
    """
    where = folder / "tokenizer_config.json"
    names = {name: settings.get(name) for name in settings if name.endswith("_token")}
    extra: Any = settings.get("extra_special_tokens") or settings.get("additional_special_tokens")
    listed = settings.get("added_tokens_decoder")
    added: dict[int, AddedToken] = {}
    if isinstance(listed, dict):
        for ident, entry in list(listed.items())[:_MAX_ADDED]:
            if not str(ident).isdecimal() or not isinstance(entry, dict):
                raise InvalidParams(f"{where}: added_tokens_decoder must map ids to tokens")
            added[int(ident)] = _token(entry, where)
    else:
        mapped = read_optional_json(folder / "special_tokens_map.json")
        names |= {name: value for name, value in mapped.items() if name.endswith("_token")}
        if isinstance(found := mapped.get("extra_special_tokens"), list):
            extra = [e | {"special": True} if isinstance(e, dict) else e for e in found]
    if isinstance(extra, dict):
        names |= extra
        extra = None
    texts = {name: text for name, value in names.items() if (text := _text(value))}
    others = [_unnamed(e, where) for e in extra] if isinstance(extra, list) else []
    if not isinstance(listed, dict):
        special = {*(texts[n] for n in _NAMED if n in texts), *(t.content for t in others)}
        for text, ident in list(read_optional_json(folder / "added_tokens.json").items()):
            is_special = text in special
            if type(ident) is int and len(added) < _MAX_ADDED:
                added[ident] = AddedToken(text, normalized=not is_special, special=is_special)
    for token in added.values():
        token.special = token.special or token.content in texts.values()
    in_order = tuple(token for _, token in sorted(added.items(), key=lambda item: item[0]))
    return SpecialTokens(texts, in_order, tuple(others))


def _text(value: object) -> str:
    """The text of a special token: a string, or a map with the string under `content`."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else ""


def _unnamed(value: object, where: Path) -> AddedToken:
    if isinstance(value, dict):
        return _token(value, where)
    if not isinstance(value, str):
        raise InvalidParams(f"{where}: a special token is {str(value)[:80]}; it must be a text")
    return AddedToken(value, special=True)


def _token(entry: Mapping[str, Any], where: Path) -> AddedToken:
    content, special = entry.get("content"), entry.get("special") is True
    if not isinstance(content, str) or not content:
        raise InvalidParams(f"{where}: a token has no content")
    flags = {name: entry[name] for name in _FLAGS if isinstance(entry.get(name), bool)}
    return AddedToken(content, special=special, **({"normalized": not special} | flags))
