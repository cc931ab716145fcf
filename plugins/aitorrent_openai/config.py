"""Settings of the OpenAI plugin."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator

from aitorrentd.api import PluginConfig, SettingsTable

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,31}")


class ServerConfig(SettingsTable):
    """One server."""

    name: str = Field(description="short name; the backend is named openai:<name>")
    url: str = Field(description="base URL of the API, such as http://127.0.0.1:8080/v1")
    api_key: SecretStr | None = Field(
        None, description="API key, sent as a bearer token; never logged"
    )
    models: tuple[str, ...] | None = Field(
        None,
        max_length=1024,
        description="use only these models (default: all that the server lists)",
    )
    completions: bool = Field(
        False,
        description="send bare prompts to /completions, which continues their text without the "
        "model's chat template (default: send them to /chat/completions as a user message)",
    )
    connect_timeout_s: float = Field(5, gt=0, le=60, description="timeout for connecting")
    read_timeout_s: float = Field(
        300, gt=0, le=3600, description="longest silence while the server answers"
    )
    token_timeout_s: float = Field(
        1800,
        gt=0,
        le=86_400,
        description="longest wait for the next text, even if it sends keepalives",
    )

    @field_validator("name")
    @classmethod
    def _is_short(cls, name: str) -> str:
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} is not 1 to 32 of a-z, 0-9, '.', '_', '-'")
        return name

    @field_validator("api_key")
    @classmethod
    def _fits_a_header(cls, key: SecretStr | None) -> SecretStr | None:
        if key is None:
            return None
        text = key.get_secret_value().strip()  # files usually end with a line feed
        if not text.isascii() or not text.isprintable() or not text:
            raise ValueError("is empty or has characters that no HTTP header can carry")
        return SecretStr(text)

    @field_validator("url")
    @classmethod
    def _is_http(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{url!r} is not of the form http://host:port/v1")
        if not 0 < (parts.port or 80) < 65_536:
            raise ValueError(f"{url!r} has no usable port")
        # Both forms of the base URL are common.
        base = url.rstrip("/")
        return base if base.endswith("/v1") or parts.path.strip("/") else f"{base}/v1"


class OpenaiConfig(PluginConfig):
    """`plugins.openai` in the configuration file."""

    servers: tuple[ServerConfig, ...] = Field(
        (), max_length=32, description="servers with an OpenAI-compatible API"
    )
    poll_s: float = Field(
        60, gt=0, le=3600, description="how often to list the models of each server"
    )

    @field_validator("servers")
    @classmethod
    def _names_differ(cls, servers: tuple[ServerConfig, ...]) -> tuple[ServerConfig, ...]:
        names = [server.name for server in servers]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two servers are named {name!r}")
        return servers
