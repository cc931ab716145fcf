"""The kernel: finds, configures, orders, starts, watches and stops plugins."""

from aitorrentd.kernel.found import PluginSource
from aitorrentd.kernel.kernel import Kernel, KernelSettings
from aitorrentd.kernel.states import PluginRow, PluginState
from aitorrentd.kernel.supervisor import Limits

__all__ = ["Kernel", "KernelSettings", "Limits", "PluginRow", "PluginSource", "PluginState"]
