"""Settings of the Ollama plugin."""

from __future__ import annotations

import re
from math import isfinite
from typing import Final
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from aitorrentd.api import PluginConfig

_NUMBER: Final = re.compile(r"[-+]?\d{1,9}(\.\d{1,9})?", re.ASCII)
# The syntax of Go's time.ParseDuration.
_DURATION: Final = re.compile(
    r"[-+]?((\d{1,9}(\.\d{0,9})?|\.\d{1,9})(ns|us|µs|μs|ms|s|m|h))+", re.ASCII
)


class OllamaConfig(PluginConfig):
    """`plugins.ollama` in the configuration file."""

    url: str = Field("http://127.0.0.1:11434", description="Ollama's base URL")
    models: tuple[str, ...] | None = Field(
        None, max_length=1024, description="use only these models (default: all)"
    )
    keep_alive: str | int | float | None = Field(
        None,
        description="how long Ollama keeps a model loaded after an answer: seconds, or a duration "
        'such as "1h30m"; -1 = indefinitely',
    )
    num_ctx: int | None = Field(
        None,
        ge=1,
        lt=2**31,
        description="context length in tokens that Ollama uses (default: set by the model's "
        "Modelfile, else by Ollama); a change makes Ollama reload the model",
    )
    poll_s: float = Field(30, gt=0, le=3600, description="how often to poll Ollama")
    connect_timeout_s: float = Field(3, gt=0, le=60, description="timeout for connecting")
    read_timeout_s: float = Field(
        300, gt=0, le=3600, description="longest silence while a model loads or answers"
    )
    token_timeout_s: float = Field(
        1800,
        gt=0,
        le=86_400,
        description="longest wait for the next text, even if a proxy sends keepalives",
    )

    @field_validator("keep_alive", mode="before")
    @classmethod
    def _is_duration(cls, value: object) -> object:
        if isinstance(value, str):
            # Ollama accepts strings only with a unit; plain seconds must be a number.
            text = value.strip()
            if _NUMBER.fullmatch(text):
                return int(text) if "." not in text else float(text)
            if not _DURATION.fullmatch(text):
                raise ValueError('is not a duration such as "5m", "1h30m" or "-1"')
            return text
        if isinstance(value, bool) or (isinstance(value, float) and not isfinite(value)):
            raise ValueError('is not a duration such as "5m", "1h30m" or -1')
        return value

    @field_validator("url")
    @classmethod
    def _is_http(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{url!r} is not of the form http://host:port")
        if not 0 < (parts.port or 80) < 65_536:
            raise ValueError(f"{url!r} has no usable port")
        return url.rstrip("/")
