"""Model folders on this machine: their files, and the digests that identify them.

A digest is the SHA-256 over `name NUL sha256(file)` of the files, sorted by name: `digest` covers
config.json, tokenizer.json and the weight files; `front` covers the first two only, so that a node
without the weights can tell which shards match its tokenizer.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from aitorrent_shards.models.checkpoint_files import weight_files
from aitorrent_shards.models.context_length import context_length
from aitorrentd.api import (
    InvalidParams,
    NotFound,
    ProtocolError,
    replace_file,
)
from aitorrentd.api.fields import whole

CONFIG: Final = "config.json"
TOKENIZER: Final = "tokenizer.json"
FAST_TOKENIZER: Final = (
    "a fast tokenizer is needed. transformers converts others:"
    " AutoTokenizer.from_pretrained(folder).save_pretrained(folder)"
)
"What to do about a model without `TOKENIZER`."
MAX_JSON_BYTES: Final = 64 * 2**20
_MAX_COUNT: Final = 2**31 - 1
_BLOCK: Final = 4 * 2**20


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """A model folder with a readable configuration."""

    path: Path
    layers: int
    vocab: int
    context: int | None
    "The model's context length in positions, if its configuration gives one."
    family: str
    weights: tuple[Path, ...]
    size_bytes: int
    settings: dict[str, Any] = field(repr=False)
    "config.json."


@dataclass(frozen=True, slots=True)
class Digests:
    """Digests of a model's content; `digest` is empty if there are no weights here."""

    front: str
    digest: str
    files: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)
    "SHA-256 of each file, in hexadecimal."


def read_json(path: Path) -> dict[str, Any]:
    """A JSON map from a file.

    Raises:
        NotFound: no such file. InvalidParams: unreadable, too long, or not a JSON map.
    """
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise InvalidParams(f"{path} is larger than {MAX_JSON_BYTES} bytes")
        value = json.loads(path.read_bytes().decode())
    except FileNotFoundError:
        raise NotFound(
            f"{path} does not exist; the folder must have the Hugging Face layout"
        ) from None
    except (OSError, ValueError, RecursionError) as e:
        raise InvalidParams(f"{path} cannot be read: {e}") from None
    if not isinstance(value, dict):
        raise InvalidParams(f"{path} is not a JSON map")
    return value


def read_optional_json(path: Path) -> dict[str, Any]:
    """A JSON map from a file, or an empty one if the file does not exist.

    Raises:
        InvalidParams: unreadable, too long, or not a JSON map.
    """
    try:
        return read_json(path)
    except NotFound:
        return {}


def _count(settings: dict[str, Any], key: str, path: Path) -> int:
    try:
        return whole(settings, key, 1, _MAX_COUNT)
    except ProtocolError as e:
        raise InvalidParams(f"{path}: {e.message}, not {settings.get(key)!r}") from None


def layers_of(path: Path) -> int:
    """The number of layers of the model whose config.json is in the folder `path`.

    Raises:
        NotFound: no config.json. InvalidParams: a damaged one.
    """
    return _count(_text_settings(read_json(path / CONFIG)), "num_hidden_layers", path / CONFIG)


def _text_settings(whole: dict[str, Any]) -> dict[str, Any]:
    """The part of config.json that describes the language model."""
    text = whole.get("text_config")
    return text if isinstance(text, dict) else whole


def read_model(path: Path) -> ModelFiles:
    """The model in a folder; reads config.json and the index of the weights only.

    Raises:
        NotFound: no folder, config.json or tokenizer.json, or a part of the weights is missing.
        InvalidParams: damaged config.json or index.
    """
    if not path.is_dir():
        raise NotFound(f"model folder {path} does not exist")
    whole = read_json(path / CONFIG)
    if not (path / TOKENIZER).is_file():
        raise NotFound(f"{path / TOKENIZER} does not exist; {FAST_TOKENIZER}")
    settings = _text_settings(whole)
    context = settings.get("max_position_embeddings")
    # transformers prefers the older name.
    rope = settings.get("rope_scaling") or settings.get("rope_parameters")
    weights = weight_files(path)
    return ModelFiles(
        path=path,
        layers=_count(settings, "num_hidden_layers", path / CONFIG),
        vocab=_count(settings, "vocab_size", path / CONFIG),
        context=(
            context_length(
                context,
                rope if isinstance(rope, dict) else None,
                settings.get("original_max_position_embeddings"),
            )
            if type(context) is int and context > 0
            else None
        ),
        family=str(whole.get("model_type", ""))[:64],
        weights=weights,
        size_bytes=sum(p.stat().st_size for p in weights),
        settings=whole,
    )


def _file_key(path: Path) -> str:
    status = path.stat()
    return f"{path.resolve()}|{status.st_size}|{status.st_mtime_ns}"


def _load_cache(path: Path) -> dict[str, str]:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}  # only a cache: hashing again is always correct
    if not isinstance(value, dict):
        return {}
    return {str(k): str(v) for k, v in value.items()}


def _hash_file(path: Path, advance: Callable[[int], None]) -> str:
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while block := file.read(_BLOCK):
            digest.update(block)
            advance(len(block))
    return digest.hexdigest()


def combine(hashes: Iterable[tuple[str, str]]) -> str:
    """The digest of (file name, sha256 hex) pairs, sorted by name."""
    digest = hashlib.sha256()
    for name, value in sorted(hashes):
        digest.update(name.encode() + b"\0" + bytes.fromhex(value))
    return digest.hexdigest()


def hash_model(
    files: ModelFiles,
    cache: Path,
    advance: Callable[[int], None],
    proven: Mapping[str, str] | None = None,
) -> Digests:
    """Digests of a model's files; blocking, so run it in a thread.

    Hashes of unchanged files (same path, size, mtime in ns) come from the JSON file `cache`; those
    in `proven`, by file name, are taken as they are: such a file may be here only in part.
    `advance` is called in this thread with the bytes read.

    Raises:
        InvalidParams: a file cannot be read.
    """
    known = _load_cache(cache)
    hashes: dict[str, str] = {}
    try:
        for path in (files.path / CONFIG, files.path / TOKENIZER, *files.weights):
            if proven and path.name in proven:
                hashes[path.name] = proven[path.name]
                advance(path.stat().st_size)
                continue
            key = _file_key(path)
            if key in known:
                advance(path.stat().st_size)
            else:
                known[key] = _hash_file(path, advance)
            hashes[path.name] = known[key]
    except OSError as e:
        raise InvalidParams(f"a file of the model cannot be read: {e}") from None
    _save_cache(cache, known)
    front = combine((n, hashes[n]) for n in (CONFIG, TOKENIZER))
    return Digests(front, combine(hashes.items()) if files.weights else "", hashes)


def _save_cache(cache: Path, known: dict[str, str]) -> None:
    live = {k: v for k, v in known.items() if Path(k.split("|")[0]).exists()}
    with suppress(OSError):
        replace_file(cache, json.dumps(live).encode(), durable=False)
