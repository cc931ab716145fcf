"""Settings that every plugin with an HTTP server has: addresses and host names."""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BeforeValidator, Field

_HOST: Final = re.compile(r"(?!-)[a-z0-9-]{1,63}(?:\.(?!-)[a-z0-9-]{1,63})*", re.ASCII)


def one_is_a_list(value: Any) -> Any:
    """A single text where a list is expected."""
    return (value,) if isinstance(value, str) else value


def _are_addresses(value: tuple[str, ...]) -> tuple[str, ...]:
    for text in value:
        try:
            ipaddress.ip_address(text)
        except ValueError:
            raise ValueError(f"{text!r} is not an IP address; write 127.0.0.1 or ::") from None
    return value


def _are_names(value: tuple[str, ...]) -> tuple[str, ...]:
    for text in value:
        if not _HOST.fullmatch(text.lower()):
            raise ValueError(f"{text!r} is not a host name; write it without a port")
    return tuple(text.lower() for text in value)


Addresses = Annotated[
    tuple[str, ...],
    Field(min_length=1, max_length=8),
    AfterValidator(_are_addresses),
    BeforeValidator(one_is_a_list),
]
"IP addresses to listen on."
HostNames = Annotated[
    tuple[str, ...],
    Field(max_length=32),
    AfterValidator(_are_names),
    BeforeValidator(one_is_a_list),
]
"Host names without ports, in lower case."
