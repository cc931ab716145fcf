"""The receiving end of an edge of the ring: it says what it has, and takes one frame at a time.

A token waits at every stage for this code, so frames are taken where their bytes arrive, without a
task that would first have to be woken.
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
"Frames that need no time, such as those of positions that are done, before others have a turn."


class HopReceiver(ABC):
    """The receiving end of an edge: at most one stream at a time feeds it, from `prev` only."""

    def __init__(self, prev: PeerId, *, max_tail_bytes: int) -> None:
        self.prev = prev
        self.have = 0
        "Positions done."
        self._max_bytes = MAX_HEADER_BYTES + min(max_tail_bytes, MAX_TAIL_BYTES)
        self._stream: Stream | None = None
        self._busy = False
        self._idle = asyncio.Event()
        "For who waits until it is not busy."
        self._over: asyncio.Future[None] | None = None

    @abstractmethod
    def receive(self, frame: Frame) -> bool:
        """Take a frame; False when it needs time, at whose end `received` is called.

        Raises:
            AitorrentError: it breaks the rules, or cannot be taken; the stream is reset.
        """

    @abstractmethod
    def broke(self, error: AitorrentError) -> None:
        """The stream was ended because of this error; the session cannot go on."""

    def received(self, error: AitorrentError | None = None) -> None:
        """The frame that needed time is done, or failed: on with the next.

        Call it also before a bug's exception goes on to whoever logs it: others wait.
        """
        self._busy = False
        self._idle.set()
        if error is not None:
            self._fail(error)
        else:
            self._go_on(self._stream)

    async def run(self, stream: Stream) -> None:
        """Answer a hop and take its frames until the stream ends or a newer one comes."""
        self.detach("replaced by another hop for this session")
        self._stream = stream
        try:
            while self._stream is stream and self._busy:
                self._idle.clear()
                await self._idle.wait()  # the frame that is being computed comes first
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
        """Take what is there, one frame at a time, and be called again for what comes later."""
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
        """End the stream that feeds this receiver, if there is one."""
        stream = self._leave()
        if stream is not None:
            stream.reset(reason)
