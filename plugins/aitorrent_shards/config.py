"""Settings of the shards plugin."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from aitorrent_shards.fetching.sources import parse_source
from aitorrentd.api import OptionalPath, PluginConfig, SettingsTable, Size

DEMO: Final = "demo"
_RANGE: Final = re.compile(r"(\d{1,5})-(\d{1,5})")


def parse_layers(text: str) -> tuple[int, int] | None:
    """(start, end) of the half-open range `4-8`; None for `all` and `none`.

    Raises:
        ValueError: any other text.
    """
    if text in ("all", "none"):
        return None
    match = _RANGE.fullmatch(text)
    if match is None or int(match[1]) >= int(match[2]):
        raise ValueError(
            f'{text!r} is not a range of layers; write "all", "none", or "4-8" for layers 4 to 7'
        )
    return int(match[1]), int(match[2])


def _check_layers(value: Any) -> Any:
    if isinstance(value, int):
        value = str(value)  # 3 without a range, which parse_layers explains
    if isinstance(value, str):
        parse_layers(value)
    return value


def _check_source(value: str | None) -> str | None:
    if value is not None:
        parse_source(value)
    return value


class ModelEntry(SettingsTable):
    """A model on this machine, and the layers of it that this node computes."""

    name: str = Field(min_length=1, max_length=128, description="model name that clients use")
    path: OptionalPath = Field(
        None, description="folder in Hugging Face layout; the model `demo` ships with the package"
    )
    source: Annotated[str | None, AfterValidator(_check_source)] = Field(
        None,
        description="instead of path: fetch the files of these layers from hf://ORG/NAME, with"
        " @REVISION if it is to stay the same everywhere, or by a model's digest from peers",
    )
    layers: Annotated[str, BeforeValidator(_check_layers)] = Field(
        "all", description='"all", "none" (only ask others), or a half-open range such as "0-4"'
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="number format; auto = as in the files"
    )
    kv_budget: Size = Field(2**30, ge=2**20, description="memory for KV caches")
    digest: str | None = Field(
        None, pattern="^[0-9a-f]{64}$", description="accept only weights with this digest"
    )

    @model_validator(mode="after")
    def _has_path(self) -> ModelEntry:
        if self.path is not None and self.source is not None:
            raise ValueError(f"model {self.name!r} has both a path and a source; keep one")
        if self.path is None and self.source is None and self.name != DEMO:
            raise ValueError(f"model {self.name!r} needs a path, or a source to fetch it from")
        return self

    def folder(self, fetched: Path) -> Path:
        """The directory with the model's files; models with a source are in folders in
        `fetched`."""
        if self.source is None:
            return self.path or Path(__file__).parent / DEMO
        # Names may contain slashes.
        return fetched / hashlib.sha256(f"{self.name}\0{self.source}".encode()).hexdigest()[:16]


class ShardsConfig(PluginConfig):
    """`plugins.shards` in the configuration."""

    models: tuple[ModelEntry, ...] = Field(
        (), max_length=64, description="models that this node serves layers of or requests"
    )
    threads: int = Field(1, ge=1, le=256, description="torch threads per worker")
    device: str = Field(
        "cpu", pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="cpu, cuda, cuda:N, or auto"
    )
    load_timeout_s: float = Field(900, gt=0, description="time limit for loading a worker's layers")
    step_timeout_s: float = Field(
        20, gt=0, le=3600, description="idle time after which a stage is probed"
    )
    ping_timeout_s: float = Field(
        2, gt=0, le=60, description="time limit for the answer to that probe"
    )
    resume_timeout_s: float = Field(
        30, ge=0, le=3600, description="how long an answer waits for another holder of lost layers"
    )
    link_timeout_s: float = Field(
        10, gt=0, le=60, description="time limit for opening or linking a stage"
    )
    prefill_chunk: int = Field(128, ge=1, le=1024, description="prompt tokens per chunk")
    max_answers: int = Field(
        16, ge=1, le=1024, description="maximum answers coordinated concurrently"
    )
    max_sessions: int = Field(32, ge=1, le=4096, description="maximum concurrent sessions served")
    max_sessions_per_peer: int = Field(
        16, ge=1, le=4096, description="maximum concurrent sessions served per peer"
    )
    journal_budget: Size = Field(
        2**30,
        ge=2**20,
        description="memory for activations kept to replay to replacements of lost stages",
    )

    @model_validator(mode="after")
    def _unique(self) -> ShardsConfig:
        names = [m.name for m in self.models]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"model {name!r} is listed twice; give one entry a wider range")
        return self
