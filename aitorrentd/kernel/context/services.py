"""Which plugin currently provides which service."""

from __future__ import annotations

from typing import Any, TypeVar, cast

from aitorrentd.api.services import ServiceKey
from aitorrentd.errors import Conflict, InvalidParams, Unavailable

T = TypeVar("T")


class Services:
    """The services of one node by key name."""

    def __init__(self) -> None:
        self._provided: dict[str, tuple[str, Any]] = {}

    def provide(self, owner: str, key: ServiceKey[T], service: T) -> None:
        """Register `service` under `key` for plugin `owner`.

        Raises:
            Conflict: the key is taken. InvalidParams: the service is None.
        """
        if service is None:
            raise InvalidParams(f"plugin {owner} provides None as {key.name}")
        if (taken := self._provided.get(key.name)) is not None:
            raise Conflict(f"{key.name} is already provided by plugin {taken[0]}", key=key.name)
        self._provided[key.name] = (owner, service)

    def withdraw(self, owner: str) -> tuple[str, ...]:
        """Withdraw everything that `owner` provides; returns the names of the keys."""
        names = tuple(name for name, (who, _) in self._provided.items() if who == owner)
        for name in names:
            del self._provided[name]
        return names

    def provider(self, key_name: str) -> str | None:
        """The plugin that currently provides `key_name`."""
        entry = self._provided.get(key_name)
        return entry[0] if entry else None

    def optional(self, key: ServiceKey[T]) -> T | None:
        """The service, or None."""
        entry = self._provided.get(key.name)
        return cast("T", entry[1]) if entry else None

    def service(self, key: ServiceKey[T]) -> T:
        """The service.

        Raises:
            Unavailable: no plugin provides it now.
        """
        entry = self._provided.get(key.name)
        if entry is None:
            raise Unavailable(
                f"no running plugin provides {key.name}; `aitorrentctl plugin list` says why",
                service=key.name,
            )
        return cast("T", entry[1])
