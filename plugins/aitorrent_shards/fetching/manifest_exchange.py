"""Holders of a model's layers tell other nodes which files the model consists of.

One request on a stream of its own: a frame `{digest}`, answered by one whose tail is a map of
`files` and `index`, or by `{error}`. The asker proves the files against the digest. The index says
only where to look for a tensor; a wrong one makes the fetch fail.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from aitorrent_shards.fetching.manifest import Manifest, covered, files_from, is_covered
from aitorrentd.api import (
    AitorrentError,
    Busy,
    NotFound,
    PeerId,
    ProtocolError,
    Record,
    Stream,
    TimedOut,
    Transport,
    encode_frame,
    error_from_map,
    pack,
    read_frame,
    unpack_map,
)
from aitorrentd.api.fields import blob, text
from aitorrentd.api.limits import PerPeer, TokenBucket

PROTOCOL: Final = "/ai-torrent/manifest/1"
MAX_REQUEST_BYTES: Final = 1024
MAX_ANSWER_BYTES: Final = 20 * 2**20
MAX_INDEX_BYTES: Final = 16 * 2**20
TIMEOUT_S: Final = 60.0
"Enough for the largest answer over a slow line."
RATE: Final = 0.2
BURST: Final = 10
"Answers for one peer: this many at once, and RATE a second on average."


@dataclass(frozen=True, slots=True)
class ToldModel:
    """What a peer told about a model, proven against the digest as far as that covers it."""

    files: Manifest
    index: bytes
    "model.safetensors.index.json; empty if the weights are one file."


class ManifestServer:
    """Answers which files a model consists of; `find(digest)` gives a model held here."""

    def __init__(self, find: Callable[[str], ToldModel | None]) -> None:
        self._find = find
        self._rates = PerPeer(lambda: TokenBucket(RATE, BURST, _now()))

    async def handle(self, stream: Stream) -> None:
        """Serve one request."""
        try:
            async with asyncio.timeout(TIMEOUT_S):
                request = (await read_frame(stream, max_bytes=MAX_REQUEST_BYTES)).header
                await stream.write(self._answer(stream.peer, request))
                await stream.close()
        except (TimeoutError, AitorrentError) as e:
            stream.reset(str(e) or "too slow")

    def _answer(self, peer: PeerId, request: dict[str, object]) -> bytes:
        try:
            digest = text(request, "digest", 64)
            if not self._rates.of(peer).take(_now()):
                raise Busy("too many requests for manifests; ask again later")
            model = self._find(digest)
            if model is None or len(model.index) > MAX_INDEX_BYTES:
                raise NotFound(f"no model with the digest {digest[:12]} is held here")
        except AitorrentError as e:
            return encode_frame({"error": e.as_map()})
        return encode_frame({}, pack({"files": covered(model.files.files), "index": model.index}))


async def ask_holders(transport: Transport, holders: Iterable[Record], digest: str) -> ToldModel:
    """What the first holder that answers truthfully tells about the model `digest`.

    Raises:
        NotFound: no holder is known. Other AitorrentErrors: as the last holder failed.
    """
    problem: AitorrentError = NotFound(
        f"no reachable node holds layers of a model with the digest {digest[:12]}…"
    )
    for record in holders:
        if record.peer == transport.node_id:
            continue
        try:
            return await _ask(transport, record, digest)
        except AitorrentError as e:
            problem = e
    raise problem


async def _ask(transport: Transport, holder: Record, digest: str) -> ToldModel:
    stream: Stream | None = None
    try:
        async with asyncio.timeout(TIMEOUT_S):
            stream = await transport.open_stream(
                holder.peer, PROTOCOL, addresses=tuple(holder.addresses)
            )
            await stream.write(encode_frame({"digest": digest}))
            frame = await read_frame(stream, max_bytes=MAX_ANSWER_BYTES)
    except TimeoutError:
        raise TimedOut(f"no manifest arrived within {TIMEOUT_S:g} s") from None
    finally:
        if stream is not None:
            stream.reset("asked")
    if "error" in frame.header:
        raise error_from_map(frame.header["error"])
    answer = unpack_map(frame.tail)
    files, index = files_from(answer.get("files")), blob(answer, "index", 0, MAX_INDEX_BYTES)
    told = Manifest(digest, "", tuple(f for f in files if is_covered(f.name)))
    if told.digest != digest:
        raise ProtocolError("the peer's manifest is of another model")
    return ToldModel(told, index)


def _now() -> float:
    return asyncio.get_running_loop().time()
