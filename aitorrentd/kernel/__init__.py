"""The kernel: finds, configures, orders, starts, watches and stops plugins.

Names are loaded on first use, so that commands that only need `aitorrentd.validation` do not pay
for the rest.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from aitorrentd.kernel.found import PluginSource
    from aitorrentd.kernel.kernel import Kernel, KernelSettings
    from aitorrentd.kernel.states import PluginRow, PluginState
    from aitorrentd.kernel.supervisor import Limits

__all__ = ["Kernel", "KernelSettings", "Limits", "PluginRow", "PluginSource", "PluginState"]

_ROOMS: Final = {
    "Kernel": "kernel",
    "KernelSettings": "kernel",
    "Limits": "supervisor",
    "PluginRow": "states",
    "PluginSource": "found",
    "PluginState": "states",
}


def __getattr__(name: str) -> object:
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_ROOMS[name]}"), name)
