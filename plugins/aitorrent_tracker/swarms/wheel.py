"""A time wheel: keys, each due at one tick. Varghese and Lauck (1987), scheme 4."""

from __future__ import annotations

from collections.abc import Iterator


class Wheel:
    """A key is in one slot at most. Ticks further away than the wheel is long come due early."""

    def __init__(self, slots: int, tick: int) -> None:
        self._slots: list[set[bytes]] = [set() for _ in range(slots)]
        self._tick = tick
        "The last tick whose slot was emptied."

    def __len__(self) -> int:
        return sum(map(len, self._slots))

    def add(self, key: bytes, tick: int) -> None:
        """Make `key` due at `tick`, or at the next one if that is over. It must not be in yet."""
        ahead = min(max(tick - self._tick, 1), len(self._slots) - 1)
        self._slots[(self._tick + ahead) % len(self._slots)].add(key)

    def due(self, tick: int) -> Iterator[bytes]:
        """Turn the wheel to `tick` and yield the keys that became due; they are no longer in."""
        # After a long pause, one whole turn empties every slot.
        for passed in range(max(self._tick + 1, tick - len(self._slots) + 1), tick + 1):
            slot = passed % len(self._slots)
            keys, self._slots[slot] = self._slots[slot], set()
            self._tick = passed
            yield from keys
