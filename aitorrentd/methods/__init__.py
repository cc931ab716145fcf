"""The core's control methods: `rpc.*`, `node.*`, `plugin.*` and `config.*`."""

from aitorrentd.methods.source import Methods

__all__ = ["Methods"]
