"""The hooks of aitorrentd: what a plugin may declare.

Hooks are synchronous, cheap and without I/O: they describe. What runs is the async context manager
that `aitorrent_lifespan` returns. An implementation may leave out arguments that it does not use.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractAsyncContextManager
from typing import Any, Final

import pluggy

from aitorrentd.api.context import PluginContext
from aitorrentd.api.network.transport import WireProtocol
from aitorrentd.api.plugin import (
    Check,
    HealthWarning,
    Method,
    OfferView,
    PeerCandidate,
    PluginInfo,
    Price,
    Verdict,
)

PROJECT: Final = "aitorrentd"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec(firstresult=True)
def aitorrent_info() -> PluginInfo:
    """The plugin's manifest. Called once, right after the plugin object was made."""
    raise NotImplementedError


@hookspec
def aitorrent_lifespan(ctx: PluginContext) -> AbstractAsyncContextManager[None]:
    """What runs: entered to start the plugin, left to stop it.

    It may raise SkipPlugin to say that the plugin has nothing to do here.
    """
    raise NotImplementedError


@hookspec
def aitorrent_methods(ctx: PluginContext) -> Iterable[Method]:
    """Control API methods, served while the plugin runs."""
    raise NotImplementedError


@hookspec
def aitorrent_routes(ctx: PluginContext) -> Iterable[Any]:
    """HTTP routes (Starlette `BaseRoute`), mounted by the HTTP server while the plugin runs."""
    raise NotImplementedError


@hookspec
def aitorrent_protocols(ctx: PluginContext) -> Iterable[WireProtocol]:
    """Peer protocols, answered while the plugin runs."""
    raise NotImplementedError


@hookspec
def aitorrent_checks(ctx: PluginContext) -> Iterable[Check]:
    """Doctor checks."""
    raise NotImplementedError


@hookspec
def aitorrent_health(ctx: PluginContext) -> Iterable[HealthWarning]:
    """What is wrong now; asked by `status`."""
    raise NotImplementedError


@hookspec(firstresult=True)
def aitorrent_admit_peer(peer: PeerCandidate) -> Verdict | None:
    """Whether a peer may stay connected; None = no opinion. Under 1 ms."""
    raise NotImplementedError


@hookspec(firstresult=True)
def aitorrent_price(offer: OfferView) -> Price | None:
    """What work costs a peer; None = no opinion. Under 1 ms."""
    raise NotImplementedError
