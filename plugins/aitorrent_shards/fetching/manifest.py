"""The files of a model by their digests: enough to fetch it from strangers.

The digest of a model covers config.json, tokenizer.json and the weights (see `models.folder`), so a
manifest proves itself against it. Other files, such as the chat template, are covered by nothing:
they come only from where the model's name was resolved, never from peers.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

from aitorrent_shards.models.checkpoint_files import INDEX_FILE
from aitorrent_shards.models.folder import CONFIG, TOKENIZER, combine
from aitorrentd.api import ProtocolError
from aitorrentd.api.fields import text, whole
from aitorrentd.api.models.weights import is_sha256

MANIFEST: Final = "manifest.json"
"The manifest of a fetched model, in the model's folder."
WEIGHTS_SUFFIX: Final = ".safetensors"
EXTRAS: Final = (
    "tokenizer_config.json",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    INDEX_FILE,
)
"Small files that are used if a model has them."
MAX_FILES: Final = 2048
MAX_NAME: Final = 255
MAX_FILE_BYTES: Final = 2**50


@dataclass(frozen=True, slots=True)
class ManifestFile:
    """One file of a model."""

    name: str
    sha256: str
    size: int
    urls: tuple[str, ...] = ()
    "Web addresses of the same bytes; without tokens."


@dataclass(frozen=True, slots=True)
class Manifest:
    """The files of a model that this node uses, by name."""

    source: str
    "What the model was resolved from, such as `hf://org/name` with its revision."
    revision: str
    files: tuple[ManifestFile, ...]

    @property
    def digest(self) -> str:
        """The model's digest."""
        return combine((f.name, f.sha256) for f in self.files if is_covered(f.name))

    @property
    def weights(self) -> tuple[ManifestFile, ...]:
        """The weight files, sorted by name."""
        found = (f for f in self.files if f.name.endswith(WEIGHTS_SUFFIX))
        return tuple(sorted(found, key=lambda f: f.name))

    def get(self, name: str) -> ManifestFile | None:
        """The file called `name`, if the model has it."""
        return next((f for f in self.files if f.name == name), None)

    def as_json(self) -> bytes:
        """As saved in the model's folder."""
        return json.dumps(
            {
                "source": self.source,
                "revision": self.revision,
                "files": [
                    {"name": f.name, "sha256": f.sha256, "size": f.size, "urls": list(f.urls)}
                    for f in self.files
                ],
            },
            indent=1,
        ).encode()


def manifest_of(folder: Path, digests: Mapping[str, str]) -> Manifest | None:
    """The manifest of a model that lies in `folder`; `digests`: SHA-256 by file name.

    None if a name could not be told to others, or a file is gone. Blocks.
    """
    if not all(is_plain_name(name) for name in digests):
        return None
    try:
        files = [ManifestFile(n, d, (folder / n).stat().st_size) for n, d in digests.items()]
    except OSError:
        return None
    return Manifest("", "", tuple(files))


def is_covered(name: str) -> bool:
    """Whether a file is part of what the model's digest covers."""
    return name in (CONFIG, TOKENIZER) or name.endswith(WEIGHTS_SUFFIX)


def is_plain_name(name: str) -> bool:
    """Whether `name` can be a file in a model's folder: no path, nothing hidden or unprintable."""
    return (
        0 < len(name) <= MAX_NAME
        and name == PurePosixPath(name).name
        and not name.startswith(".")
        and "\\" not in name
        and name.isprintable()
        and name.isascii()
    )


def read_manifest(raw: bytes) -> Manifest:
    """What `as_json` wrote.

    Raises:
        ProtocolError: damaged.
    """
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError):
        raise ProtocolError("not a JSON document") from None
    if not isinstance(value, dict):
        raise ProtocolError("not a map")
    files = files_from(value.get("files"))
    return Manifest(text(value, "source", 1024), text(value, "revision", 256), files)


def files_from(rows: Any) -> tuple[ManifestFile, ...]:
    """Files from untrusted rows.

    Raises:
        ProtocolError: a row has another form, or a name occurs twice.
    """
    if not isinstance(rows, list) or not 0 < len(rows) <= MAX_FILES:
        raise ProtocolError(f"files must be a list of 1 to {MAX_FILES}")
    files = tuple(_file(row) for row in rows)
    if len({f.name for f in files}) < len(files):
        raise ProtocolError("a file is named twice")
    return files


def _file(row: Any) -> ManifestFile:
    if not isinstance(row, dict):
        raise ProtocolError("a file must be a map")
    name, sha256 = text(row, "name", MAX_NAME), text(row, "sha256", 64)
    if not is_plain_name(name):
        raise ProtocolError(f"{name[:80]!r} is not a plain file name")
    if not is_sha256(sha256):
        raise ProtocolError(f"the sha256 of {name} is not 64 hexadecimal digits")
    urls = row.get("urls", [])
    if not isinstance(urls, list) or not all(isinstance(u, str) for u in urls):
        raise ProtocolError("urls must be a list of texts")
    return ManifestFile(name, sha256, whole(row, "size", 0, MAX_FILE_BYTES), tuple(urls[:8]))


def covered(files: Iterable[ManifestFile]) -> list[dict[str, Any]]:
    """Rows of the files that the digest covers, for peers."""
    return [
        {"name": f.name, "sha256": f.sha256, "size": f.size} for f in files if is_covered(f.name)
    ]
