"""Settings of the gateway plugin: `plugins.gateway` in aitorrent.yaml."""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field

from aitorrentd.api import PluginConfig


class GatewayConfig(PluginConfig):
    """APIs for programs on the node's HTTP server."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    requests: Annotated[int, Field(ge=1, le=256)] = 64
    "requests at the same time on each path; more are answered with 429"
