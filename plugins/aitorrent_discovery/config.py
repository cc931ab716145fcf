"""Configuration of discovery: `plugins.discovery` in aitorrent.yaml."""

from __future__ import annotations

import re
from typing import Annotated, Final

from pydantic import ConfigDict, Field, field_validator

from aitorrent_discovery.dnsaddr import PREFIX, name_in
from aitorrentd.api import InvalidParams, PluginConfig
from aitorrentd.api.network.addresses import parse_address

_NAME: Final = re.compile(r"[\w-]{1,63}(\.[\w-]{1,63})*\.?", re.ASCII)


class DiscoveryConfig(PluginConfig):
    """How this node finds peers beyond those that it was told."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    outbound: Annotated[int, Field(ge=0, le=256)] = 8
    "Connections that this node dials and replaces when lost; 0 dials nobody on its own."
    gossip: bool = True
    "Exchange signed peer records with connected peers."
    gossip_s: Annotated[float, Field(ge=1, le=3600)] = 30.0
    "Seconds between two rounds of gossip, give or take a quarter."
    mdns: bool = True
    """Find nodes of this network on the local network, and be found there, by multicast DNS; not
    used by a node that listens on loopback only."""
    seeds: tuple[str, ...] = ()
    """Names whose every A and AAAA record is the address of another node, such as
    seeds.example.org:8468, or whose TXT records are addresses: /dnsaddr/seeds.example.org; some are
    dialled while this node has no peers."""

    @field_validator("seeds", mode="before")
    @classmethod
    def _one_is_a_list(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value

    @field_validator("seeds")
    @classmethod
    def _are_names(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for text in value:
            if text.startswith(PREFIX):
                if not _NAME.fullmatch(name_in(text)):
                    raise ValueError(f"{text!r} is not /dnsaddr/NAME")
                continue
            try:
                address = parse_address(text)
            except InvalidParams as e:
                raise ValueError(e.message) from None
            if address.peer is not None or not address.family.startswith("dns"):
                raise ValueError(
                    f"{text!r} is neither NAME:PORT nor /dnsaddr/NAME; single nodes belong in"
                    " bootstrap"
                )
        return value
