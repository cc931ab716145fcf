"""Step 2, merge: layers become one tree that records the origin of each value."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from aitorrentd.config.read import Layer
from aitorrentd.config.secrets import reference
from aitorrentd.setting_path import SettingPath

DEFAULT: Final = "default"
"The origin of a value that no layer sets."


@dataclass(slots=True)
class _Entry:
    """Which layer set a value or last wrote into a table."""

    layer: Layer
    inside: dict[str, _Entry] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Merged:
    """The tree, with references in place of secrets, and the origin of its values."""

    tree: Mapping[str, Any]
    files: tuple[Path, ...]
    _entries: Mapping[str, _Entry]

    def place(self, path: SettingPath) -> str:
        """Where `path`, or the innermost table around it, is set; empty if nowhere."""
        layer, entries = None, self._entries
        for part in path:
            if (entry := entries.get(str(part))) is None:
                break
            layer, entries = entry.layer, entry.inside
        return layer.place(path) if layer else ""

    def origin(self, path: SettingPath) -> str:
        """Where the value of `path` comes from; `default` if no layer sets it."""
        entries = self._entries
        for part in path[:-1]:
            if (entry := entries.get(str(part))) is None:
                return DEFAULT
            entries = entry.inside
        entry = entries.get(str(path[-1])) if path else None
        return entry.layer.place(path) if entry else DEFAULT


def merge(layers: Iterable[Layer]) -> Merged:
    """Merge the layers into one tree: tables merge key by key; everything else, including lists and
    references to secrets, is replaced by the later layer."""
    layers = list(layers)
    tree: dict[str, Any] = {}
    entries: dict[str, _Entry] = {}
    for layer in layers:
        _merge_into(tree, entries, layer.tree, layer)
    return Merged(tree, tuple(layer.file for layer in layers if layer.file), entries)


def _is_table(value: Any) -> bool:
    return isinstance(value, Mapping) and reference(value) is None


def _merge_into(
    target: dict[str, Any], entries: dict[str, _Entry], source: Mapping[str, Any], layer: Layer
) -> None:
    for key, value in source.items():
        if _is_table(value):
            if not _is_table(target.get(key)):
                target[key] = {}
                entries[key] = _Entry(layer)
            entries[key].layer = layer
            _merge_into(target[key], entries[key].inside, value, layer)
        elif value is not None or not _is_table(target.get(key)):
            # An empty `plugins:` leaves what earlier layers set.
            target[key] = value
            entries[key] = _Entry(layer)
