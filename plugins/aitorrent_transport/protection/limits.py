"""The limits of the transport: per peer, per host, per subnet and in total."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import ConfigDict, Field

from aitorrentd.api import SettingsTable

STREAMS_PER_S: Final = 200.0
"Streams that a peer may open per second; nodes keep slightly below it on their own."
STREAMS_BURST: Final = 400.0


class Limits(SettingsTable):
    """Limits on peers. A subnet is an IPv4 /24 or IPv6 /56, a host an IPv4 address or IPv6 /64."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    calls_per_minute: Annotated[int, Field(ge=1, le=1_000_000)] = 100
    "calls, such as prompts, that a peer may make per minute"
    calls_per_hour: Annotated[int, Field(ge=1, le=10_000_000)] = 1000
    "calls that a peer may make per hour"
    peers_per_subnet: Annotated[int, Field(ge=1, le=10_000)] = 64
    "incoming connected peers per subnet; private and loopback addresses are exempt"
    half_open: Annotated[int, Field(ge=1, le=4096)] = 64
    "connections that have not authenticated yet"
    half_open_per_subnet: Annotated[int, Field(ge=1, le=4096)] = 16
    "unauthenticated connections per subnet; loopback is exempt"
    half_open_per_host: Annotated[int, Field(ge=1, le=4096)] = 4
    "unauthenticated connections per host; loopback is exempt"
    ban_s: Annotated[float, Field(ge=1, le=86_400)] = 600.0
    "seconds of a first ban; each further one within a day lasts twice as long, up to a day"
