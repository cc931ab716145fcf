"""Configuration of the catalogue: `plugins.tracker.catalogue` in aitorrent.yaml."""

from __future__ import annotations

import re
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

from pydantic import ConfigDict, Field, SecretStr, field_validator

from aitorrentd.api import SettingsTable, parse_peer_id

MIN_TOKEN_CHARS: Final = 16
_HOST: Final = re.compile(r"[A-Za-z0-9.-]{1,253}", re.ASCII)


class CatalogueLimitsConfig(SettingsTable):
    """Bounds on what publishers can make the catalogue keep."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    entries: Annotated[int, Field(ge=1, le=100_000_000)] = 1_000_000
    "Published files."
    pending: Annotated[int, Field(ge=0, le=10_000_000)] = 10_000
    "Publications that wait for approval."
    per_publisher: Annotated[int, Field(ge=1, le=100_000_000)] = 100_000
    "Files of one publisher."


class CatalogueConfig(SettingsTable):
    """What the catalogue keeps where, and who may publish."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    enabled: bool = True
    "Whether the tracker has a catalogue, with its REST API and web page on the same port."
    database: SecretStr | None = None
    """URL of a PostgreSQL database that several trackers may share, such as
    postgresql://user:password@host/name; left out, the catalogue is a SQLite file."""
    publishers: Annotated[tuple[str, ...], Field(max_length=10_000)] = ()
    "Peer ids whose publications are listed at once."
    others: Literal["refuse", "approve", "accept"] = "refuse"
    "What becomes of others' publications: refused, kept until you approve them, or listed at once."
    admin_token: SecretStr | None = None
    "Opens the API under /api/v1/admin; at least 16 characters. Without it there is no such API."
    url: str = ""
    """How clients reach this tracker, such as https://tracker.example; left out, the address that
    each client used."""
    title: Annotated[str, Field(min_length=1, max_length=80)] = "Model catalogue"
    "Heading of the web page."
    web_seed_hosts: Annotated[tuple[str, ...], Field(max_length=256)] = ("huggingface.co",)
    "Hosts that publications may name as web seeds."
    limits: CatalogueLimitsConfig = CatalogueLimitsConfig()
    "Limits on publications, in all and per publisher."

    @field_validator("publishers", "web_seed_hosts", mode="before")
    @classmethod
    def _one_is_a_list(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value

    @field_validator("database")
    @classmethod
    def _is_postgres(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not value.get_secret_value().strip().startswith(
            ("postgresql://", "postgres://")
        ):
            raise ValueError("is not a URL such as postgresql://user@host/name")
        return value and SecretStr(value.get_secret_value().strip())

    @field_validator("publishers")
    @classmethod
    def _are_nodes(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(parse_peer_id(text) for text in value)

    @field_validator("admin_token")
    @classmethod
    def _is_long(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and len(value.get_secret_value().strip()) < MIN_TOKEN_CHARS:
            raise ValueError(f"has fewer than {MIN_TOKEN_CHARS} characters")
        return value and SecretStr(value.get_secret_value().strip())

    @field_validator("url")
    @classmethod
    def _is_an_origin(cls, value: str) -> str:
        parts = urlsplit(value)
        is_origin = parts.scheme in ("http", "https") and parts.path in ("", "/")
        if value and not (is_origin and parts.hostname and not parts.query and not parts.fragment):
            raise ValueError(f"{value!r} is not an address such as https://tracker.example")
        return value.rstrip("/")

    @field_validator("web_seed_hosts")
    @classmethod
    def _are_hosts(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for text in value:
            if not _HOST.fullmatch(text):
                raise ValueError(f"{text!r} is not a host name such as huggingface.co")
        return tuple(text.lower() for text in value)
