"""Publishers with keys of their own, and what they publish."""

from __future__ import annotations

from hashlib import sha1, sha256
from typing import Any

from aitorrentd.api.models.publications import Publication, signed_map
from aitorrentd.runtime.identity import Identity

NOW = 1_800_000_000
COMMIT = "c0ffee" * 6 + "c0ff"


class Publisher(Identity):
    """A key that signs."""

    def __init__(self, seed: str) -> None:
        super().__init__(sha256(seed.encode()).digest())
        self._made = 0

    def publication(self, **changes: Any) -> Publication:
        """A publication of a small file; each has a nonce of its own."""
        self._made += 1
        nonce = sha256(f"{self.peer_id} {self._made}".encode()).hexdigest()[:32]
        filename = changes.get("filename", "model.safetensors")
        repo = changes.get("repo_id", "org/model")
        seed = f"{repo} {changes.get('commit_hash', COMMIT)} {filename}".encode()
        usual: dict[str, Any] = {
            "repo_id": repo,
            "commit_hash": COMMIT,
            "filename": filename,
            "size": 5 * 2**20,
            "sha256": sha256(seed).hexdigest(),
            "info_hash": sha1(seed).hexdigest(),
            "piece_length": 4 * 2**20,
            "created_at": NOW,
            "publisher": self.peer_id,
            "nonce": nonce,
        }
        return Publication(**usual | changes)

    def signed(self, publication: Publication | None = None, **changes: Any) -> dict[str, Any]:
        """What a client posts."""
        made = publication or self.publication(**changes)
        return signed_map(made, made.signed_by(self))
