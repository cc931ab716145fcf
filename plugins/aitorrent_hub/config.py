"""Settings of the hub plugin: `plugins.hub` in aitorrent.yaml."""

from __future__ import annotations

from typing import Annotated, Final
from urllib.parse import urlsplit

from pydantic import ConfigDict, Field, field_validator

from aitorrentd.api import PluginConfig, Size
from aitorrentd.api.faces.settings import Addresses, HostNames

PORT: Final = 8042
"The mirror's default port."


class HubConfig(PluginConfig):
    """A mirror of the Hugging Face Hub for programs on this machine."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    upstream: str = "https://huggingface.co"
    """the Hub behind the mirror, or another mirror of it; contacted only when a program asks for
    something"""
    listen: Addresses = ("127.0.0.1",)
    "IP addresses on which the mirror listens; programs there read what this node may read"
    port: Annotated[int, Field(ge=0, le=65_535)] | None = None
    "TCP port; 0 = any free port, null = 8042, without a mirror if another program has that"
    hosts: HostNames = ()
    """host names by which programs reach the mirror, besides localhost and IP addresses; others are
    refused, because a web page could send them"""
    swarm_min: Size = 32 * 2**20
    "files of fewer bytes are fetched over HTTP only, which starts sooner"
    cache: Annotated[Size, Field(ge=0)] = 50 * 2**30
    """bytes of files fetched over HTTP that are kept, and seeded; beyond it, those that were unused
    for the longest time are deleted"""
    seed: bool = True
    "seed public files that were fetched over HTTP; gated and private ones never are"

    @field_validator("upstream")
    @classmethod
    def _is_http(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{url!r} is not a URL such as https://huggingface.co")
        if parts.query or parts.fragment or parts.username or parts.password:
            raise ValueError("must have no user, query or fragment")
        if not 0 < (parts.port or 80) < 65_536:
            raise ValueError(f"{url!r} has no usable port")
        return url.rstrip("/")
