"""Settings of the server that draws: `plugins.gateway.images`."""

from __future__ import annotations

from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import ConfigDict, Field, SecretStr, field_validator, model_validator

from aitorrentd.api import OptionalPath, SettingsTable

Side = Annotated[int, Field(ge=64, le=4096, multiple_of=8)]


class ImagesConfig(SettingsTable):
    """A server that draws pictures."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    kind: Literal["sd-webui", "comfyui", "openai"]
    "its API: of Stable Diffusion web UI (and Forge, SD.Next), of ComfyUI, or of OpenAI"
    url: str
    "its address, such as http://127.0.0.1:7860; for openai with the path, such as …/v1"
    api_key: SecretStr | None = None
    "sent as a bearer token; never logged"
    model: Annotated[str, Field(max_length=256)] = ""
    "the checkpoint or model; required for openai, and for comfyui without a workflow"
    workflow: OptionalPath = None
    """for comfyui: a workflow in API format (JSON) with {prompt} in the text that stands for the
    prompt, and {width}, {height}, {steps} and {seed} where numbers belong; null = a plain one"""
    width: Side = 512
    "pixels"
    height: Side = 512
    "pixels"
    steps: Annotated[int, Field(ge=1, le=200)] = 20
    "sampling steps; openai has none"
    timeout_s: Annotated[float, Field(gt=0, le=3600)] = 300.0
    "how long a picture may take"

    @field_validator("url")
    @classmethod
    def _is_http(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query:
            raise ValueError(f"{url!r} is not a URL such as http://127.0.0.1:7860")
        return url.rstrip("/")

    @model_validator(mode="after")
    def _has_a_model(self) -> Self:
        if not self.model and self.kind == "openai":
            raise ValueError("openai needs a model")
        if not self.model and self.kind == "comfyui" and self.workflow is None:
            raise ValueError("comfyui needs a model, or a workflow that names one")
        return self
