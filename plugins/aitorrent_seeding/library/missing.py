"""Whole files that are not where they were: on a drive that is not mounted, or moved."""

from __future__ import annotations

import os

from aitorrent_seeding.library.store import Held


def why_missing(held: Held) -> str:
    """Why the file or folder of a whole torrent cannot be seen; empty if it can. Blocks."""
    if not held.is_whole:
        return ""
    try:
        os.stat(held.path)
    except (FileNotFoundError, NotADirectoryError):
        return f"{held.path} is not there; mount its drive, or aitorrentctl seed remove"
    except OSError as e:
        return f"{held.path} cannot be seen: {e.strerror}; check its drive"
    return ""
