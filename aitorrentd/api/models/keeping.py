"""Models that leave this machine's memory and return, for backends that can tell and decide."""

from __future__ import annotations

from typing import Protocol, runtime_checkable


@runtime_checkable
class KeepsModels(Protocol):
    """An optional addition to `Backend`: which models stay in memory.

    A model that left memory is still listed (`ModelView.is_resting`), and a request of this machine
    loads it again.
    """

    async def load(self, model: str) -> None:
        """Have the model's layers of this machine in memory; returns when they are.

        Raises:
            NotFound: no such model. Unavailable: it cannot be loaded, with the reason.
        """

    async def unload(self, model: str) -> None:
        """Release the memory of the model's layers on this machine; returns when it is free.

        Answers that use them end first. A model that is not in memory is no error. Cancelling the
        call does not call off the unloading.

        Raises:
            NotFound: no such model. InvalidParams: this machine has none of its layers.
            Conflict: somebody had it loaded again meanwhile.
        """

    async def keep(self, model: str, idle_s: float | None) -> None:
        """Unload the model once nobody has used it for `idle_s` seconds; None = it stays.

        It holds until the model is unloaded, or somebody says otherwise. A model that is not in
        memory, or whose layers other machines have, is not affected.

        Raises:
            NotFound: no such model. Unavailable: the backend is gone.
        """
