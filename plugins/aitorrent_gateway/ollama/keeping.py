"""Models that enter and leave this node's memory at a client's request.

Whoever may have models answer may also have them loaded, as an answer does. That a model leaves
memory, or when it does, is for callers with the role operate.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final

from aitorrent_gateway.core.naming import own_name
from aitorrent_gateway.ollama import names
from aitorrentd.api import (
    AitorrentError,
    Backend,
    Busy,
    Chunk,
    Denied,
    Inference,
    ModelView,
    Registry,
)
from aitorrentd.api.faces.routes import Scope
from aitorrentd.api.models.keeping import KeepsModels

UNLOAD_S: Final = 30.0
"How long a request to unload waits for the answers that use the model."
FIELD: Final = "keep_alive"


@dataclass(frozen=True, slots=True)
class Memory:
    """The models of this node that a caller may load, and perhaps unload."""

    inference: Inference
    backends: Registry[Backend] | None
    scopes: frozenset[Scope]
    "Of the caller."
    is_known: bool
    "Whether the caller showed who it is."
    log: logging.Logger

    @property
    def may_decide(self) -> bool:
        """Whether the caller may say when a model leaves memory."""
        return Scope.OPERATE in self.scopes

    def check(self) -> None:
        """Refuse a caller that wants a model unloaded and may not.

        Raises:
            Denied: with `unknown` in its data if a token could help.
        """
        if self.may_decide:
            return
        role = Scope.OPERATE.value
        if self.is_known:
            raise Denied(f"unloading a model needs the role {role}, which the token does not have")
        raise Denied(
            f"unloading a model needs a token with the role {role}: aitorrentctl token new NAME"
            f" --role {role}",
            unknown=True,
        )

    async def of(self, name: str) -> Kept:
        """The model that a client names.

        Raises:
            NotFound: there is none. Unavailable: it cannot answer now.
        """
        view = await names.found(self.inference, name, self.backends)
        return Kept(name, own_name(self.inference, view.name), self._keeper(view), self.log)

    def _keeper(self, view: ModelView) -> KeepsModels | None:
        if self.backends is None or view.backend not in self.backends.names():
            return None  # a peer's
        backend = self.backends.get(view.backend)
        return backend if isinstance(backend, KeepsModels) else None


@dataclass(frozen=True, slots=True)
class Kept:
    """A model, and the backend that decides what of it stays in this node's memory."""

    name: str
    "As the client names it."
    model: str
    backend: KeepsModels | None
    "None: nothing of the model is in this node's memory."
    log: logging.Logger

    async def load(self) -> None:
        """Have the model in memory.

        Raises:
            Unavailable: it cannot be loaded.
        """
        if self.backend is not None:
            await self.backend.load(self.model)

    async def unload(self) -> None:
        """Free the model's memory, once its answers have ended.

        Raises:
            Busy: answers still run; it leaves memory when they end. InvalidParams: only other nodes
            hold its layers. Conflict: somebody loaded it again meanwhile.
        """
        if self.backend is None:
            return
        try:
            async with asyncio.timeout(UNLOAD_S):
                await self.backend.unload(self.model)
        except TimeoutError:
            raise Busy(
                f"model {self.name[:200]!r} is still answering; it leaves memory when the answers"
                " have ended"
            ) from None

    async def keep(self, idle_s: float) -> None:
        """Have the model leave memory after so many seconds without use; infinity = it stays."""
        if self.backend is not None:
            await self.backend.keep(self.model, None if math.isinf(idle_s) else idle_s)

    async def kept(self, chunks: AsyncGenerator[Chunk], idle_s: float) -> AsyncGenerator[Chunk]:
        """The same chunks; when they end, also by a client that leaves, `keep` begins."""
        try:
            async with aclosing(chunks):
                async for chunk in chunks:
                    yield chunk
        finally:
            try:
                await self.keep(idle_s)
            except AitorrentError as e:  # the answer is complete nevertheless
                self.log.warning("model %s: keep_alive has no effect: %s", self.model, e.message)
