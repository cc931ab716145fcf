"""The two eras of MCP: up to 2025-11-25 with a handshake, from 2026-07-28 on without state. No I/O.

The second tells its version in each request's `_meta`, and over HTTP in headers that must agree
with the body (basic/transports, "Standard headers").
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from aitorrent_gateway.mcp.messages import (
    HEADER_MISMATCH,
    INVALID_PARAMS,
    UNSUPPORTED_VERSION,
    Message,
    RpcError,
)

LEGACY: Final = ("2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05")
"Versions with a handshake, the newest first."
MODERN: Final = ("2026-07-28",)
VERSIONS: Final = (*MODERN, *LEGACY)
VERSION_KEY: Final = "io.modelcontextprotocol/protocolVersion"
CAPABILITIES_KEY: Final = "io.modelcontextprotocol/clientCapabilities"
SERVER_KEY: Final = "io.modelcontextprotocol/serverInfo"
_VERSION: Final = "mcp-protocol-version"
_METHOD: Final = "mcp-method"
_NAME: Final = "mcp-name"
_NAMED: Final = {"tools/call": "name", "prompts/get": "name", "resources/read": "uri"}
"Which parameter of a method the header Mcp-Name repeats."
_DATE: Final = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_ENCODED: Final = re.compile(r"=\?base64\?(.*)\?=", re.ASCII)
_MOST_SHOWN: Final = 40


class Headers:
    """The headers of a request that MCP knows."""

    def __init__(self, pairs: Iterable[tuple[str, str]]) -> None:
        """`pairs` as they came, names in lower case."""
        self._values: dict[str, str] = {}
        self.twice = ""
        "A header that came more than once: readers of the first and the last would disagree."
        for name, value in pairs:
            if name in (_VERSION, _METHOD, _NAME):
                if name in self._values:
                    self.twice = name
                # The parser leaves what stands behind a value (RFC 9110, section 5.5).
                self._values[name] = value.strip(" \t")

    @property
    def version(self) -> str | None:
        """Mcp-Protocol-Version."""
        return self._values.get(_VERSION)

    @property
    def is_modern(self) -> bool:
        """Whether they tell a version of the second era, known or not."""
        version = self.version or ""
        return _DATE.fullmatch(version) is not None and version >= MODERN[-1]

    @property
    def method(self) -> str | None:
        """Mcp-Method."""
        return self._values.get(_METHOD)

    @property
    def name(self) -> str | None:
        """Mcp-Name, decoded; None also if it cannot be decoded."""
        value = self._values.get(_NAME)
        match = _ENCODED.fullmatch(value) if value is not None else None
        if match is None:
            return value
        try:
            return base64.b64decode(match[1], validate=True).decode()
        except (binascii.Error, UnicodeDecodeError):
            return None


def is_modern(message: Message, headers: Headers | None) -> bool:
    """Whether a message is of the second era; `headers` is None where there are none.

    Raises:
        RpcError: headers and body disagree, or nobody here speaks that version.
    """
    ident, version = message.ident, message.meta.get(VERSION_KEY)
    if headers is None:
        if version is None:
            return False
        _check_envelope(message)
        return True
    if headers.twice:
        raise RpcError(HEADER_MISMATCH, f"the header {headers.twice} comes twice", ident=ident)
    told = headers.version
    if headers.method is not None and headers.method != message.method:
        raise RpcError(HEADER_MISMATCH, f"{_METHOD} is not the body's method", ident=ident)
    if version is None and not headers.is_modern:
        if told is not None and told not in LEGACY:
            raise _unsupported(told, ident)
        return False
    if message.is_notification:
        return True
    if version is not None and told != version:
        raise RpcError(HEADER_MISMATCH, f"{_VERSION} is not the body's version", ident=ident)
    _check_envelope(message)
    if headers.method is None:
        raise RpcError(HEADER_MISMATCH, f"the header {_METHOD} is missing", ident=ident)
    key = _NAMED.get(message.method)
    named = message.params.get(key) if key else None
    if named is not None and headers.name != named:
        raise RpcError(HEADER_MISMATCH, f"{_NAME} is not the body's {key}", ident=ident)
    return True


def _check_envelope(message: Message) -> None:
    ident, meta = message.ident, message.meta
    if missing := [key for key in (VERSION_KEY, CAPABILITIES_KEY) if key not in meta]:
        text = f"params._meta lacks {', '.join(missing)}"
        raise RpcError(INVALID_PARAMS, text, ident=ident)
    if not isinstance(meta[VERSION_KEY], str) or not isinstance(meta[CAPABILITIES_KEY], dict):
        text = "params._meta has a version that is no text, or capabilities that are no object"
        raise RpcError(INVALID_PARAMS, text, ident=ident)
    if meta[VERSION_KEY] not in MODERN:
        raise _unsupported(meta[VERSION_KEY], ident)


def _unsupported(version: str, ident: str | int | None) -> RpcError:
    shown = version[:_MOST_SHOWN]
    return RpcError(
        UNSUPPORTED_VERSION,
        f"MCP {shown} is not spoken here; choose one of {', '.join(VERSIONS)}",
        ident=ident,
        data={"supported": list(VERSIONS), "requested": shown},
    )


def negotiated(requested: object) -> str:
    """The version for a client's `initialize`: its own, or the newest with a handshake."""
    return requested if isinstance(requested, str) and requested in LEGACY else LEGACY[0]


def stamped(
    result: Mapping[str, Any], server: Mapping[str, str], *, caches: bool
) -> dict[str, Any]:
    """A result as the second era sends it; `caches` says whether it may be kept for a while."""
    meta = {**result.get("_meta", {}), SERVER_KEY: server}
    whole = {**result, "resultType": "complete", "_meta": meta}
    if caches:
        whole |= {"ttlMs": 0, "cacheScope": "private"}
    return whole
