"""The receiving end of a ring edge: reports its position and takes one frame at a time.

Every token waits for this code at every stage, so frames are handled where their bytes arrive,
without waking a task.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from functools import partial
from typing import Final

from aitorrent_shards.protocol.messages import MAX_HEADER_BYTES, MAX_TAIL_BYTES
from aitorrentd.api import (
    AitorrentError,
    Frame,
    PeerGone,
    PeerId,
    PluginError,
    Stream,
    encode_frame,
)

FAILED: Final = "the stage failed; its log has the details"
MAX_AT_ONCE: Final = 64
"Frames handled at once (such as those for finished positions) before yielding to the event loop."


class HopReceiver(ABC):
    """The receiving end of an edge: at most one stream feeds it at a time, and only from `prev`."""

    def __init__(self, prev: PeerId, *, max_tail_bytes: int) -> None:
        self.prev = prev
        self.have = 0
        "Positions done."
        self._max_bytes = MAX_HEADER_BYTES + min(max_tail_bytes, MAX_TAIL_BYTES)
        self._stream: Stream | None = None
        self._busy = False
        self._idle = asyncio.Event()
        "Wakes whoever waits until the receiver is idle."
        self._over: asyncio.Future[None] | None = None

    @abstractmethod
    def receive(self, frame: Frame) -> bool:
        """Take a frame; False when it is still being processed, then `received` is called at the
        end.

        Raises:
            AitorrentError: the frame is invalid or cannot be taken; the stream is reset.
        """

    @abstractmethod
    def broke(self, error: AitorrentError) -> None:
        """The stream was ended because of this error; the session cannot continue."""

    def received(self, error: AitorrentError | None = None) -> None:
        """The pending frame is done or has failed; take the next.

        Call it also before re-raising an unexpected exception: others wait for it.
        """
        self._busy = False
        self._idle.set()
        if error is not None:
            self._fail(error)
        else:
            self._go_on(self._stream)

    async def run(self, stream: Stream) -> None:
        """Answer a hop and take its frames until the stream ends or a newer one replaces it."""
        self.detach("replaced by another hop for this session")
        self._stream = stream
        try:
            while self._stream is stream and self._busy:
                self._idle.clear()
                await self._idle.wait()  # the current frame is finished first
            if self._stream is stream:
                await stream.write(encode_frame({"have": self.have}))
            if self._stream is stream:
                over = self._over = asyncio.get_running_loop().create_future()
                self._go_on(stream)
                await over
        except PeerGone:
            return
        finally:
            if self._stream is stream:
                self._stream = self._over = None

    def _go_on(self, stream: Stream | None) -> None:
        """Take the frames that have arrived, one at a time; called again when more arrive."""
        if stream is None or stream is not self._stream or self._over is None:
            return
        try:
            for _ in range(MAX_AT_ONCE):
                if self._busy:
                    return
                frame = stream.take_frame(max_bytes=self._max_bytes)
                if frame is None:
                    stream.when_frame(partial(self._go_on, stream))
                    return
                self._busy = not self.receive(frame)
            if not self._busy:
                asyncio.get_running_loop().call_soon(self._go_on, stream)
        except PeerGone:
            self._leave()
        except AitorrentError as e:
            self._fail(e)
        except Exception:
            self._fail(PluginError(FAILED))
            raise

    def _fail(self, error: AitorrentError) -> None:
        self.detach(error.code)
        self.broke(error)

    def _leave(self) -> Stream | None:
        stream, over = self._stream, self._over
        self._stream = self._over = None
        if over is not None and not over.done():
            over.set_result(None)
        return stream

    def detach(self, reason: str) -> None:
        """End the stream that feeds this receiver, if any."""
        stream = self._leave()
        if stream is not None:
            stream.reset(reason)
