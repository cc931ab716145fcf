"""Configuration of the catalogue client: `plugins.catalogue` in aitorrent.yaml."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlsplit

from pydantic import BeforeValidator, ConfigDict, Field, SecretStr, field_validator

from aitorrentd.api import PluginConfig, SettingsTable, parse_peer_id


class ServerConfig(SettingsTable):
    """A catalogue, and what opens it."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    url: str
    "Address of the tracker that has the catalogue, such as http://tracker.example:6969."
    key: SecretStr | None = None
    "Announce key, if the tracker is private."

    @field_validator("url")
    @classmethod
    def _is_an_address(cls, value: str) -> str:
        try:
            parts = urlsplit(value)
            is_whole = parts.scheme in ("http", "https") and bool(parts.hostname)
            is_plain = not (parts.query or parts.fragment or parts.username)
        except ValueError:
            is_whole = is_plain = False
        if not is_whole or not is_plain:
            raise ValueError(f"{value!r} is not an address such as http://tracker.example:6969")
        return value.rstrip("/")


def _of_url(value: object) -> object:
    return {"url": value} if isinstance(value, str) else value


class CatalogueConfig(PluginConfig):
    """Which catalogues this node asks, and whom it believes."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    servers: Annotated[
        tuple[Annotated[ServerConfig, BeforeValidator(_of_url)], ...], Field(max_length=16)
    ] = ()
    "Catalogues: each a URL, or a table with `url` and `key`. Without any, no server is contacted."
    publishers: Annotated[tuple[str, ...], Field(max_length=10_000)] = ()
    "Peer ids of publishers to believe; left out, everyone whom a configured catalogue lists."
    publish: bool = True
    "Whether to publish what this node shares, if its repository and revision are known."
    timeout_s: Annotated[float, Field(gt=0, le=300)] = 10.0
    "For each answer of a catalogue."

    @field_validator("servers", "publishers", mode="before")
    @classmethod
    def _one_is_a_list(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value

    @field_validator("publishers")
    @classmethod
    def _are_nodes(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(parse_peer_id(text) for text in value)
