"""Configuration of the transport: `plugins.transport` in aitorrent.yaml."""

from __future__ import annotations

import hashlib
import ipaddress
from typing import Annotated, Final

from pydantic import ConfigDict, Field, SecretStr, ValidationInfo, field_validator

from aitorrent_transport.protection.limits import Limits
from aitorrentd.api import InvalidParams, PluginConfig
from aitorrentd.api.network.addresses import is_address_file, parse_address

DEFAULT_PORT: Final = 8468
MIN_PSK_CHARS: Final = 16


class TransportConfig(PluginConfig):
    """Where the node listens, whom it dials, and its limits."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    listen: tuple[str, ...] = ("0.0.0.0", "::")
    """IP addresses to listen on; 0.0.0.0 = all IPv4 addresses, :: = all IPv6 addresses; a list or a
    single string"""
    port: Annotated[int, Field(ge=0, le=65_535)] = DEFAULT_PORT
    "TCP port; 0 = any free port, reused after a restart if it is still free"
    announce: tuple[str, ...] = ()
    "addresses to announce to peers instead of the listening addresses"
    bootstrap: tuple[str, ...] = ()
    """addresses to dial at startup and whenever they are not connected, or paths of address files,
    such as /run/aitorrent/daemon.addr, read before each attempt"""
    masking: bool = False
    "disguise outgoing peer connections as WebSocket traffic"
    psk: SecretStr | None = None
    "pre-shared key of a private network: at least 16 characters, the same on all of its nodes"
    max_peers: Annotated[int, Field(ge=1, le=10_000)] = 200
    "maximum number of connected peers; further peers are refused"
    limits: Limits = Limits()
    "limits per peer, host and subnet"
    keepalive_s: Annotated[float, Field(ge=0.1, le=3600)] = 15.0
    "seconds between pings on a channel; a channel silent for 4/3 of that is closed"

    @field_validator("listen", "announce", "bootstrap", mode="before")
    @classmethod
    def _one_is_a_list(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value

    @field_validator("listen")
    @classmethod
    def _listen_on_ip_addresses(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value:
            raise ValueError("give at least one address, such as 0.0.0.0")
        return tuple(str(ipaddress.ip_address(host)) for host in value)

    @field_validator("announce", "bootstrap")
    @classmethod
    def _are_addresses(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        for text in value:
            if is_address_file(text) and info.field_name == "bootstrap":
                continue
            try:
                parse_address(text)
            except InvalidParams as e:
                raise ValueError(e.message) from None
        return value

    @field_validator("psk")
    @classmethod
    def _psk_is_long(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and len(value.get_secret_value()) < MIN_PSK_CHARS:
            raise ValueError(f"a pre-shared key must have at least {MIN_PSK_CHARS} characters")
        return value

    def psk_bytes(self) -> bytes | None:
        """The pre-shared key of the handshake (32 bytes), or None on an open network."""
        if self.psk is None:
            return None
        return hashlib.sha256(self.psk.get_secret_value().encode()).digest()
