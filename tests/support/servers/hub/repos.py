"""Repositories of a fake Hugging Face Hub: files, commits, and who may read them."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping
from dataclasses import dataclass, field

LFS_BYTES = 64 * 1024
"Files from this size on are named by SHA-256, smaller ones by their Git blob id."


@dataclass(frozen=True)
class File:
    content: bytes

    @property
    def size(self) -> int:
        return len(self.content)

    @property
    def is_lfs(self) -> bool:
        return self.size >= LFS_BYTES

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def git_sha1(self) -> str:
        return hashlib.sha1(b"blob %d\0" % self.size + self.content).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 if self.is_lfs else self.git_sha1


@dataclass
class Repo:
    """`name` has a prefix for kinds other than models: `datasets/org/name`."""

    name: str
    private: bool = False
    gated: bool = False
    readers: set[str] = field(default_factory=set)
    "Tokens that may read it, if it is private or gated."
    commits: dict[str, dict[str, File]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)

    def commit(self, files: Mapping[str, bytes], ref: str = "main") -> str:
        """A new commit with exactly these files; returns its id."""
        made = {path: File(content) for path, content in files.items()}
        told = repr(sorted((path, file.etag) for path, file in made.items()))
        commit = hashlib.sha1(told.encode()).hexdigest()
        self.commits[commit] = made
        self.refs[ref] = commit
        return commit

    def commit_of(self, revision: str) -> str | None:
        commit = self.refs.get(revision, revision)
        return commit if commit in self.commits else None

    def readable_by(self, token: str) -> bool:
        return not (self.private or self.gated) or token in self.readers


_DRAW = random.Random("weights")


def weights(size: int = 300_000) -> bytes:
    """Bytes that do not compress, as those of a model."""
    return _DRAW.randbytes(size)
