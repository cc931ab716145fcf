"""Names of settings: `plugins.shards.models[0].path`, as text and as a path of parts."""

from __future__ import annotations

import re
from typing import Any, Final

from aitorrentd.errors import ConfigError, NotFound

SettingPath = tuple[str | int, ...]
"Keys of tables, and indexes of lists."

_MAX_SHOWN: Final = 20
_BARE: Final = re.compile(r"[^.\"\s]+")
_PART: Final = r'(?:[^.\"\s]+|"[^"]+")'
_WHOLE: Final = re.compile(rf"{_PART}(?:\.{_PART})*")
_SECRET: Final = re.compile(r"(?:^|_)(?:psk|token|password|passphrase|secret|api_?key)s?$", re.I)


def key_text(path: SettingPath) -> str:
    """A path as users write it; parts with dots are quoted."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += ("." if text else "") + (part if _BARE.fullmatch(part) else f'"{part}"')
    return text


def parse_key(text: str) -> tuple[str, ...]:
    """The path that `text` names, see `key_text`; it has no indexes.

    Raises:
        ConfigError: empty parts or an open quote.
    """
    if not _WHOLE.fullmatch(text):
        raise ConfigError(f"{text!r} is not a key such as plugins.transport.port")
    return tuple(part.strip('"') for part in re.findall(_PART, text))


def looked_up(tree: Any, key: str) -> Any:
    """The value of `key` in `tree`.

    Raises:
        NotFound: no such setting. ConfigError: not a key.
    """
    path = parse_key(key)
    for i, part in enumerate(path):
        if not isinstance(tree, dict) or part not in tree:
            known = sorted(tree) if isinstance(tree, dict) else []
            inside = key_text(path[:i]) or "the configuration"
            has = f"; known keys: {', '.join(known[:_MAX_SHOWN])}" if known else ""
            raise NotFound(f"{key} is not set in {inside}{has}")
        tree = tree[part]
    return tree


def leaves(tree: Any, path: SettingPath = ()) -> list[SettingPath]:
    """The paths of everything that is not a table, and of empty tables."""
    if isinstance(tree, dict) and tree:
        return [leaf for key, inner in tree.items() for leaf in leaves(inner, (*path, key))]
    return [path]


def names_secret(path: SettingPath) -> bool:
    """Whether the last key of `path` marks its value as a secret."""
    named = [part for part in path if isinstance(part, str)]
    return bool(named) and _SECRET.search(named[-1]) is not None
