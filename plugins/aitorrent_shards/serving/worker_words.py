"""What a holder asks its worker for when it loads, and what the answer means. No I/O."""

from __future__ import annotations

import time
from typing import Any, Final

from aitorrent_shards.config import ModelEntry, ShardsConfig
from aitorrent_shards.models.folder import Digests, ModelFiles
from aitorrent_shards.protocol.spans import Span
from aitorrentd.api import PeerId, ProtocolError

LOAD_SLICE_S: Final = 0.25
"How often a loading worker reports its progress."


def load_request(
    entry: ModelEntry, files: ModelFiles, config: ShardsConfig, start: int, end: int
) -> dict[str, Any]:
    """The request to load layers; `loading` asks for the next slice."""
    return {
        "op": "load",
        "path": str(files.path),
        "start": start,
        "end": end,
        "dtype": entry.dtype,
        "kv_budget_bytes": entry.kv_budget,
        "threads": config.threads,
        "device": config.device,
        "slice_s": LOAD_SLICE_S,
    }


def weight_bytes_of(header: dict[str, Any]) -> tuple[int, int]:
    """The size of the loaded layers, and what of it is in a graphics card's memory.

    Raises:
        ProtocolError: the answer has another form.
    """
    try:
        size = int(header["weight_bytes"])
    except (KeyError, TypeError, ValueError) as e:
        raise _unexpected(e) from None
    return size, size if str(header.get("device", "")).startswith("cuda") else 0


def loaded_span(
    header: dict[str, Any], *, peer: PeerId, model: str, digests: Digests, start: int, end: int
) -> Span:
    """The layers that a worker loaded: it is trusted, but a mix-up must not be published.

    Raises:
        ProtocolError: these are other layers, or the answer has another form.
    """
    try:
        if (header["start"], header["end"]) != (start, end):
            raise ProtocolError("the worker loaded other layers than requested")
        return Span(
            peer=peer,
            model=model,
            digest=digests.digest,
            front=digests.front,
            start=start,
            end=end,
            layers=int(header["layers"]),
            dtype=str(header["dtype"]),
            hidden=int(header["hidden_size"]),
            max_positions=int(header["max_positions"]),
            free_positions=0,
            step_us=0,
            run=time.time_ns(),
        )
    except (KeyError, TypeError, ValueError) as e:
        raise _unexpected(e) from None


def _unexpected(error: Exception) -> ProtocolError:
    return ProtocolError(f"unexpected answer of the worker to load: {error!r}")
