"""Who can turn texts into vectors: local backends, and peers that announce `ait:embed:<model>`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from aitorrent_inference.capabilities import EMBED_PREFIX, match, offered
from aitorrent_inference.catalogue import BackendState, Candidate, Catalogue, failures
from aitorrentd.api import Embeds, InvalidParams, ModelView, NotFound

_NAMES_SHOWN: Final = 12


class Embedders:
    """The counterpart of `Catalogue` for embeddings."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue

    async def _states(self) -> list[BackendState]:
        able = [(b, b.embedding_models) for b in self._catalogue.backends if isinstance(b, Embeds)]
        states = await asyncio.gather(*(self._catalogue.ask_backend(b, ask) for b, ask in able))
        return list(states)

    async def models(self) -> Sequence[ModelView]:
        """Embedding models of local backends, then those that peers offer."""
        local = [view for state in await self._states() for view in state.models]
        return [*local, *self._catalogue.peer_models(EMBED_PREFIX)]

    async def offer(self) -> dict[str, ModelView]:
        """The embedding models that peers may use here, by requested name."""
        views = [view for state in await self._states() for view in state.models]
        config = self._catalogue.config
        return offered(views, announce=config.announce, aliases=config.capabilities)

    async def candidates(self, model: str, backend: str | None) -> list[Candidate]:
        """Candidates for this machine's requests, in order: local backends, then peers by latency.

        A model that is made for answers comes after those made for this, since it may do it too.

        Raises:
            NotFound: no one has the model, or no such backend. InvalidParams: the backend cannot
            do this, or is no peer id.
        """
        catalogue = self._catalogue
        if backend is not None and backend.startswith("peer:"):
            return [Candidate(catalogue.peer_named(backend.removeprefix("peer:")), model)]
        if backend is not None and not isinstance(catalogue.backends.get(backend), Embeds):
            raise InvalidParams(f"{backend} cannot turn texts into vectors; name another backend")
        states = [s for s in await self._states() if backend in (None, s.name)]
        remote = catalogue.peer_models(EMBED_PREFIX) if backend is None else []
        names = [view.name for state in states for view in state.models]
        names += [view.name for view in remote]
        name = model or next(iter(names), "")
        if not name:
            raise NotFound(f"no backend lists an embedding model; name one{failures(states)}")
        real = catalogue.config.capabilities.get(name, name)
        found, others = self._matching(real, states), list[BackendState]()
        if not found:
            able = {state.name for state in states}
            others = await catalogue.ask_backends()
            found = self._matching(real, [s for s in others if s.name in able])
        if backend is None:
            peers = await catalogue.peers(name, ask=not found, prefix=EMBED_PREFIX)
            found += [Candidate(peer, name) for peer in peers]
        if not found:
            self._check_chat_only(real, others)
            listed = ", ".join(sorted(set(names))[:_NAMES_SHOWN])
            known = f"; embedding models: {listed}" if listed else ""
            raise NotFound(f"no embedding model {name!r}{known}{failures(states)}")
        return found

    def _check_chat_only(self, model: str, states: Sequence[BackendState]) -> None:
        """Refuse a model of a backend that cannot do this, rather than not to know it.

        Raises:
            InvalidParams: it is one.
        """
        for state in states:
            if match(model, {view.name: view for view in state.models}) is not None:
                raise InvalidParams(
                    f"{model} does not support embeddings; name an embedding model",
                    lacking=["embed"],
                )

    def _matching(self, model: str, states: Sequence[BackendState]) -> list[Candidate]:
        backends = self._catalogue.backends
        found = []
        for state in states:
            view = match(model, {v.name: v for v in state.models})
            if view is not None and state.name in backends.names():
                found.append(Candidate(backends.get(state.name), view.name))
        return found

    async def offered_candidates(self, model: str) -> list[Candidate]:
        """Local backends that may make vectors for a peer; an empty model means the first.

        Raises:
            NotFound: the model is not available here or not offered.
        """
        offer = await self.offer()
        name = model or next(iter(offer), "")
        view = match(name, offer) if name else None
        if view is None:
            raise NotFound(f"no embedding model {model!r} here")
        return self._matching(view.name, await self._states())
