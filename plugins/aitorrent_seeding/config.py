"""Configuration of seeding: `plugins.seeding` in aitorrent.yaml."""

from __future__ import annotations

import ipaddress
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, field_validator

from aitorrentd.api import OptionalPath, PluginConfig, Rate


class SeedingConfig(PluginConfig):
    """What this node shares, and how fast."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    profile: Literal["lan", "wan"] = "wan"
    "`lan`: no limit on the number of peers served at once, and no uTP; `wan`: for home links."
    listen: Annotated[tuple[str, ...], Field(min_length=1, max_length=16)] = ("0.0.0.0", "::")
    "IP addresses on which BitTorrent peers are accepted."
    port: Annotated[int, Field(ge=0, le=65_535)] = 6881
    """TCP port for BitTorrent peers, or the first free one of the ten after it; 0 = any free port.
    It is bound when something is first shared."""
    directory: OptionalPath = None
    "Where fetched files are kept; null = the plugin's data directory."
    upload_limit: Annotated[Rate, Field(ge=0)] = 0
    "Bytes per second sent to all peers together; 0 = unlimited."
    download_limit: Annotated[Rate, Field(ge=0)] = 0
    "Bytes per second from all peers together; 0 = unlimited. Web sources have no limit."
    connections: Annotated[int, Field(ge=2, le=10_000)] = 500
    "BitTorrent peers connected at the same time."
    seed_ratio: Annotated[float, Field(ge=0, le=10_000)] = 0.0
    "Stop seeding a file once this many times its size was sent; 0 = never."
    seed_time_s: Annotated[float, Field(ge=0)] = 0.0
    "Stop seeding a file after this many seconds; 0 = never."
    preallocate: bool = False
    "Reserve the disk space of a whole file when its download starts."
    private: bool = False
    "Mark new torrents private (BEP 27), which changes their info-hashes."
    dht: bool = False
    "Use the DHT of BitTorrent for public torrents; its nodes learn what this node shares."
    web_connections: Annotated[int, Field(ge=1, le=16)] = 4
    "HTTP requests at the same time for one file."

    @field_validator("listen", mode="before")
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
        return value
