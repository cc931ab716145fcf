"""Errors that cross a boundary: plugin to plugin, daemon to client, peer to peer.

AitorrentError(code, message, **data)
├── InvalidParams        invalid_params      the caller sent something that does not fit the schema
│   └── ConfigError                          a configuration file or setting is wrong
├── MethodNotFound       method_not_found
├── VersionMismatch      version             no common protocol version
├── Denied               denied              the caller's role does not suffice
├── NotFound             not_found           the named thing does not exist here
├── Conflict             conflict            it exists already, or is in another state
├── Busy                 busy                a limit is reached; try again later
├── TimedOut             timeout             a deadline passed
├── Cancelled            cancelled           the caller cancelled
├── Unavailable          unavailable         a plugin, peer or backend that is needed is not there
│   └── PeerGone                             a peer's channel ended while it was needed
├── PluginError          plugin_error        a bug: the log has the traceback under data["error_id"]
├── TooLarge             too_large           a length limit
├── ShuttingDown         shutting_down       the daemon is stopping
└── ProtocolError        protocol            bytes from a peer or worker broke the rules

The set of codes is closed: clients switch on them. Messages say what happened, with values, and
what to do. Tracebacks never leave the daemon.
"""

from __future__ import annotations

import os
from typing import Any, ClassVar


class AitorrentError(Exception):
    """Base of every error that a caller may see.

    `data` is small, msgpack-encodable detail for programs; people read `message`.
    """

    code: ClassVar[str] = "plugin_error"

    def __init__(self, message: str, **data: Any) -> None:
        super().__init__(message)
        self.message = message
        self.data = data

    def as_map(self) -> dict[str, Any]:
        """The error as sent: code, message, data."""
        return {"code": self.code, "message": self.message, "data": self.data}


class InvalidParams(AitorrentError):
    """The caller sent something that does not match the schema."""

    code = "invalid_params"


class ConfigError(InvalidParams):
    """A configuration file or setting is wrong; `problems` lists each with its path."""

    def __init__(self, message: str, *, problems: tuple[str, ...] = (), **data: Any) -> None:
        super().__init__(message, **data)
        self.problems = problems or (message,)


class MethodNotFound(AitorrentError):
    """No method of that name."""

    code = "method_not_found"


class VersionMismatch(AitorrentError):
    """No common protocol version."""

    code = "version"


class Denied(AitorrentError):
    """The caller's role is not sufficient."""

    code = "denied"


class NotFound(AitorrentError):
    """The named thing does not exist here."""

    code = "not_found"


class Conflict(AitorrentError):
    """It already exists, or is in a state that forbids this."""

    code = "conflict"


class Busy(AitorrentError):
    """A limit is reached; try again later."""

    code = "busy"


class TimedOut(AitorrentError):
    """A deadline passed."""

    code = "timeout"


class Cancelled(AitorrentError):
    """The caller cancelled."""

    code = "cancelled"


class Unavailable(AitorrentError):
    """A required plugin, peer or backend is unavailable."""

    code = "unavailable"


class PeerGone(Unavailable):
    """A peer's channel or stream ended while it was needed."""


class PluginError(AitorrentError):
    """A bug in a plugin; `data["error_id"]` finds the traceback in the log."""

    code = "plugin_error"

    @classmethod
    def of_bug(cls, plugin: str) -> PluginError:
        """A bug in a plugin (empty = the daemon itself), with a new error id, under which the
        caller logs the traceback."""
        error_id = os.urandom(4).hex()
        return cls(
            f"a bug in {plugin or 'the daemon'}; the log has the details under error id {error_id}"
            " (aitorrentctl logs, or journalctl -u aitorrentd)",
            error_id=error_id,
            plugin=plugin,
        )


class TooLarge(AitorrentError):
    """A length limit was exceeded."""

    code = "too_large"


class ShuttingDown(AitorrentError):
    """The daemon is stopping and refuses new work."""

    code = "shutting_down"


class ProtocolError(AitorrentError):
    """Bytes from a peer or a worker violated their protocol."""

    code = "protocol"


def _tree(root: type[AitorrentError]) -> list[type[AitorrentError]]:
    return [root, *(leaf for child in root.__subclasses__() for leaf in _tree(child))]


def error_from_map(value: object) -> AitorrentError:
    """The error that `as_map` encoded, as its class; an unknown code becomes the base class."""
    if not isinstance(value, dict):
        return ProtocolError("the other side sent an error that is not a map")
    code = str(value.get("code", "plugin_error"))
    message = str(value.get("message", ""))[:4096]
    data = value.get("data")
    kind = next((k for k in _tree(AitorrentError)[1:] if k.code == code), AitorrentError)
    error = kind(message)
    error.data = data if isinstance(data, dict) else {}
    return error
