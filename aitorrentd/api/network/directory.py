"""The directory: records that nodes publish under keys, and how to find them.

Callers use one `DIRECTORY`. Behind it are sources that follow the same Protocol: one passes records
to connected peers, another may look them up in the whole network. A plugin adds its own while it
runs:

    with ctx.service(DIRECTORY_SOURCES).added("dht", lookup):
        yield
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol, runtime_checkable

from aitorrentd.api.ids import PeerId
from aitorrentd.api.services import Registry, ServiceKey
from aitorrentd.errors import AitorrentError

MAX_ADDRESSES: Final = 16
"Addresses kept of one record."


@dataclass(frozen=True, slots=True)
class Record:
    """One node's value under a directory key."""

    key: str
    peer: PeerId
    value: Mapping[str, Any]
    addresses: tuple[str, ...] = ()
    "Addresses where the peer can be dialled."


class Directory(Protocol):
    """Who offers what: records under keys such as `ait:cap:<model>` and `ait:shard:<digest>`.

    Provided by the transport plugin, which merges its sources. Values are untrusted: validate them.
    """

    def publish(self, key: str, value: Mapping[str, Any]) -> None:
        """Publish `value` (at most 4 KiB packed) under `key`; replaces this node's earlier
        record."""

    def withdraw(self, key: str) -> None:
        """Withdraw this node's record under `key`."""

    def known(self, prefix: str) -> Sequence[Record]:
        """Locally known records whose key starts with `prefix`, this node's own included."""

    async def find(self, key: str, *, timeout_s: float = 5.0) -> Sequence[Record]:
        """Records under exactly `key`, this node's own included; queries the network if needed."""


@runtime_checkable
class HearsPeers(Protocol):
    """An optional addition to a source: it takes each record from the node that published it."""

    def has_all_of(self, peer: PeerId) -> bool:
        """Whether it holds every current record of `peer`."""

    def is_gone(self, peer: PeerId) -> bool:
        """Whether `peer` disconnected or could not be reached, and was not reached again."""


DIRECTORY: Final = ServiceKey[Directory]("directory.v1")
"The one directory that plugins query and publish in."
DIRECTORY_SOURCES: Final = ServiceKey[Registry[Directory]]("directory.sources.v1")
"Directories behind `DIRECTORY`, to which plugins add their own."


class MergedDirectory:
    """One directory made of several: lookups query every source, and changes go to every source.

    A node has one record per key. Where sources disagree, the source added first wins; the
    addresses from all sources are merged. What other sources say of a peer can be out of date: it
    counts neither against a source that hears that peer (`HearsPeers`), nor as known once the peer
    is gone. `find` still returns the records of a gone peer, which may be back.
    """

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._published: dict[str, Mapping[str, Any]] = {}
        self.sources = _Sources(self._published)
        "The service that `DIRECTORY_SOURCES` names."

    def publish(self, key: str, value: Mapping[str, Any]) -> None:
        """Publish `value` under `key` in every source, including those added later."""
        for source in self.sources:
            source.publish(key, value)
        self._published[key] = dict(value)

    def withdraw(self, key: str) -> None:
        """Withdraw this node's record under `key`."""
        self._published.pop(key, None)
        for source in self.sources:
            source.withdraw(key)

    def known(self, prefix: str) -> Sequence[Record]:
        """Records that any source already knows and whose key starts with `prefix`."""
        answers = [(source, source.known(prefix)) for source in self.sources]
        return _merged(_current(answers, with_gone=False))

    async def find(self, key: str, *, timeout_s: float = 5.0) -> Sequence[Record]:
        """Records under exactly `key` from any source; all are queried concurrently.

        A source that fails or takes longer than `timeout_s` contributes what it already knows.
        """
        sources = list(zip(self.sources.names(), self.sources, strict=True))
        asking = [self._ask(name, source, key, timeout_s) for name, source in sources]
        answers = await asyncio.gather(*asking)
        found = [(source, answer) for (_, source), answer in zip(sources, answers, strict=True)]
        return _merged(_current(found, with_gone=True))

    async def _ask(
        self, name: str, source: Directory, key: str, timeout_s: float
    ) -> Sequence[Record]:
        try:
            async with asyncio.timeout(timeout_s):
                return await source.find(key, timeout_s=timeout_s)
        except (AitorrentError, TimeoutError) as e:
            self._log.debug("directory source %s: %s", name, str(e) or "no answer in time")
            return [record for record in source.known(key) if record.key == key]


class _Sources(Registry[Directory]):
    """Directories by name; each one gets this node's records when it is added."""

    def __init__(self, published: Mapping[str, Mapping[str, Any]]) -> None:
        super().__init__("directory source")
        self._published = published

    @contextmanager
    def added(self, name: str, entry: Directory) -> Iterator[None]:
        """Query and update `entry` while the block runs."""
        with super().added(name, entry):
            for key, value in self._published.items():
                entry.publish(key, value)
            yield


def _current(
    answers: Sequence[tuple[Directory, Sequence[Record]]], *, with_gone: bool
) -> Sequence[Sequence[Record]]:
    """The answers without the records that a source that hears their peers contradicts."""
    hearing = [
        (source, {(record.peer, record.key) for record in answer})
        for source, answer in answers
        if isinstance(source, HearsPeers)
    ]

    def counts(record: Record) -> bool:
        return not any(
            (source.has_all_of(record.peer) and (record.peer, record.key) not in heard)
            or (not with_gone and source.is_gone(record.peer))
            for source, heard in hearing
        )

    return [[record for record in answer if counts(record)] for _, answer in answers]


def _merged(answers: Sequence[Sequence[Record]]) -> Sequence[Record]:
    if len(answers) == 1:
        return answers[0]
    found: dict[tuple[PeerId, str], Record] = {}
    for record in (record for answer in answers for record in answer):
        first = found.setdefault((record.peer, record.key), record)
        if first is not record:
            joined = tuple(dict.fromkeys((*first.addresses, *record.addresses)))
            found[record.peer, record.key] = replace(first, addresses=joined[:MAX_ADDRESSES])
    return list(found.values())
