"""aitorrentd: run models split across peers.

`Node` is loaded on first use, so that `aitorrentctl` does not pay for the daemon's imports.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aitorrentd.node import Node

__version__ = "0.1.0"
__all__ = ["Node", "__version__"]


def __getattr__(name: str) -> object:
    if name == "Node":
        from aitorrentd.node import Node

        return Node
    raise AttributeError(f"module 'aitorrentd' has no attribute {name!r}")
