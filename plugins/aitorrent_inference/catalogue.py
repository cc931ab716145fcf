"""Available models: those of this machine's backends and those that peers offer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from aitorrent_inference.capabilities import (
    EMBED_PREFIX,
    PREFIX,
    match,
    offered,
    read_record,
    record_key,
)
from aitorrent_inference.config import InferenceConfig
from aitorrent_inference.peers.backend import PeerBackend
from aitorrent_inference.why_not import facts, listed
from aitorrentd.api import (
    AitorrentError,
    Backend,
    Clock,
    Directory,
    InvalidParams,
    KnowsPending,
    ModelView,
    NotFound,
    PeerId,
    PendingModel,
    Record,
    Registry,
    TimedOut,
    Transport,
    Unavailable,
    parse_peer_id,
)
from aitorrentd.api.relays.loops import passed

_MODELS_TIMEOUT_S: Final = 10.0
_FIND_TIMEOUT_S: Final = 5.0
_PING_TIMEOUT_S: Final = 2.0
# How long a peer that failed is tried only after the others.
_DISTRUST_S: Final = 30.0
_MAX_DISTRUSTED: Final = 1024


@dataclass(frozen=True, slots=True)
class BackendState:
    """The result of the last model query to a backend."""

    name: str
    ok: bool
    detail: str
    models: tuple[ModelView, ...] = ()


@dataclass(frozen=True, slots=True)
class Candidate:
    """A backend or peer that could answer a request."""

    backend: Backend
    model: str
    "The model's name on this backend."


class Catalogue:
    """Which models are available, and from whom.

    `transport` and `directory` are looked up at each use, since their plugin may come and go.
    """

    def __init__(
        self,
        backends: Registry[Backend],
        config: InferenceConfig,
        *,
        clock: Clock,
        log: logging.Logger,
        transport: Callable[[], Transport | None] = lambda: None,
        directory: Callable[[], Directory | None] = lambda: None,
    ) -> None:
        self.backends = backends
        self.config = config
        self.states: dict[str, BackendState] = {}
        self._clock = clock
        self._log = log
        self._transport = transport
        self._directory = directory
        self._failed_at: dict[PeerId, float] = {}
        self.fixed: dict[str, PeerId] = {}
        "The peers that answered at the addresses in `nodes`."

    async def ask_backends(self) -> list[BackendState]:
        """Query all local backends for their models, in registration order; errors are captured."""
        backends = list(self.backends)
        states = await asyncio.gather(*(self.ask_backend(b, b.models) for b in backends))
        if not passed():  # what other nodes are told leaves out what leads back to them
            self.states = {state.name: state for state in states}
        return list(states)

    async def ask_backend(
        self, backend: Backend, ask: Callable[[], Awaitable[Sequence[ModelView]]]
    ) -> BackendState:
        """What `ask` of a backend returns, or its error."""
        try:
            async with asyncio.timeout(_MODELS_TIMEOUT_S):
                models = tuple(await ask())
        except AitorrentError as e:
            return BackendState(backend.name, False, e.message)
        except TimeoutError:
            return BackendState(backend.name, False, f"no answer within {_MODELS_TIMEOUT_S:g} s")
        except Exception as e:
            # Fence around another plugin's code: its bug must not hide the other backends.
            self._log.exception("backend %s failed to list its models", backend.name)
            return BackendState(backend.name, False, f"failed: {type(e).__name__}; see the log")
        count = len(models)
        return BackendState(backend.name, True, f"{count} model{'' if count == 1 else 's'}", models)

    async def models(self) -> Sequence[ModelView]:
        """Models of all local backends, then those that peers offer."""
        local = [view for state in await self.ask_backends() for view in state.models]
        return [*local, *self.peer_models()]

    def peer_models(self, prefix: str = PREFIX) -> list[ModelView]:
        """Models that peers announce under a prefix, as far as known locally."""
        views = (read_record(record, self.name_of) for record in self._records(prefix))
        return [view for view in views if view is not None]

    def name_of(self, peer: str) -> str:
        """The name that a connected peer claims; empty if it has none or is not connected."""
        transport = self._transport()
        view = transport.peer(PeerId(peer)) if transport is not None else None
        return view.name if view is not None else ""

    def pending(self) -> list[PendingModel]:
        """Models that are not available yet, from current knowledge; of those that only peers
        load, the ones that no peer offers."""
        offered_by_peers = {view.name for view in self.peer_models()}
        found: list[PendingModel] = []
        for backend in self.backends:
            if not isinstance(backend, KnowsPending):
                continue
            try:
                found += backend.pending()
            except Exception:
                # Fence around another plugin's code, as in ask_backend.
                self._log.exception(
                    "backend %s failed to list what it is waiting for", backend.name
                )
        backends = self.backends.names()
        return [p for p in found if p.backend in backends or p.name not in offered_by_peers]

    def loading(
        self,
        model: str,
        backend: str | None,
        *,
        discover: bool = False,
        incomplete: bool = False,
    ) -> list[PendingModel]:
        """Models of `pending` that match and become ready without intervention, or also those that
        lack layers if `incomplete`; the other arguments as for `candidates`."""
        name = self.config.capabilities.get(model, model) or self.config.default_model
        only_peers = discover or (backend or "").startswith("peer:")
        return [
            p
            for p in self.pending()
            if (p.state == "loading" or (incomplete and p.state == "incomplete"))
            and name in ("", p.name)
            and not (only_peers and p.backend in self.backends.names())
            and (only_peers or backend in (None, p.backend))
        ]

    def _records(self, prefix: str) -> list[Record]:
        transport, directory = self._transport(), self._directory()
        if transport is None or directory is None:
            return []
        return [r for r in directory.known(prefix) if r.peer != transport.node_id]

    async def offer(self) -> dict[str, ModelView]:
        """The models that peers may use here, by requested name."""
        views = [view for state in await self.ask_backends() for view in state.models]
        return offered(views, announce=self.config.announce, aliases=self.config.capabilities)

    def distrust(self, peer: PeerId) -> None:
        """Try this peer only after the others for a while, because it just failed."""
        if len(self._failed_at) >= _MAX_DISTRUSTED:
            self._failed_at.clear()
        self._failed_at[peer] = self._clock.monotonic()

    async def offered_candidates(self, model: str) -> list[Candidate]:
        """Local backends that may answer a peer; an empty model means the default.

        Raises:
            NotFound: the model is not available here or not offered. Unavailable: it lacks layers.
        """
        offer = await self.offer()
        name = model or self._default(offer)
        view = match(name, offer) if name else None
        if view is None:
            may_tell = self.config.announce is True or name in (self.config.announce or ())
            real = self.config.capabilities.get(name, name)
            for pending in self.pending() if may_tell else ():
                if pending.name == real and pending.shortage:
                    raise Unavailable(
                        f"model {real} cannot answer now: {pending.shortage}",
                        **facts([pending]),
                    )
            raise NotFound(f"no model {model!r} here{listed(offer)}" if model else "no model here")
        return self._local(view.name, self.states.values())

    def _local(self, model: str, states: Iterable[BackendState]) -> list[Candidate]:
        found = []
        for state in states:
            view = match(model, {v.name: v for v in state.models})
            if view is not None and state.name in self.backends.names():
                found.append(Candidate(self.backends.get(state.name), view.name))
        return found

    async def default_model(self) -> str:
        """The model that an empty name means, as it is listed; empty while none can answer."""
        views = {view.name: view for view in await self.models()}
        name = self._default(views)
        name = self.config.capabilities.get(name, name)
        view = match(name, views)
        return name if view is None else view.name

    def _default(self, names: Iterable[str]) -> str:
        return self.config.default_model or next(iter(names), "")

    async def candidates(
        self,
        model: str,
        backend: str | None,
        *,
        discover: bool = False,
        with_gone: bool = True,
    ) -> list[Candidate]:
        """Candidates for this machine's requests, in order: local backends, then peers by latency.

        An empty model means the default; `backend` restricts the result to one backend or
        `peer:<id>`, and `discover` to peers known only from the directory. Peers that are gone, but
        of which the network still keeps records, count if `with_gone`.

        Raises:
            NotFound: no one has the model, or no such backend. InvalidParams: not a peer id.
            Unavailable: no model is available at all.
        """
        if backend is not None and backend.startswith("peer:"):
            return [Candidate(self.peer_named(backend.removeprefix("peer:")), model)]
        if discover and backend is None:
            return await self._discovered(model)
        states = await self.ask_backends()
        if backend is not None:
            return [self._named(backend, model, states)]
        local = {view.name: view for state in states for view in state.models}
        remote = {view.name: view for view in self.peer_models()}
        name = model or self._default({**local, **remote})
        if not name:
            raise Unavailable(f"this node has no model that can answer{failures(states)}")
        found = self._local(self.config.capabilities.get(name, name), states)
        peers = await self.peers(name, ask=not found)
        if not with_gone:
            there = {view.backend for view in self.peer_models()}
            peers = [peer for peer in peers if peer.name in there]
        found += [Candidate(peer, name) for peer in peers]
        if not found:
            self._check_pending(self.config.capabilities.get(name, name), {**local, **remote})
            others = listed({**local, **remote})
            # a backend that knows the name gives the better reason
            states.sort(key=lambda s: name not in s.detail)
            raise NotFound(f"no model {name!r}{others}{failures(states)}")
        return found

    def lacking(self, model: str) -> str:
        """What this node lacks to answer with a model itself; empty if it is not one of
        `pending`."""
        try:
            self._check_pending(self.config.capabilities.get(model, model), ())
        except Unavailable as e:
            return e.message
        return ""

    def _check_pending(self, model: str, names: Iterable[str], backend: str | None = None) -> None:
        """Report what a pending model lacks and which other models are available; an empty name
        means the first.

        Raises:
            Unavailable: the model is one of `pending`.
        """
        meant = [p for p in self.pending() if backend in (None, p.backend) and p.detail]
        name = model or next((p.name for p in meant), "")
        if waiting := [p for p in meant if p.name == name]:
            reasons = "; ".join(p.detail for p in waiting)
            complete = listed(names, "complete models")
            raise Unavailable(
                f"model {name} cannot answer now: {reasons}{complete}", **facts(waiting)
            )

    async def _discovered(self, model: str) -> list[Candidate]:
        fixed = {f"peer:{peer}" for peer in self._fixed_peers()}
        there = {v.name: v for v in self.peer_models() if v.backend not in fixed}
        name = model or self._default(there)
        if not name:
            raise Unavailable(
                "the directory lists no peer that answers prompts; pass --model to search for a "
                "model"
            )
        peers = [p for p in await self.peers(name, ask=True) if p.name not in fixed]
        if not peers:
            raise NotFound(f"the directory lists no peer with model {name!r}{listed(there)}")
        return [Candidate(peer, name) for peer in peers]

    def _fixed_peers(self) -> set[str]:
        written = {text.rpartition("/p2p/")[2] for text in self.config.nodes if "/p2p/" in text}
        return written.union(self.fixed.values())

    def _named(self, backend: str, model: str, states: Iterable[BackendState]) -> Candidate:
        chosen = self.backends.get(backend)
        views = {view.name: view for s in states if s.name == backend for view in s.models}
        name = self.config.capabilities.get(model, model)
        if not name and self.config.default_model in views:
            name = self.config.default_model
        view = match(name, views) if name else next(iter(views.values()), None)
        if view is None:
            self._check_pending(name, views, backend)
        return Candidate(chosen, view.name if view else name)

    def peer_named(self, text: str) -> PeerBackend:
        """The peer with this id.

        Raises:
            InvalidParams: not a peer id. Unavailable: peers cannot be asked.
        """
        transport = self._transport()
        if transport is None:
            raise Unavailable("cannot ask peers: the transport plugin is not running")
        try:
            peer = parse_peer_id(text)
        except ValueError as e:
            raise InvalidParams(f"backend peer:{text}: {e}") from None
        return self._peer(peer, transport, ())

    def _peer(self, peer: PeerId, transport: Transport, addresses: Sequence[str]) -> PeerBackend:
        return PeerBackend(
            peer,
            transport,
            addresses=addresses,
            models=lambda: [v for v in self.peer_models() if v.backend == f"peer:{peer}"],
            embedders=lambda: [
                v for v in self.peer_models(EMBED_PREFIX) if v.backend == f"peer:{peer}"
            ],
            first_token_timeout_s=self.config.first_token_timeout_s,
            token_timeout_s=self.config.token_timeout_s,
        )

    async def peers(self, model: str, *, ask: bool, prefix: str = PREFIX) -> list[PeerBackend]:
        """Peers that offer the model, nearest first; `ask` searches beyond what is known."""
        transport, directory = self._transport(), self._directory()
        if transport is None or directory is None:
            return []
        names = [model] if ":" in model else [model, f"{model}:latest"]
        keys = [record_key(name, prefix) for name in names]
        records = {r.peer: r for key in keys for r in self._records(key) if r.key == key}
        if ask and not records:
            try:
                found = await directory.find(keys[0], timeout_s=_FIND_TIMEOUT_S)
            except (TimedOut, Unavailable) as e:
                self._log.debug("directory: %s", e.message)
                found = ()
            records = {r.peer: r for r in found if r.peer != transport.node_id}
        usable = {peer: r for peer, r in records.items() if read_record(r) is not None}
        rtts = await self._measured(transport, list(usable))
        now = self._clock.monotonic()

        def rank(peer: PeerId) -> tuple[bool, float]:
            failed_at = self._failed_at.get(peer)
            return failed_at is not None and now - failed_at < _DISTRUST_S, rtts[peer]

        return [self._peer(p, transport, usable[p].addresses) for p in sorted(usable, key=rank)]

    async def _measured(self, transport: Transport, peers: Sequence[PeerId]) -> dict[PeerId, float]:
        """Round-trip times in seconds; pings unmeasured connected peers if there is a
        choice."""

        async def rtt(peer: PeerId) -> float:
            view = transport.peer(peer)
            if view is None:
                return float("inf")
            if view.rtt_s is not None or len(peers) == 1:
                return view.rtt_s or 0.0
            try:
                return await transport.ping(peer, timeout_s=_PING_TIMEOUT_S)
            except (TimedOut, Unavailable):
                return float("inf")

        return dict(zip(peers, await asyncio.gather(*map(rtt, peers)), strict=True))


def failures(states: Iterable[BackendState]) -> str:
    """Why backends did not list their models, for the end of a message."""
    return "".join(f"; {s.name}: {s.detail}" for s in states if not s.ok)
