"""The node's identity: one Ed25519 key in one file, created once and never overwritten.

The file is a single line, `aitorrentd-ed25519-1 <base64 seed> <first 16 hex digits of the seed's
SHA-256>`. The checksum detects a damaged file. A file without a valid key is an error for the
operator to resolve: a new key would be a new node, and everything that the old one owned would be
lost.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import os
import secrets
import stat
import time
from pathlib import Path
from typing import Final, NoReturn

from nacl.signing import SigningKey

from aitorrentd.api.ids import PeerId, peer_id
from aitorrentd.api.signing import agree, signed_bytes
from aitorrentd.errors import ConfigError
from aitorrentd.system.files import cannot_write, create_file, open_regular

_MAGIC: Final = "aitorrentd-ed25519-1"
_SEED_BYTES: Final = 32
_MAX_FILE_BYTES: Final = 4096
_LEFTOVER_AFTER_S: Final = 60.0


class Identity:
    """Signs for the node. Implements `aitorrentd.api.Signer`; the key cannot be read from it."""

    __slots__ = ("_key", "_peer_id", "_public_key")

    def __init__(self, seed: bytes) -> None:
        self._key = SigningKey(seed)
        self._public_key = bytes(self._key.verify_key)
        self._peer_id = peer_id(self._public_key)

    @classmethod
    def generate(cls) -> Identity:
        """A new identity that exists only in memory."""
        return cls(secrets.token_bytes(_SEED_BYTES))

    @property
    def peer_id(self) -> PeerId:
        """The node's public name."""
        return self._peer_id

    @property
    def public_key(self) -> bytes:
        """Ed25519, 32 bytes."""
        return self._public_key

    @property
    def dht_id(self) -> bytes:
        """The first 20 bytes of the SHA-256 of the public key."""
        return hashlib.sha256(self._public_key).digest()[:20]

    def sign(self, domain: str, message: bytes) -> bytes:
        """Ed25519 signature (64 bytes) over the domain-separated message."""
        return self._key.sign(signed_bytes(domain, message)).signature

    def agree(self, domain: str, public_key: bytes) -> bytes:
        """The secret (32 bytes) shared with the owner of `public_key`."""
        return agree(bytes(self._key), self._public_key, public_key, domain)

    def __repr__(self) -> str:
        return f"Identity({self._peer_id})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("an identity cannot be pickled: its key never leaves the process")


def load_or_create(path: Path) -> Identity:
    """The identity in `path`, created if the file is missing.

    Processes that call this concurrently for the same path all get the same identity.

    Raises:
        ConfigError: the file is damaged, readable by others, or cannot be read.
        Denied, Unavailable, ConfigError: it cannot be written, as `cannot_write` says.
    """
    try:
        return load(path)
    except FileNotFoundError:
        pass
    try:
        create_file(path, encode(secrets.token_bytes(_SEED_BYTES)))
        _remove_leftovers(path)
        return load(path)
    except OSError as e:
        raise cannot_write(path, e, setting="node.identity") from None


def load(path: Path, *, owner: int | None = None) -> Identity:
    """The identity in `path`; the key file may belong to this process's user or to `owner`.

    Raises:
        FileNotFoundError: the file does not exist. ConfigError: as `load_or_create`.
    """
    try:
        fd = open_regular(path)
    except FileNotFoundError:
        if path.is_symlink():
            raise ConfigError(f"the identity key {path} is a dangling symbolic link") from None
        raise
    except OSError as e:
        raise ConfigError(f"cannot read the identity key {path}: {e.strerror}") from None
    try:
        _check_ownership(path, os.fstat(fd), owner)
        raw = os.read(fd, _MAX_FILE_BYTES + 1)
    finally:
        os.close(fd)
    return Identity(_decode(path, raw))


def encode(seed: bytes) -> bytes:
    """The content of a key file."""
    checksum = hashlib.sha256(seed).hexdigest()[:16]
    return f"{_MAGIC} {base64.b64encode(seed).decode()} {checksum}\n".encode()


def _check_ownership(path: Path, found: os.stat_result, owner: int | None) -> None:
    us = os.geteuid()
    if found.st_uid not in (us, 0, owner):
        # Root can read it, but a key file owned by root would be lost to its daemon.
        or_take_it = f", or: chown {us} {path}" if us else ""
        raise ConfigError(
            f"the identity key {path} belongs to uid {found.st_uid}, this process runs as uid "
            f"{us}; run as that user{or_take_it}"
        )
    if stat.S_IMODE(found.st_mode) & 0o077:
        raise ConfigError(
            f"the identity key {path} has mode {stat.S_IMODE(found.st_mode):04o}, so others may "
            f"have read it; run: chmod 600 {path}"
        )


def _decode(path: Path, raw: bytes) -> bytes:
    def damaged(what: str) -> ConfigError:
        return ConfigError(
            f"the identity key {path} is damaged ({what}); restore it from a backup, or move it "
            f"away to start as a new node: mv {path} {path}.damaged"
        )

    if not raw:
        raise damaged("it is empty")
    if len(raw) > _MAX_FILE_BYTES:
        raise damaged(f"longer than {_MAX_FILE_BYTES} bytes")
    fields = raw.split()
    if fields[:1] != [_MAGIC.encode()]:
        newer = bool(fields) and fields[0].startswith(b"aitorrentd-ed25519-")
        raise damaged("an unknown key file version" if newer else "not a key file")
    if len(fields) != 3 or not raw.endswith(b"\n"):
        raise damaged("it is truncated")
    try:
        seed = base64.b64decode(fields[1], validate=True)
    except (binascii.Error, ValueError):
        raise damaged("not base64") from None
    if len(seed) != _SEED_BYTES or encode(seed) != raw:
        raise damaged("its checksum does not match")
    return seed


def _remove_leftovers(path: Path) -> None:
    """Remove temporary files of processes killed while creating a key."""
    for leftover in path.parent.glob(f".{path.name}.*"):
        with contextlib.suppress(OSError):
            if time.time() - leftover.stat().st_mtime > _LEFTOVER_AFTER_S:
                leftover.unlink()
