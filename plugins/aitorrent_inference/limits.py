"""How many answers run at one time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from aitorrentd.api import Busy


class Slots:
    """A counter with a ceiling. Nobody queues: what does not fit is refused at once."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Hold one slot while the block runs.

        Raises:
            Busy: all are taken. Its text is part of the peer protocol.
        """
        if self.used >= self.limit:
            raise Busy("Too many requests", limit=self.limit)
        self.used += 1
        try:
            yield
        finally:
            self.used -= 1
