"""Where the last stage's answers arrive at the coordinator."""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from aitorrent_shards.hops.receiver import HopReceiver
from aitorrent_shards.protocol.messages import MAX_CHUNK, Candidates, layers_us, parse_candidates
from aitorrentd.api import AitorrentError, Frame, PeerId, ProtocolError

_KEPT: Final = 512


class AnswerSink(HopReceiver):
    """Takes the last stage's candidates; `have` is the number of positions already decided."""

    def __init__(
        self, prev: PeerId, vocab: int, on_answer: Callable[[], None], on_bad: Callable[[str], None]
    ) -> None:
        super().__init__(prev, max_tail_bytes=8 * min(vocab, MAX_CHUNK))
        self.answer: Candidates | None = None
        self.expected = 0
        self._vocab, self._on_answer, self._on_bad = vocab, on_answer, on_bad
        self._asked_ns = 0
        self.latest_us: int | None = None
        "As `beside_layers_us`, of the latest token; None for a prompt's."
        self._beside_us: deque[int] = deque(maxlen=_KEPT)

    def expect(self, length: int) -> None:
        """Wait for the answer after `length` positions; it may arrive before this call."""
        if self.expected != length:
            self.expected, self.answer, self.latest_us = length, None, None
            self._asked_ns = time.perf_counter_ns()

    def beside_layers_us(self) -> float:
        """Median time of a token around the ring, without the time in the layers."""
        return statistics.median(self._beside_us) if self._beside_us else 0.0

    def receive(self, frame: Frame) -> bool:
        """Keep the expected answer; earlier ones may be repeated after a replacement."""
        answer = parse_candidates(frame.header, frame.tail, vocab=self._vocab)
        if answer.length > self.expected:
            raise ProtocolError(f"an answer for {answer.length} of {self.expected} positions")
        if answer.length == self.expected and self.answer is None:
            self.answer = answer
            if frame.header.get("n") == 1:
                around_us = (time.perf_counter_ns() - self._asked_ns) // 1000
                self.latest_us = around_us - layers_us(frame.header)
                self._beside_us.append(self.latest_us)
            self._on_answer()
        return True

    def broke(self, error: AitorrentError) -> None:
        """The last stage sent invalid data."""
        self._on_bad(error.message)
