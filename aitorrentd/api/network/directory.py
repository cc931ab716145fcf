"""The directory: records that nodes publish under keys, and how to find them.

A service of its own: whoever provides it may hand records to connected peers only, or look them up
in the whole network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from aitorrentd.api.ids import PeerId
from aitorrentd.api.services import ServiceKey


@dataclass(frozen=True, slots=True)
class Record:
    """What one node says under a directory key."""

    key: str
    peer: PeerId
    value: Mapping[str, Any]
    addresses: tuple[str, ...] = ()
    "Where the peer can be dialled."


class Directory(Protocol):
    """Who offers what: records under keys such as `ait:cap:<model>` and `ait:shard:<digest>`.

    Provided by the transport plugin, which hands records to peers over their channels. Values are
    from strangers: validate them.
    """

    def publish(self, key: str, value: Mapping[str, Any]) -> None:
        """Say `value` (at most 4 KiB packed) under `key`, replacing this node's earlier record."""

    def withdraw(self, key: str) -> None:
        """Stop saying anything under `key`."""

    def known(self, prefix: str) -> Sequence[Record]:
        """Records already here whose key starts with `prefix`, this node's own included."""

    async def find(self, key: str, *, timeout_s: float = 5.0) -> Sequence[Record]:
        """Records under exactly `key`, this node's own included, asking the network if need be."""


DIRECTORY: Final = ServiceKey[Directory]("directory.v1")
