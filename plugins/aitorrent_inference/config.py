"""Settings of the inference plugin."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator

from aitorrentd.api import PluginConfig

ModelName = Annotated[str, Field(min_length=1, max_length=256)]


class InferenceConfig(PluginConfig):
    """`plugins.inference` in the configuration file."""

    default_model: str = Field(
        "", max_length=256, description="answers requests that name no model; empty = the first"
    )
    max_concurrent: int = Field(
        5, ge=0, le=1024, description="answers for peers at one time; 0 = peers are refused"
    )
    max_local: int = Field(32, ge=1, le=4096, description="answers for this machine at one time")
    announce: bool | tuple[ModelName, ...] = Field(
        True, description="which models peers may use: true = all, false = none, or a list"
    )
    capabilities: dict[ModelName, ModelName] = Field(
        {}, max_length=256, description="further names: {mistral-q4: mistral}"
    )
    nodes: tuple[str, ...] = Field(
        (), max_length=64, description="addresses of nodes to ask, kept connected"
    )
    first_token_timeout_s: float = Field(
        120, gt=0, le=3600, description="a peer that says nothing for so long has failed"
    )
    token_timeout_s: float = Field(
        60, gt=0, le=3600, description="a peer that falls silent for so long has failed"
    )
    refresh_s: float = Field(
        30, gt=0, le=3600, description="how often backends are asked for their models"
    )

    @field_validator("capabilities")
    @classmethod
    def _no_chains(cls, names: dict[str, str]) -> dict[str, str]:
        for alias, model in names.items():
            if model in names and model != alias:
                raise ValueError(f"{alias!r} leads to {model!r}, which is itself another name")
        return names
