"""Control methods of the HTTP plugin: `http.*`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from aitorrent_http.service import HttpService
from aitorrent_http.tokens import Token
from aitorrentd.api import CallContext, Method, NoParams, Role

MAX_LIFETIME_S: Final = 10 * 366 * 86_400.0
_NAME: Final = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"


class Model(BaseModel):
    """Base of the shapes below."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class StatusResult(Model):
    """Where the server listens, and what it did."""

    listening: list[str] = Field(
        description="addresses in use, such as 127.0.0.1:8000, and paths of Unix sockets"
    )
    problem: str = Field(description="why the default port is not served; empty if it is")
    tls: bool = Field(description="whether the TCP sockets use TLS")
    tokens: int = Field(description="number of tokens")
    requests: dict[str, int] = Field(description="requests since the start, by plugin")


class NewParams(Model):
    """A token to be made."""

    name: str = Field(pattern=_NAME, description="for the list, such as the program's name")
    role: Literal["generate", "read", "operate", "admin"] = Field(
        "generate", description="what its holder may do"
    )
    lifetime_s: float | None = Field(
        None, gt=0, le=MAX_LIFETIME_S, description="seconds until it expires; null = never"
    )

    @field_validator("name", mode="before")
    @classmethod
    def _says_what_names_are(cls, name: object) -> object:
        if isinstance(name, str) and not re.fullmatch(_NAME, name, re.ASCII):
            raise ValueError(
                "use up to 64 letters, digits, dots, - or _; begin with a letter or digit"
            )
        return name


class TokenView(Model):
    """A token, without its secret."""

    name: str = Field(description="for the list")
    role: str = Field(description="generate, read, operate or admin")
    created: float = Field(description="seconds since the epoch")
    expires: float | None = Field(description="seconds since the epoch; null = never")


class NewResult(TokenView):
    """The new token."""

    token: str = Field(description="the secret, which is shown this once")


class ListResult(Model):
    """All tokens."""

    tokens: list[TokenView] = Field(description="by name")


class RevokeParams(Model):
    """A token to be revoked."""

    name: str = Field(description="as in the list")


def http_methods(service: HttpService) -> Iterator[Method]:
    """The methods."""

    def status(call: CallContext, params: NoParams) -> StatusResult:
        return StatusResult(
            listening=service.listening,
            problem=service.problem,
            tls=service.config.tls_cert is not None,
            tokens=len(service.tokens),
            requests=dict(service.counts),
        )

    async def new(call: CallContext, params: NewParams) -> NewResult:
        token, secret = await service.tokens.create(params.name, params.role, params.lifetime_s)
        return NewResult(**_view(token).model_dump(), token=secret)

    def listed(call: CallContext, params: NoParams) -> ListResult:
        return ListResult(tokens=[_view(token) for token in service.tokens.all()])

    async def revoke(call: CallContext, params: RevokeParams) -> None:
        await service.tokens.revoke(params.name)

    yield Method("http.status", status, "Where the HTTP server listens.", NoParams, StatusResult)
    yield Method(
        "http.tokens.new",
        new,
        "Create a token for an HTTP client.",
        NewParams,
        NewResult,
        role=Role.ADMIN,
    )
    yield Method(
        "http.tokens.list",
        listed,
        "The tokens of HTTP clients, without secrets.",
        NoParams,
        ListResult,
        role=Role.OPERATE,
    )
    yield Method(
        "http.tokens.revoke",
        revoke,
        "Revoke a token; it stops working at once.",
        RevokeParams,
        role=Role.ADMIN,
    )


def _view(token: Token) -> TokenView:
    return TokenView(name=token.name, role=token.role, created=token.created, expires=token.expires)
