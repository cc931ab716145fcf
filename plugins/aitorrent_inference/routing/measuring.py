"""Requests with one reply: the tokens of a prompt, and texts as vectors."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from aitorrent_inference.catalogue import Candidate, Catalogue
from aitorrent_inference.peers.backend import PeerBackend
from aitorrentd.api import (
    AitorrentError,
    Busy,
    CountsTokens,
    Embeddings,
    EmbedRequest,
    Embeds,
    GenerateRequest,
    InvalidParams,
    Unavailable,
    short,
)

T = TypeVar("T")


def is_peer(candidate: Candidate) -> bool:
    """Whether a peer, not a backend of this node."""
    return isinstance(candidate.backend, PeerBackend)


def who(candidate: Candidate) -> str:
    """The backend or peer, for display."""
    backend = candidate.backend
    return f"peer {short(backend.peer)}" if isinstance(backend, PeerBackend) else backend.name


def summary(errors: Sequence[AitorrentError], failures: Sequence[str]) -> AitorrentError:
    """One error for several failures before any output; if they agree, of their type, and with the
    data of the first: which parameter, or how much is too much."""
    if len(errors) == 1:
        return errors[0]
    kinds = {type(e) for e in errors}
    if kinds == {Busy}:
        waits = [w for e in errors if type(w := e.data.get("retry_after_s")) is int]
        # Asking one of them again is asking all.
        told = {"retry_after_s": max(waits)} if waits else {}
        return Busy("Too many requests", asked=len(errors), **told)
    text = "no backend could answer: " + "; ".join(failures)
    if len(kinds) == 1:
        return kinds.pop()(text, **errors[0].data)
    layers = next((e.data["layers"] for e in errors if "layers" in e.data), None)
    return Unavailable(text, layers=layers) if layers else Unavailable(text)


async def tokens_of(request: GenerateRequest, candidate: Candidate) -> int:
    """The tokens of a prompt, as a candidate counts them.

    Raises:
        InvalidParams: it cannot count.
    """
    if not isinstance(candidate.backend, CountsTokens):
        raise InvalidParams(
            f"{candidate.backend.name} cannot count tokens; only it knows how it encodes a prompt",
            lacking=["count_tokens"],
        )
    return await candidate.backend.count_tokens(
        request.model_copy(update={"model": candidate.model})
    )


async def vectors_of(request: EmbedRequest, candidate: Candidate) -> Embeddings:
    """The texts as vectors of a candidate.

    Raises:
        InvalidParams: it cannot do this, or makes vectors of another length without a word.
    """
    if not isinstance(candidate.backend, Embeds):
        raise InvalidParams(
            f"{candidate.backend.name} cannot turn texts into vectors", lacking=["embed"]
        )
    found = await candidate.backend.embed(request.model_copy(update={"model": candidate.model}))
    wanted = request.dimensions
    for made in map(len, found.vectors):
        if wanted is not None and made != wanted:
            raise InvalidParams(
                f"dimensions is {wanted}, but {candidate.model} makes vectors of {made} numbers;"
                " leave it out",
                param="dimensions",
            )
    return found


async def first(
    candidates: Sequence[Candidate],
    ask: Callable[[Candidate], Awaitable[T]],
    *,
    catalogue: Catalogue,
    log: logging.Logger,
) -> T:
    """The reply of the first candidate that gives one. A local backend's InvalidParams is final;
    of a peer it is not, since another may accept what one calls invalid.

    Raises:
        AitorrentError: no candidate gave a reply.
    """
    errors: list[AitorrentError] = []
    failures: list[str] = []
    for candidate in candidates:
        try:
            return await ask(candidate)
        except AitorrentError as e:
            if isinstance(e, InvalidParams) and not is_peer(candidate):
                raise
            name = who(candidate)
            text = e.message if e.message.startswith(name) else f"{name}: {e.message}"
            log.debug("failed: %s", text)
            failures.append(text)
            errors.append(e)
            if isinstance(candidate.backend, PeerBackend) and not isinstance(e, InvalidParams):
                catalogue.distrust(candidate.backend.peer)
    raise summary(errors, failures)
