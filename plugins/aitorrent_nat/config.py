"""Configuration of NAT traversal: `plugins.nat` in aitorrent.yaml."""

from __future__ import annotations

import re
from typing import Annotated, Final

from pydantic import ConfigDict, Field, SecretStr, field_validator

from aitorrentd.api import InvalidParams, PluginConfig, Rate, SettingsTable, Size
from aitorrentd.api.network.addresses import parse_address

STUN_PORT: Final = 3478
"The default port of STUN and TURN servers (RFC 8489, section 18.6)."
_TURN: Final = re.compile(r"turns?:(?P<place>[^?]+)(\?transport=(udp|tcp))?")


def server_place(text: str) -> tuple[str, int]:
    """Host and port of a STUN server, from HOST or HOST:PORT.

    Raises:
        ValueError: anything else.
    """
    if text.startswith("/"):
        raise ValueError(f"{text!r} is not HOST:PORT; a server is not written as a multiaddr")
    bare = ":" not in text or text.endswith("]")
    try:
        address = parse_address(f"{text}:{STUN_PORT}" if bare else text)
    except InvalidParams as e:
        raise ValueError(e.message) from None
    return address.host, address.port


class RelayLimits(SettingsTable):
    """What this node does for others as a relay; a pair is two peers that talk through it."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    reservations: Annotated[int, Field(ge=0, le=10_000)] = 128
    "peers that may be reached through this node at the same time"
    circuits_per_peer: Annotated[int, Field(ge=1, le=1000)] = 16
    "relayed connections of one peer at the same time"
    rate: Annotated[Rate, Field(ge=16 * 2**10)] = 2 * 2**20
    "bytes per second that a pair may send, both directions together"
    bytes_per_hour: Annotated[Size, Field(ge=2**20)] = 256 * 2**20
    "bytes that a pair may send in an hour, both directions together"
    total_rate: Annotated[Rate, Field(ge=16 * 2**10)] = 32 * 2**20
    "bytes per second of all pairs together"
    circuit_s: Annotated[float, Field(ge=60, le=86_400)] = 3600.0
    "seconds after which a relayed connection is closed"


class TurnServer(SettingsTable):
    """A TURN server (RFC 8656) with long-term credentials."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    url: str
    "turn:HOST[:PORT] or turns:HOST[:PORT], with ?transport=tcp if it is reached by TCP (RFC 7065)"
    user: Annotated[str, Field(min_length=1, max_length=512)]
    "user name"
    password: SecretStr
    "password"

    @field_validator("url")
    @classmethod
    def _is_turn(cls, value: str) -> str:
        match = _TURN.fullmatch(value)
        if match is None:
            raise ValueError(f"{value!r} is not turn:HOST:PORT or turn:HOST:PORT?transport=tcp")
        server_place(match["place"])
        return value


class NatConfig(PluginConfig):
    """How this node finds out who can dial it, and what it does where others cannot."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    port: Annotated[int, Field(ge=0, le=65_535)] | None = None
    """UDP port on which this node answers STUN requests, and which peers learn; 0 = any free port,
    null = 8469, or any free port if another node on this machine has that"""
    stun: tuple[str, ...] = ()
    """STUN servers (HOST:PORT) to ask in addition to peers; without any, nothing is sent to a host
    that is not a peer"""
    relay: bool = True
    "relay connections for other nodes, as long as everybody can dial this one"
    reservations: Annotated[int, Field(ge=0, le=8)] = 2
    "relays to be reached through while nobody can dial this node; 0 uses none"
    upnp: bool = True
    "ask the router to forward the port (UPnP, NAT-PMP or PCP)"
    punch: bool = True
    "replace relayed connections by direct ones through both NATs"
    birthday: bool = True
    "also try many ports at once, where only that gets through a symmetric NAT"
    turn: TurnServer | None = None
    "TURN server for connections that find no other way"
    relay_limits: RelayLimits = RelayLimits()
    "limits on what this node relays"

    @field_validator("stun", mode="before")
    @classmethod
    def _one_is_a_list(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value

    @field_validator("stun")
    @classmethod
    def _are_places(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for text in value:
            server_place(text)
        return value

    def servers(self) -> list[tuple[str, int]]:
        """The configured STUN servers, as host and port."""
        return [server_place(text) for text in self.stun]
