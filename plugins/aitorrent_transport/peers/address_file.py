"""Address files: a node's dial addresses, as its daemon writes them to `daemon.addr`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from aitorrentd.api import InvalidParams, Unavailable, read_regular
from aitorrentd.api.network.addresses import Address, parse_address

MAX_BYTES: Final = 16 * 1024
MAX_LINES: Final = 64


def read_address_file(path: Path) -> list[Address]:
    """The addresses in the file at `path`, one per line; empty lines and `#` lines are skipped.

    Raises:
        Unavailable: unreadable, or no address in it. InvalidParams: it has other content.
    """
    try:
        raw = read_regular(path, MAX_BYTES)
    except OSError as e:
        raise Unavailable(f"cannot read {path}: {e.strerror}") from None
    lines = [line.strip() for line in raw.decode("utf-8", "replace").splitlines()]
    wanted = [line for line in lines if line and not line.startswith("#")]
    if len(raw) > MAX_BYTES or len(wanted) > MAX_LINES:
        raise InvalidParams(f"{path} is too long for an address file")
    if not wanted:
        raise Unavailable(f"{path} has no address")
    try:
        return [parse_address(line) for line in wanted]
    except InvalidParams as e:
        raise InvalidParams(f"{path}: {e.message}") from None


def version(path: Path) -> tuple[int, int, int] | None:
    """What differs between two versions of the file at `path`; None without a file."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
