"""Signed publications: which torrent holds which file of which repository, as a publisher says.

A publication is a JSON object. Its canonical form (RFC 8785) is signed with the Ed25519 key of the
node that publishes, so that a catalogue can neither invent nor change one: whoever reads it
verifies it. No I/O and no clock.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Final
from urllib.parse import urlsplit

from aitorrentd.api.context import Signer
from aitorrentd.api.fields import MAX_EXACT, flag, text, texts, whole
from aitorrentd.api.ids import PeerId, parse_peer_id, public_key
from aitorrentd.api.models.file_names import check_commit, check_path, check_repo
from aitorrentd.api.signing import verify
from aitorrentd.errors import ProtocolError

_DOMAIN: Final = "aitd/publication/1"
SIGNATURE_BYTES: Final = 64
"An Ed25519 signature."
_MAX_WEB_SEEDS: Final = 4
_MAX_URL_CHARS: Final = 2048
_MIN_PIECE_BYTES: Final = 16 * 1024
_MAX_PIECE_BYTES: Final = 256 * 2**20
_MAX_PIECES: Final = 2**20
_HEX: Final = {n: re.compile(rf"[0-9a-f]{{{n}}}", re.ASCII) for n in (32, 40, 64)}
_HOST: Final = re.compile(r"(?:[a-z0-9][a-z0-9-]{0,62}\.)+[a-z][a-z0-9-]{1,62}", re.ASCII)
"A name with a dot, whose last label cannot be part of an IP address in any notation."
_PRIVATE: Final = ("local", "localhost", "internal", "lan", "home", "intranet", "corp", "onion")


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """What a publisher says about one file. Digests are lower-case hexadecimal digits."""

    repo_id: str
    "`org/name`; see `check_repo`."
    commit_hash: str
    "The revision, 40 digits."
    filename: str
    "The path in the repository; see `check_path`."
    size: int
    "Bytes, at least 1: there is no torrent of an empty file."
    sha256: str
    info_hash: str
    "Of the v1 torrent, 40 digits."
    info_hash_v2: str = ""
    "Of a hybrid torrent, 64 digits; empty if it has no v2 part."
    v2_root: str = ""
    "Merkle root of the file (BEP 52), 64 digits; empty if unknown."
    piece_length: int
    "Bytes, a power of two."
    created_at: int
    "Seconds since the epoch."
    publisher: PeerId
    "The node that signs; its id contains its public key."
    nonce: str
    "32 random digits: no two publications of a publisher have the same."
    web_seeds: tuple[str, ...] = ()
    "HTTPS addresses of the same bytes (BEP 19)."
    gated: bool = False
    "Whether the repository's owner decides who may download it."
    supersedes: str = ""
    "The info-hash that the publisher had published for this file before; empty for none."

    @property
    def key(self) -> tuple[str, str, str]:
        """What is published once: repository, revision and path."""
        return self.repo_id, self.commit_hash, self.filename

    @property
    def content(self) -> tuple[int, str, str, int]:
        """What two publications of one file must agree on."""
        return self.size, self.sha256, self.info_hash, self.piece_length

    def as_map(self) -> dict[str, Any]:
        """The publication as a JSON object."""
        return asdict(self) | {"web_seeds": list(self.web_seeds)}

    def canonical(self) -> bytes:
        """The bytes that are signed: JSON by RFC 8785."""
        # Only ASCII keys, strings without control characters, and integers that every
        # implementation represents exactly: for these, this is what RFC 8785 prescribes.
        return json.dumps(
            self.as_map(), sort_keys=True, separators=(",", ":"), ensure_ascii=False
        ).encode()

    def signed_by(self, signer: Signer) -> bytes:
        """The signature, 64 bytes, by this node's key.

        Raises:
            ValueError: the publication names another publisher.
        """
        if signer.peer_id != self.publisher:
            raise ValueError(f"{self.publisher} publishes this, and only it can sign it")
        return signer.sign(_DOMAIN, self.canonical())

    def is_signed_by_publisher(self, signature: bytes) -> bool:
        """Whether the publisher made this signature over this publication."""
        return verify(public_key(self.publisher), _DOMAIN, self.canonical(), signature)


_NAMES: Final = frozenset(field.name for field in fields(Publication))


def read_publication(value: object) -> Publication:
    """The publication in an untrusted JSON object, with every field checked.

    Raises:
        ProtocolError: a field is missing, unknown or wrong; the message names it.
    """
    if not isinstance(value, Mapping):
        raise ProtocolError("a publication must be a JSON object")
    if unknown := sorted(str(name)[:32] for name in value.keys() - _NAMES):
        raise ProtocolError(f"a publication has no field {unknown[0]!r}")
    size = whole(value, "size", 1, MAX_EXACT)
    publication = Publication(
        repo_id=_checked(value, "repo_id", check_repo),
        commit_hash=_checked(value, "commit_hash", check_commit),
        filename=_checked(value, "filename", check_path),
        size=size,
        sha256=_digits(value, "sha256", 64),
        info_hash=_digits(value, "info_hash", 40),
        info_hash_v2=_digits(value, "info_hash_v2", 64, may_be_empty=True),
        v2_root=_digits(value, "v2_root", 64, may_be_empty=True),
        piece_length=_piece_length(value, size),
        created_at=whole(value, "created_at", 0, MAX_EXACT),
        publisher=PeerId(_checked(value, "publisher", parse_peer_id)),
        nonce=_digits(value, "nonce", 32),
        web_seeds=_web_seeds(value),
        gated=flag(value, "gated"),
        supersedes=_digits(value, "supersedes", 40, may_be_empty=True),
    )
    if publication.gated and publication.web_seeds:
        raise ProtocolError("web_seeds must be empty for a gated repository")
    if publication.info_hash_v2 and not publication.v2_root:
        raise ProtocolError("info_hash_v2 must come with v2_root")
    return publication


def read_signed(value: object) -> tuple[Publication, bytes]:
    """The publication and signature in `{"publication": …, "signature": 128 digits}`.

    Raises:
        ProtocolError: malformed, or the publisher did not sign this.
    """
    if not isinstance(value, Mapping):
        raise ProtocolError("a signed publication must be a JSON object")
    publication = read_publication(value.get("publication"))
    raw = text(value, "signature", 2 * SIGNATURE_BYTES, min_chars=2 * SIGNATURE_BYTES)
    try:
        signature = bytes.fromhex(raw)
    except ValueError:
        signature = b""
    if len(signature) != SIGNATURE_BYTES or not publication.is_signed_by_publisher(signature):
        raise ProtocolError("signature must be the publisher's, over the canonical publication")
    return publication, signature


def signed_map(publication: Publication, signature: bytes) -> dict[str, Any]:
    """What `read_signed` reads."""
    return {"publication": publication.as_map(), "signature": signature.hex()}


def _checked(value: Mapping[str, Any], name: str, check: Callable[[str], str]) -> str:
    found = text(value, name, _MAX_URL_CHARS, min_chars=0)
    try:
        return check(found)
    except ValueError as e:
        raise ProtocolError(f"{name} {_reason(name, e)}") from None


def _reason(name: str, error: ValueError) -> str:
    return "must be the id of a node, 12D3KooW…" if name == "publisher" else str(error)


def _digits(value: Mapping[str, Any], name: str, n: int, *, may_be_empty: bool = False) -> str:
    found = text(value, name, n, min_chars=0)
    if not (_HEX[n].fullmatch(found) or (may_be_empty and not found)):
        raise ProtocolError(f"{name} must be {n} lower-case hexadecimal digits")
    return found


def _piece_length(value: Mapping[str, Any], size: int) -> int:
    found = whole(value, "piece_length", _MIN_PIECE_BYTES, _MAX_PIECE_BYTES)
    if found & (found - 1):
        raise ProtocolError("piece_length must be a power of two")
    if -(-size // found) > _MAX_PIECES:
        raise ProtocolError(f"piece_length must divide the file into at most {_MAX_PIECES} pieces")
    return found


def _web_seeds(value: Mapping[str, Any]) -> tuple[str, ...]:
    found = texts(value, "web_seeds", _MAX_WEB_SEEDS, _MAX_URL_CHARS, printable=True)
    for url in found:
        if not is_web_seed(url):
            raise ProtocolError(
                "web_seeds must be https addresses with a host name, and no user, port or fragment"
            )
    return found


def is_web_seed(url: str) -> bool:
    """Whether anyone may be told to fetch bytes from `url`: public-looking, and no secrets in it.

    Host names are not resolved; whoever fetches must not connect to private addresses.
    """
    try:
        parts = urlsplit(url)
        host = parts.netloc
    except ValueError:
        return False
    is_name = _HOST.fullmatch(host) is not None and host.rpartition(".")[2] not in _PRIVATE
    is_plain = url.isascii() and not any(c.isspace() or c in '"<>\\^`{|}#' for c in url)
    return parts.scheme == "https" and is_name and is_plain and not parts.query
