"""Configuration of the tracker: `plugins.tracker` in aitorrent.yaml."""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, Final

from pydantic import ConfigDict, Field, SecretStr, field_validator

from aitorrent_tracker.catalogue.config import CatalogueConfig
from aitorrent_tracker.swarms.storage import HASH_BYTES
from aitorrentd.api import PluginConfig, SettingsTable

_HASH: Final = re.compile(r"[0-9a-fA-F]{40}|[0-9a-fA-F]{64}", re.ASCII)
_KEY: Final = re.compile(r"[A-Za-z0-9_-]{16,128}", re.ASCII)


MEMORY: Final = "memory"
_REDIS: Final = re.compile(
    r"rediss?://([^\s:@/]+@)?(\[[0-9a-fA-F:.]+\]|[^\s:@/\[\]]+)(:[0-9]{1,5})?(/[0-9]{1,5})?/?"
    r"|unix:///\S+"
)


class LimitsConfig(SettingsTable):
    """Bounds on what strangers can make the tracker keep and do."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    swarms: Annotated[int, Field(ge=1, le=10_000_000)] = 100_000
    "Torrents with peers."
    peers: Annotated[int, Field(ge=1, le=100_000_000)] = 1_000_000
    "Peers of all torrents together."
    peers_per_swarm: Annotated[int, Field(ge=1, le=1_000_000)] = 5_000
    "Peers of one torrent; further ones get peers, but are not told to others."
    peers_per_subnet: Annotated[int, Field(ge=1, le=1_000_000)] = 64
    "Peers of one torrent in one /24 or /56; private networks have no such limit."
    requests_per_s: Annotated[float, Field(gt=0, le=1_000_000)] = 100.0
    "Requests from one /24 or /56, with bursts of 10 s; loopback has no limit."
    connections: Annotated[int, Field(ge=1, le=1_000_000)] = 1_000
    "Open TCP connections."
    connections_per_subnet: Annotated[int, Field(ge=1, le=1_000_000)] = 256
    "Open TCP connections from one /24 or /56; loopback has no limit."


class TrackerConfig(PluginConfig):
    """Where the tracker listens, and what it serves to whom."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    enabled: bool = False
    "whether to load the plugin; a tracker serves others, so it runs only if you want one"
    listen: Annotated[tuple[str, ...], Field(min_length=1, max_length=64)] = ("0.0.0.0", "::")
    "IP addresses to listen on."
    port: Annotated[int, Field(ge=0, le=65_535)] = 6969
    "TCP and UDP port; 0 = any free port."
    udp: bool = True
    "Whether to serve UDP, too."
    torrents: Annotated[tuple[str, ...], Field(max_length=100_000)] = ()
    """Info-hashes that are served besides those of the catalogue, in hexadecimal; those of v2
    torrents have 64 digits."""
    open: bool = False
    "Serve every info-hash that anyone announces, instead of `torrents`."
    keys: Annotated[tuple[SecretStr, ...], Field(max_length=10_000)] = ()
    """Announce keys of 16 to 128 letters, digits, `-` and `_`. With keys the tracker is private:
    clients announce to http://HOST:6969/KEY/announce."""
    trusted_proxies: Annotated[tuple[str, ...], Field(max_length=256)] = ()
    "Networks of reverse proxies whose X-Forwarded-For is believed."
    interval_s: Annotated[int, Field(ge=60, le=86_400)] = 900
    "Seconds between two announces of a client; one that is silent for twice as long is removed."
    storage: str = MEMORY
    """Where swarms are kept: `memory`, or a Redis that several trackers share, such as
    redis://USER@HOST:6379/0, rediss://HOST or unix:///run/redis.sock."""
    storage_password: SecretStr | None = None
    "Password of that Redis."
    catalogue: CatalogueConfig = CatalogueConfig()
    "Published models, with a REST API and a web page."
    limits: LimitsConfig = LimitsConfig()
    "Limits on peers, requests and connections, in all and per network."

    @field_validator("listen", "torrents", "keys", "trusted_proxies", mode="before")
    @classmethod
    def _one_is_a_list(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value

    @field_validator("listen")
    @classmethod
    def _are_ip_addresses(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for text in value:
            try:
                ipaddress.ip_address(text)
            except ValueError:
                raise ValueError(f"{text!r} is not an IP address such as 0.0.0.0 or ::") from None
        if len(set(value)) < len(value):
            raise ValueError("names an address twice")
        return value

    @field_validator("torrents")
    @classmethod
    def _are_info_hashes(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for text in value:
            if not _HASH.fullmatch(text):
                raise ValueError(f"{text!r} is not an info-hash of 40 or 64 hexadecimal digits")
        return value

    @field_validator("storage")
    @classmethod
    def _is_memory_or_redis(cls, value: str) -> str:
        if value != MEMORY and not _REDIS.fullmatch(value):
            raise ValueError(
                "neither `memory` nor an address such as redis://HOST:6379/0; write its password"
                " in plugins.tracker.storage_password"
            )
        return value

    @field_validator("keys")
    @classmethod
    def _fit_a_path(cls, value: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        for key in value:
            if not _KEY.fullmatch(key.get_secret_value().strip()):
                raise ValueError("a key is not 16 to 128 letters, digits, `-` and `_`")
        return tuple(SecretStr(key.get_secret_value().strip()) for key in value)

    @field_validator("trusted_proxies")
    @classmethod
    def _are_networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for text in value:
            try:
                ipaddress.ip_network(text)
            except ValueError:
                raise ValueError(f"{text!r} is not a network such as 192.0.2.0/24") from None
        return value

    def info_hashes(self) -> frozenset[bytes] | None:
        """What is served, 20 bytes each (BEP 52 truncates v2 hashes); None for everything."""
        if self.open:
            return None
        return frozenset(bytes.fromhex(text)[:HASH_BYTES] for text in self.torrents)
