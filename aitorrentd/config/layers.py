"""Layers of configuration and how they become one tree that remembers where each value is from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from aitorrentd.config.documents import read
from aitorrentd.config.secrets import reference
from aitorrentd.errors import ConfigError

SET_FILE: Final = "90-set.yaml"
"The drop-in that `config set` and `plugin enable` write."

KeyPath = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Layer:
    """One source of settings: a file, the environment, the command line."""

    origin: str
    tree: Mapping[str, Any]
    origins: Mapping[KeyPath, str] = field(default_factory=dict)
    "Origins of single keys, where they differ from `origin`."
    problems: tuple[str, ...] = ()
    "What is wrong with the source, and left out of the tree."


def drop_in_dir(path: Path) -> Path:
    """The directory of the drop-ins of a configuration file: `aitorrent.yaml.d`."""
    return path.with_name(path.name + ".d")


def file_layers(
    path: Path, *, required: bool, replaced: Mapping[Path, Mapping[str, Any]] | None = None
) -> list[Layer]:
    """The file and its drop-ins in the order of their names.

    `replaced` stands in for the content of files that are about to be written.

    Raises:
        ConfigError: something cannot be read, or the file is `required` and missing.
    """
    instead = dict(replaced or {})
    layers: list[Layer] = []
    wrong: list[str] = []
    for file in [path, *sorted({*_drop_ins(path), *instead}, key=lambda found: found.name)]:
        try:
            tree = instead.get(file)
            layers.append(Layer(str(file), read(file) if tree is None else tree))
        except ConfigError as e:
            wrong += e.problems
        except FileNotFoundError:
            if file is path and required:
                wrong.append(
                    f"there is no configuration file {path}; create it, or leave out --config and "
                    "$AITORRENT_CONFIG to run with the defaults"
                )
    if wrong:
        raise ConfigError("; ".join(wrong), problems=tuple(wrong))
    return layers


def _drop_ins(path: Path) -> list[Path]:
    directory = drop_in_dir(path)
    try:
        return [f for f in directory.iterdir() if f.suffix == ".yaml" and f.name[0] != "."]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as e:
        raise ConfigError(f"cannot read the drop-ins in {directory}: {e.strerror}") from None


def environment_layer(environ: Mapping[str, str]) -> Layer:
    """What the environment sets, under the names that the first ai-torrent used."""
    transport: dict[str, Any] = {}
    origins: dict[KeyPath, str] = {}

    def put(key: str, value: Any, variable: str) -> None:
        transport[key] = value
        origins[("plugins", "transport", key)] = f"environment variable {variable}"

    wrong: tuple[str, ...] = ()
    if port := environ.get("PORT", "").strip():
        if port.isascii() and port.isdecimal() and int(port) <= 65535:
            put("port", int(port), "PORT")
        else:
            wrong = (f"the environment variable PORT is {port!r}, not a port (0 to 65535)",)
    if announce := _addresses(environ.get("AI_TORRENT_ADDR", "")):
        put("announce", announce, "AI_TORRENT_ADDR")
    if bootstrap := _addresses(environ.get("BOOTSTRAP_ADDR", "")):
        put("bootstrap", bootstrap, "BOOTSTRAP_ADDR")
    tree: dict[str, Any] = {"plugins": {"transport": transport}} if transport else {}
    if state_dir := environ.get("AITORRENT_STATE_DIR", ""):
        tree["node"] = {"state_dir": state_dir}
        origins[("node", "state_dir")] = "environment variable AITORRENT_STATE_DIR"
    return Layer("environment", tree, origins, wrong)


def _addresses(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def merge(layers: Iterable[Layer]) -> tuple[dict[str, Any], dict[KeyPath, str]]:
    """The merged tree and the origin of each of its values.

    Maps merge key by key; anything else, lists and references to secrets included, is replaced.
    """
    tree: dict[str, Any] = {}
    origins: dict[KeyPath, str] = {}
    for layer in layers:
        _merge_into(tree, layer.tree, (), layer, origins)
    return tree, origins


def _is_table(value: Any) -> bool:
    return isinstance(value, Mapping) and reference(value) is None


def _merge_into(
    target: dict[str, Any],
    source: Mapping[str, Any],
    path: KeyPath,
    layer: Layer,
    origins: dict[KeyPath, str],
) -> None:
    for key, value in source.items():
        here = (*path, key)
        if _is_table(value):
            if not _is_table(target.get(key)):
                _forget(origins, here)
                target[key] = {}
            _merge_into(target[key], value, here, layer, origins)
        elif value is not None or not _is_table(target.get(key)):
            # `plugins:` with nothing below it leaves what earlier layers said.
            _forget(origins, here)
            target[key] = value
            origins[here] = layer.origins.get(here, layer.origin)


def _forget(origins: dict[KeyPath, str], path: KeyPath) -> None:
    for known in [k for k in origins if k[: len(path)] == path]:
        del origins[known]
