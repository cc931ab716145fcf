"""The hooks of aitorrentd: what a plugin may declare.

Hooks are synchronous, cheap and free of I/O: they only describe. The async context manager that
`aitorrent_lifespan` returns does the running. An implementation may omit arguments that it does not
use.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractAsyncContextManager
from typing import Final

import pluggy

from aitorrentd.api.context import PluginContext
from aitorrentd.api.faces.routes import HttpRoute
from aitorrentd.api.monitoring.metrics import Metric
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
"The pluggy project that the hooks belong to."
hookspec = pluggy.HookspecMarker(PROJECT)
"Marks the declaration of a hook."
hookimpl = pluggy.HookimplMarker(PROJECT)
"Marks a plugin's implementation of a hook."


@hookspec(firstresult=True)
def aitorrent_info() -> PluginInfo:
    """The plugin's manifest. Called once, right after the plugin object is created."""
    raise NotImplementedError


@hookspec
def aitorrent_lifespan(ctx: PluginContext) -> AbstractAsyncContextManager[None]:
    """The plugin's lifespan: entered to start the plugin, left to stop it.

    It may raise SkipPlugin when the plugin does not apply here.
    """
    raise NotImplementedError


@hookspec
def aitorrent_methods(ctx: PluginContext) -> Iterable[Method]:
    """Control API methods, served while the plugin runs."""
    raise NotImplementedError


@hookspec
def aitorrent_routes(ctx: PluginContext) -> Iterable[HttpRoute]:
    """HTTP routes, served by the HTTP plugin while the plugin runs. A path that another plugin
    serves already is an error at the start."""
    raise NotImplementedError


@hookspec
def aitorrent_protocols(ctx: PluginContext) -> Iterable[WireProtocol]:
    """Peer protocols, served while the plugin runs."""
    raise NotImplementedError


@hookspec
def aitorrent_checks(ctx: PluginContext) -> Iterable[Check]:
    """Doctor checks."""
    raise NotImplementedError


@hookspec
def aitorrent_health(ctx: PluginContext) -> Iterable[HealthWarning]:
    """Current problems; `status` calls this."""
    raise NotImplementedError


@hookspec
def aitorrent_metrics(ctx: PluginContext) -> Iterable[Metric]:
    """The families in `PluginInfo.metrics`, with their values now. Each scrape calls this: under
    1 ms."""
    raise NotImplementedError


@hookspec(firstresult=True)
def aitorrent_admit_peer(peer: PeerCandidate) -> Verdict | None:
    """Whether a peer may stay connected; None = no opinion. Under 1 ms."""
    raise NotImplementedError


@hookspec(firstresult=True)
def aitorrent_price(offer: OfferView) -> Price | None:
    """The price of work for a peer; None = no opinion. Under 1 ms."""
    raise NotImplementedError
