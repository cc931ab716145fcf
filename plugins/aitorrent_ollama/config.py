"""Settings of the Ollama plugin."""

from __future__ import annotations

from urllib.parse import urlsplit

from pydantic import Field, field_validator

from aitorrentd.api import PluginConfig


class OllamaConfig(PluginConfig):
    """`plugins.ollama` in the configuration file."""

    url: str = Field("http://127.0.0.1:11434", description="where Ollama listens")
    models: tuple[str, ...] | None = Field(
        None, max_length=1024, description="use only these models; default: all"
    )
    keep_alive: str | int | None = Field(
        None, description='how long Ollama keeps a model loaded, such as "5m"; -1 = for ever'
    )
    poll_s: float = Field(
        30, gt=0, le=3600, description="how often to look whether Ollama is there"
    )
    connect_timeout_s: float = Field(3, gt=0, le=60, description="for a connection")
    read_timeout_s: float = Field(
        300, gt=0, le=3600, description="longest silence while a model loads or answers"
    )

    @field_validator("url")
    @classmethod
    def _is_http(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{url!r} is not of the form http://host:port")
        if not 0 < (parts.port or 80) < 65_536:
            raise ValueError(f"{url!r} has no usable port")
        return url.rstrip("/")
