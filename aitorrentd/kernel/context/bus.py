"""The event bus: delivers events to subscribers.

The publisher never waits. Each subscription has a bounded queue. One that overflows drops later
events, delivers those queued, then one `Lagged` with the number of lost events, and ends.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, Generic, TypeVar

from aitorrentd.api.events import Event, Lagged
from aitorrentd.errors import InvalidParams

E = TypeVar("E", bound=Event)

MAX_QUEUED: Final = 65_536


class Subscription(Generic[E]):
    """An async iterator over the events of one subscriber."""

    def __init__(self, kinds: tuple[type[Event], ...], max_queued: int) -> None:
        self._kinds = kinds
        self._max_queued = max_queued
        self._queue: deque[Event] = deque()
        self._filled = asyncio.Event()
        self._ended = False
        self.dropped = 0
        "Events lost so far."

    def offer(self, event: Event) -> None:
        """Queue `event` if it is of a wanted kind."""
        if self._ended or not isinstance(event, self._kinds):
            return
        if self.dropped or len(self._queue) >= self._max_queued:
            self.dropped += 1
        else:
            self._queue.append(event)
        self._filled.set()

    def end(self) -> None:
        """Deliver nothing more; a waiting reader stops at once."""
        self._ended = True
        self._queue.clear()
        self._filled.set()

    def __aiter__(self) -> Subscription[E]:
        return self

    async def __anext__(self) -> E | Event:
        while not self._queue:
            if self._ended:
                raise StopAsyncIteration
            if self.dropped:
                self._ended = True
                return Lagged(self.dropped)
            self._filled.clear()
            await self._filled.wait()
        return self._queue.popleft()


class EventBus:
    """Publish and subscribe within one node, on its event loop's thread."""

    def __init__(self) -> None:
        # a dict keeps the order of subscription and removes in constant time
        self._subscriptions: dict[Subscription[Any], None] = {}
        self.published = 0

    def publish(self, event: Event) -> None:
        """Deliver to every subscriber of the event's kind; never waits.

        Raises:
            InvalidParams: not an Event.
        """
        if not isinstance(event, Event):
            raise InvalidParams(f"only events can be published, not {type(event).__name__}")
        self.published += 1
        for subscription in self._subscriptions:
            subscription.offer(event)

    @contextmanager
    def subscribe(self, *kinds: type[E], max_queued: int = 1024) -> Iterator[Subscription[E]]:
        """Events of these kinds (and of derived kinds) while the block runs.

        Raises:
            InvalidParams: no kinds, not event classes, or `max_queued` outside 1 to 65,536.
        """
        if not kinds or not all(isinstance(k, type) and issubclass(k, Event) for k in kinds):
            raise InvalidParams("subscribe to one or more event classes, such as PeerConnected")
        if not 1 <= max_queued <= MAX_QUEUED:
            raise InvalidParams(f"max_queued is {max_queued}; it must be 1 to {MAX_QUEUED:,}")
        subscription: Subscription[E] = Subscription(kinds, max_queued)
        self._subscriptions[subscription] = None
        try:
            yield subscription
        finally:
            self._subscriptions.pop(subscription, None)
            subscription.end()

    def statistics(self) -> dict[str, int]:
        """Counts of subscriptions, queued, dropped and published events."""
        return {
            "subscriptions": len(self._subscriptions),
            "queued": sum(len(s._queue) for s in self._subscriptions),
            "dropped": sum(s.dropped for s in self._subscriptions),
            "published": self.published,
        }
