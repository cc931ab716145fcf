"""Settings of the inference plugin."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator

from aitorrentd.api import PluginConfig

ModelName = Annotated[str, Field(min_length=1, max_length=256)]


class InferenceConfig(PluginConfig):
    """`plugins.inference` in the configuration file."""

    default_model: str = Field(
        "", max_length=256, description="default model; empty = the first available"
    )
    max_concurrent: int = Field(
        5, ge=0, le=1024, description="maximum concurrent answers for peers; 0 = refuse peers"
    )
    max_local: int = Field(
        64, ge=1, le=4096, description="maximum concurrent answers for this machine"
    )
    max_waiting: int = Field(
        256,
        ge=0,
        le=4096,
        description="maximum requests of this machine that wait for others to end; 0 = refuse them",
    )
    announce: bool | tuple[ModelName, ...] = Field(
        True, description="models that peers may use: true = all, false = none, or a list"
    )
    capabilities: dict[ModelName, ModelName] = Field(
        {}, max_length=256, description="model aliases, such as {mistral-q4: mistral}"
    )
    nodes: tuple[str, ...] = Field(
        (), max_length=64, description="addresses of nodes to stay connected to and ask"
    )
    first_token_timeout_s: float = Field(
        120, gt=0, le=3600, description="time to the first token after which a peer has failed"
    )
    token_timeout_s: float = Field(
        60, gt=0, le=3600, description="silence between tokens after which a peer has failed"
    )
    refresh_s: float = Field(
        30, gt=0, le=3600, description="how often to list the models of each backend"
    )

    @field_validator("capabilities")
    @classmethod
    def _no_chains(cls, names: dict[str, str]) -> dict[str, str]:
        for alias, model in names.items():
            if model in names and model != alias:
                raise ValueError(f"{alias!r} leads to {model!r}, which is itself an alias")
        return names
