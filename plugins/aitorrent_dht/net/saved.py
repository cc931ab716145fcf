"""What a node keeps over restarts: contacts that it verified, and values that it publishes.

Each is one file, replaced as a whole, with a checksum: a SIGKILL at any time leaves the old content
or the new. A damaged file is set aside and the node starts without it.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from aitorrent_dht.core.contact import KEY_BYTES, Contact, contact_of
from aitorrent_dht.core.record import DhtRecord, read_record
from aitorrentd.api import (
    ProtocolError,
    pack,
    read_regular,
    replace_file,
    set_aside,
    unpack_map,
)
from aitorrentd.api.fields import blob, text, whole

MAX_CONTACTS: Final = 200
MAX_BYTES: Final = 4 * 1024 * 1024
_SUM_BYTES: Final = 32

log = logging.getLogger("aitorrentd.dht")


class SavedFile:
    """One file in the plugin's data directory."""

    def __init__(self, path: Path, what: str) -> None:
        self.problem = ""
        "Why it cannot be written now, or that it was damaged; else empty."
        self._path = path
        self._what = what
        self._last = b""

    def load(self) -> dict[str, Any]:
        """The content; empty when there is none, or it is damaged."""
        try:
            raw = read_regular(self._path, MAX_BYTES)
        except FileNotFoundError:
            return {}
        except OSError as e:
            self.problem = f"{self._path} cannot be read: {e.strerror}"
            log.warning("%s; starting without %s", self.problem, self._what)
            return {}
        body = raw[_SUM_BYTES:]
        if len(raw) <= MAX_BYTES and hashlib.sha256(body).digest() == raw[:_SUM_BYTES]:
            try:
                self._last = raw
                return unpack_map(body)
            except ProtocolError:
                pass
        self._set_aside()
        return {}

    def _set_aside(self) -> None:
        try:
            where: object = set_aside(self._path)
        except OSError as e:
            where = f"still at {self._path} ({e.strerror})"
        self.problem = f"{self._what} were damaged; the file is now {where}"
        log.warning("%s; starting without them", self.problem)

    def save(self, content: dict[str, Any], *, durable: bool) -> None:
        """Write the content if it changed; `durable` waits until it is on the disk.

        Raises:
            OSError: it cannot be written; the file is as before.
        """
        body = pack(content)
        raw = hashlib.sha256(body).digest() + body
        if raw == self._last:
            return
        replace_file(self._path, raw, durable=durable)
        self._last = raw
        self.problem = ""


def contacts_map(contacts: Sequence[Contact]) -> dict[str, Any]:
    """Contacts as saved, the first ones kept."""
    rows = [{"k": c.key, "h": c.host, "p": c.port} for c in contacts[:MAX_CONTACTS]]
    return {"v": 1, "contacts": rows}


def read_contacts(content: dict[str, Any]) -> list[Contact]:
    """Contacts from what `contacts_map` returned; entries of another form are left out."""
    found = []
    for row in _rows(content, "contacts")[:MAX_CONTACTS]:
        try:
            key = blob(row, "k", KEY_BYTES, KEY_BYTES)
            found.append(contact_of(key, text(row, "h", 45), whole(row, "p", 1, 65_535)))
        except ProtocolError:
            continue
    return found


def values_map(values: Sequence[tuple[str, DhtRecord]]) -> dict[str, Any]:
    """Published values by name, as saved."""
    return {"v": 1, "values": [{"n": name, "r": record.as_map()} for name, record in values]}


def read_values(content: dict[str, Any]) -> list[tuple[str, DhtRecord]]:
    """Values from what `values_map` returned."""
    found = []
    for row in _rows(content, "values"):
        try:
            found.append((text(row, "n", 256), read_record(row.get("r"))))
        except ProtocolError:
            continue
    return found


def _rows(content: dict[str, Any], name: str) -> list[dict[str, Any]]:
    rows = content.get(name)
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
