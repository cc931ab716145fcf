"""Configuration of the DHT: `plugins.dht` in aitorrent.yaml."""

from __future__ import annotations

import ipaddress
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, field_validator

from aitorrentd.api import InvalidParams, PluginConfig
from aitorrentd.api.network.addresses import parse_address


class DhtConfig(PluginConfig):
    """Where the DHT listens, whom it starts from, and whether others may ask it."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    port: Annotated[int, Field(ge=0, le=65_535)] | None = None
    "UDP port; 0 = any free port, null = the same number as the transport's TCP port"
    bootstrap: tuple[str, ...] = ()
    """addresses (IP:PORT) of nodes to join the DHT through; default: the transport's bootstrap
    addresses; connected peers are always used as well"""
    mode: Literal["auto", "server", "client"] = "auto"
    """server = answers other nodes' requests, client = only sends its own, auto = server unless a
    NAT keeps other nodes out"""

    @field_validator("bootstrap", mode="before")
    @classmethod
    def _one_is_a_list(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value

    @field_validator("bootstrap")
    @classmethod
    def _are_ip_addresses(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for text in value:
            try:
                host = parse_address(text).host
            except InvalidParams as e:
                raise ValueError(e.message) from None
            try:
                ipaddress.ip_address(host)
            except ValueError:
                raise ValueError(
                    f"{host} is a host name; write an IP address, or add the name to"
                    " plugins.transport.bootstrap"
                ) from None
        return value

    def places(self) -> list[tuple[str, int]]:
        """The configured nodes, as host and UDP port."""
        addresses = [parse_address(text) for text in self.bootstrap]
        return [(address.host, address.port) for address in addresses]
