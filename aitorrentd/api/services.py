"""Services: how plugins offer and find capabilities without importing each other.

The Protocol of a service lives in `aitorrentd.api`; its key carries the version: `transport.v1`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

from aitorrentd.errors import Conflict, NotFound

T = TypeVar("T")


class ServiceKey(Generic[T]):
    """The typed name of a service; two keys with one name are the same key.

    `since` is the version of aitorrentd, or of the plugin, that first provided the service.
    """

    __slots__ = ("name", "since")

    def __init__(self, name: str, *, since: str = "0.1.0") -> None:
        self.name = name
        self.since = since

    def __repr__(self) -> str:
        return f"ServiceKey({self.name!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ServiceKey) and other.name == self.name

    def __hash__(self) -> int:
        return hash(self.name)


class Registry(Generic[T]):
    """A service with many named entries; each lives as long as the `with` block that added it."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, T] = {}

    @contextmanager
    def added(self, name: str, entry: T) -> Iterator[None]:
        """Keep `entry` under `name` while the block runs.

        Raises:
            Conflict: the name is taken.
        """
        if name in self._entries:
            raise Conflict(f"{self.kind} {name!r} is already registered")
        self._entries[name] = entry
        try:
            yield
        finally:
            del self._entries[name]

    def get(self, name: str) -> T:
        """The entry called `name`.

        Raises:
            NotFound: no such entry; the message lists the registered names.
        """
        if name not in self._entries:
            known = ", ".join(sorted(self._entries)) or "none"
            raise NotFound(f"no {self.kind} {name!r}; known {self.kind}s: {known}")
        return self._entries[name]

    def names(self) -> list[str]:
        """Names in order of registration."""
        return list(self._entries)

    def __iter__(self) -> Iterator[T]:
        return iter(list(self._entries.values()))

    def __len__(self) -> int:
        return len(self._entries)
