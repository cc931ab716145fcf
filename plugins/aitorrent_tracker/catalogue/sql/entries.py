"""What the catalogue keeps about one file of one revision, as rows and as objects."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

from aitorrent_tracker.catalogue.sql.database import Row
from aitorrentd.api.models.publications import Publication

PENDING: Final = "pending"
"Waits for the operator; nobody else sees it."
APPROVED: Final = "approved"
"Listed, and served by the tracker."
REMOVED: Final = "removed"
"The operator removed it; it cannot be published again."
STATES: Final = (PENDING, APPROVED, REMOVED)
_EACH_TIME: Final = ("created_at", "nonce", "supersedes")


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A publication, or a row of an older catalogue, which nobody signed."""

    id: int = 0
    repo_id: str
    commit_hash: str
    filename: str
    "Empty for a torrent of a whole folder, which only an import makes."
    size: int
    sha256: str
    "Empty if an older catalogue did not know it."
    info_hash: str
    info_hash_v2: str = ""
    piece_length: int
    v2_root: str = ""
    publisher: str = ""
    "The peer id of who signed it; empty if nobody did."
    signature: str = ""
    document: str = ""
    "The canonical publication that was signed."
    gated: bool = False
    state: str
    published_at: int
    "Seconds since the epoch."
    file_count: int = 1

    @property
    def key(self) -> tuple[str, str, str]:
        """What exists once."""
        return self.repo_id, self.commit_hash, self.filename

    @property
    def content(self) -> tuple[int, str, str, int]:
        """What two publications of one file must agree on."""
        return self.size, self.sha256, self.info_hash, self.piece_length

    @property
    def substance(self) -> dict[str, Any]:
        """What the publication says, without what makes each publication different."""
        said = self.publication() or {}
        return {name: said[name] for name in said if name not in _EACH_TIME}

    @property
    def info_hashes(self) -> tuple[bytes, ...]:
        """Under which clients announce it: 20 bytes each (BEP 52 truncates v2 hashes)."""
        texts = (self.info_hash, self.info_hash_v2[:40])
        return tuple(bytes.fromhex(text) for text in texts if text)

    def publication(self) -> dict[str, Any] | None:
        """The signed JSON object; None if nobody signed."""
        document: dict[str, Any] | None = json.loads(self.document) if self.document else None
        return document


COLUMNS: Final = tuple(name for name in Entry.__dataclass_fields__ if name != "id")


def entry_of(row: Row) -> Entry:
    """The entry in a row with all columns of the table."""
    found = {name: row[name] for name in ("id", *COLUMNS)}
    return Entry(**found | {"gated": bool(row["gated"])})


def values_of(entry: Entry) -> list[str | int]:
    """What is stored in `COLUMNS`."""
    found = [getattr(entry, name) for name in COLUMNS]
    return [int(value) if isinstance(value, bool) else value for value in found]


def entry_from(publication: Publication, signature: bytes, *, state: str, now: int) -> Entry:
    """The entry that a signed publication makes."""
    return Entry(
        repo_id=publication.repo_id,
        commit_hash=publication.commit_hash,
        filename=publication.filename,
        size=publication.size,
        sha256=publication.sha256,
        info_hash=publication.info_hash,
        info_hash_v2=publication.info_hash_v2,
        piece_length=publication.piece_length,
        v2_root=publication.v2_root,
        publisher=publication.publisher,
        signature=signature.hex(),
        document=publication.canonical().decode(),
        gated=publication.gated,
        state=state,
        published_at=now,
    )


def searched_text(entry: Entry) -> str:
    """What free-text searches look through."""
    return f"{entry.repo_id}/{entry.filename}".casefold()
