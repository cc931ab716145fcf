"""Our libraries look at every installed distribution; a damaged one must not break them.

pydantic, torch and transformers query their entry points while they are imported, and
`importlib.metadata` raises for all of them at the first distribution that it cannot read.
"""

from __future__ import annotations

import os
from typing import Final

_ENTRY_POINTS: Final = "entry_points"


def disable_pydantic_plugins() -> None:
    """Keep pydantic from loading third-party plugins; call before importing pydantic.

    It is cheap enough for every command.
    """
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")


def tolerate_damaged_distributions() -> None:
    """In this process, treat a distribution with unreadable entry points as having none.

    For the daemon and its workers. `aitorrentd.system.distributions` reports the damaged ones.
    """
    from importlib import metadata

    read = vars(metadata.Distribution)[_ENTRY_POINTS].fget
    if read.__module__ == __name__:
        return

    def entry_points(dist: metadata.Distribution) -> object:
        try:
            return read(dist)
        except Exception:
            # A fence: a foreign file or class of distribution; `distributions` reports it.
            return metadata.EntryPoints(())

    setattr(metadata.Distribution, _ENTRY_POINTS, property(entry_points))
