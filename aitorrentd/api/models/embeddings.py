"""Texts as vectors: one request type and one reply type for every backend."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol, runtime_checkable

from pydantic import BaseModel, ConfigDict, Field

from aitorrentd.api.models.messages import Text
from aitorrentd.api.models.views import ModelView

MAX_TEXTS: Final = 2048
"Texts in a request, as in OpenAI's API."
MAX_DIMENSIONS: Final = 65_536
"The longest vector that is accepted from a server or a peer."


class EmbedRequest(BaseModel):
    """Texts to turn into vectors. An empty model means the first embedding model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: Text = Field("", max_length=256)
    texts: tuple[Text, ...] = Field(
        min_length=1, max_length=MAX_TEXTS, description="each becomes one vector"
    )
    dimensions: int | None = Field(
        None, ge=1, le=MAX_DIMENSIONS, description="length of the vectors, for models that shorten"
    )
    truncate: bool = Field(
        False, description="cut off texts that exceed the context, instead of refusing them"
    )


@dataclass(frozen=True, slots=True)
class Embeddings:
    """The vectors of an `EmbedRequest`."""

    vectors: tuple[array[float], ...]
    "One for each text, in order, of single-precision floats (type code `f`), all of one length."
    tokens: int
    "Tokens of all texts; 0 if the server does not count them."


def vector(values: Sequence[float]) -> array[float]:
    """One vector of `Embeddings`.

    Raises:
        ValueError: it is empty, too long, or has something that is no finite float of single
            precision.
    """
    if not 0 < len(values) <= MAX_DIMENSIONS:
        raise ValueError(f"a vector of {len(values)} dimensions")
    try:
        made = array("f", values)
    except (TypeError, OverflowError):
        raise ValueError("a vector with something that is no number") from None
    if not all(-_LARGEST <= value <= _LARGEST for value in made):
        raise ValueError("a vector with a number that is not finite")
    return made


_LARGEST: Final = 3.4028234663852886e38
"Of IEEE 754 single precision."


@runtime_checkable
class Embeds(Protocol):
    """An optional addition to `Backend`: it turns texts into vectors."""

    async def embedding_models(self) -> Sequence[ModelView]:
        """The models made for this; others may do it too. Raises as `Backend.models`."""

    async def embed(self, request: EmbedRequest) -> Embeddings:
        """The vectors of the texts.

        Raises:
            NotFound: no such model. InvalidParams: a text is too long, or the model or server
            cannot do this. Busy, TimedOut, Unavailable: as for an answer.
        """
