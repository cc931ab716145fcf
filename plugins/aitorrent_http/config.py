"""Settings of the HTTP plugin: `plugins.http` in aitorrent.yaml."""

from __future__ import annotations

import re
from typing import Annotated, Final, Literal, Self

from pydantic import BeforeValidator, ConfigDict, Field, field_validator, model_validator

from aitorrentd.api import OptionalPath, PluginConfig
from aitorrentd.api.faces.settings import Addresses, HostNames, one_is_a_list

PORT: Final = 8000
"The default port."
_ORIGIN: Final = re.compile(r"[a-z][a-z0-9+.-]*://[^/\s?#@]+", re.ASCII | re.IGNORECASE)


class HttpConfig(PluginConfig):
    """The HTTP server for the routes of all plugins."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    listen: Addresses = ("127.0.0.1",)
    "IP addresses to listen on; others than loopback need a token or TLS"
    port: Annotated[int, Field(ge=0, le=65_535)] | None = None
    "TCP port; 0 = any free port, null = 8000, without a server if another program has that"
    unix_socket: OptionalPath = None
    """a Unix socket to listen on as well; its callers have the roles that they have on the control
    socket"""
    hosts: HostNames = ()
    """host names by which clients reach the server, besides localhost and IP addresses; others are
    refused, because a web page could send them"""
    origins: Annotated[tuple[str, ...], Field(max_length=32), BeforeValidator(one_is_a_list)] = ()
    "origins of web pages that may call models, such as https://chat.example.org"
    anonymous: Annotated[
        tuple[Literal["generate", "read"], ...], BeforeValidator(one_is_a_list)
    ] = ("generate", "read")
    "what programs on this machine may do without a token; [] = nothing"
    tls_cert: OptionalPath = None
    "PEM file of the certificate and its chain; a new one is used within a minute"
    tls_key: OptionalPath = None
    "PEM file of its private key"

    @field_validator("origins")
    @classmethod
    def _are_origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for text in value:
            if not _ORIGIN.fullmatch(text):
                raise ValueError(f"{text!r} is not an origin such as https://chat.example.org")
        return tuple(text.lower() for text in value)

    @model_validator(mode="after")
    def _has_both(self) -> Self:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("tls_cert and tls_key belong together; set both, or neither")
        return self
