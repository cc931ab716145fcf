"""Settings of the gateway plugin: `plugins.gateway` in aitorrent.yaml."""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field

from aitorrent_gateway.images.config import ImagesConfig
from aitorrentd.api import PluginConfig

_Name = Annotated[str, Field(min_length=1, max_length=256)]


class GatewayConfig(PluginConfig):
    """APIs for programs on the node's HTTP server."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    requests: Annotated[int, Field(ge=1, le=256)] = 64
    "requests at the same time on each path; more are answered with 429"
    aliases: dict[_Name, _Name] = Field(default_factory=dict, max_length=100)
    """further names of models, such as `claude-local: qwen3-8b`, for clients that insist on a name;
    `/v1/models` lists them"""
    ollama_version: Annotated[str, Field(pattern=r"^\d{1,4}\.\d{1,4}\.\d{1,4}$")] = "0.17.6"
    "the version of Ollama that the Ollama API claims to be: clients refuse servers that are older"
    ollama_port: Annotated[int, Field(ge=0, le=65_535)] | None = None
    """a further TCP port for the HTTP server, on the same addresses: 11434 is where clients look
    for Ollama; null = none"""
    images: ImagesConfig | None = None
    "the server that draws pictures; null = none"
