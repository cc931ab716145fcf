"""What the Hub says about a file: its commit, digest and size, from the headers of an answer.

Protocol: https://huggingface.co/docs/huggingface_hub/package_reference/file_download. No I/O.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

_DIGEST: Final = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}", re.ASCII)
_SIZE: Final = re.compile(r"[0-9]{1,18}", re.ASCII)
_COMMIT: Final = re.compile(r"[0-9a-f]{40}", re.ASCII)
_TEXT: Final = re.compile(r"[\x20-\x7e]{1,200}", re.ASCII)
HIDDEN_SIZE_BYTES: Final = 50_000_000_000
"""huggingface_hub refuses to fetch a file over HTTP if HEAD declares more (MAX_HTTP_DOWNLOAD_SIZE);
without a size it fetches the file, however large."""


@dataclass(frozen=True, slots=True)
class Place:
    """A file in a repository, as a client asks for it."""

    repo: str
    "`org/name`, with `datasets/` or `spaces/` in front."
    revision: str
    "A branch, a tag or a commit."
    path: str


def target_of(place: Place) -> str:
    """The path under which the Hub serves the file."""
    revision = quote(place.revision, safe="")
    return f"/{place.repo}/resolve/{revision}/{quote(place.path)}"


@dataclass(frozen=True, slots=True)
class Described:
    """A file of one commit."""

    commit: str
    digest: str
    "SHA-256 of a large file, Git blob id of a small one, or empty if the Hub names neither."
    size: int | None
    "Bytes; None if it is not known before the file is fetched."
    content_type: str = "application/octet-stream"
    etag: str = ""
    "As the Hub sent it, without quotes; the digest if there is one."

    @property
    def is_large(self) -> bool:
        """Whether it has a SHA-256, so that a swarm may have it."""
        return len(self.digest) == 64


def described(answers: list[Mapping[str, str]]) -> Described | None:
    """The file that a chain of answers to HEAD describes, redirects first; None if they are not
    those of a Hub. Names of headers are case-insensitive.

    A header of an earlier answer counts: redirects lose X-Repo-Commit, and the last one may lead to
    a CDN, which has ETags of its own.
    """
    commit = _first(answers, "X-Repo-Commit", _COMMIT)
    linked = _unquoted(_first(answers, "X-Linked-Etag", _TEXT))
    etag = linked or _unquoted(_first(answers, "ETag", _TEXT))
    if not commit or not etag:
        return None
    size = _first(answers, "X-Linked-Size", _SIZE)
    if not size and "location" not in {name.lower() for name in answers[-1]}:
        size = _first(answers[-1:], "Content-Length", _SIZE)
    kind = _first(answers[-1:], "Content-Type", _TEXT)
    digest = etag if _DIGEST.fullmatch(etag) else ""
    return Described(commit, digest, int(size) if size else None, kind or "", etag)


def head_of(file: Described) -> list[tuple[str, str]]:
    """The headers that describe the file to a client; without Xet, which leads it elsewhere."""
    headers = [
        ("X-Repo-Commit", file.commit),
        ("ETag", f'"{file.etag}"'),
        ("Accept-Ranges", "bytes"),
        ("Content-Type", file.content_type or "application/octet-stream"),
        ("X-Content-Type-Options", "nosniff"),
    ]
    if file.is_large:
        headers.append(("X-Linked-ETag", f'"{file.etag}"'))
    return headers


def size_of(file: Described) -> list[tuple[str, str]]:
    """The headers for its size, which a HEAD of a very large file leaves out."""
    if file.size is None or file.size > HIDDEN_SIZE_BYTES:
        return []
    size = [("Content-Length", str(file.size))]
    return [*size, ("X-Linked-Size", str(file.size))] if file.is_large else size


def _first(answers: list[Mapping[str, str]], name: str, form: re.Pattern[str]) -> str:
    for headers in answers:
        for key, value in headers.items():
            if key.lower() == name.lower() and form.fullmatch(value):
                return value
    return ""


def _unquoted(etag: str) -> str:
    return etag.removeprefix("W/").strip('"')
