"""Identities and handshakes for tests of links."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from aitorrent_transport.links.link import Link
from aitorrent_transport.secure.certificate import Credentials
from aitorrent_transport.secure.handshake import Handshake
from aitorrentd.runtime.identity import Identity


class KeySigner(Identity):
    """A node's identity with an in-memory key."""

    def __init__(self, seed: bytes | None = None) -> None:
        super().__init__(seed or secrets.token_bytes(32))


def make_credentials(
    network: str = "test",
    *,
    psk: bytes | None = None,
    clock: Callable[[], float] = time.time,
    signer: KeySigner | None = None,
) -> Credentials:
    return Credentials(signer or KeySigner(), network, "test/1", psk, clock)


def shake_hands(dialer: Handshake, listener: Handshake) -> list[bytes]:
    """Runs a whole handshake; returns the four flights."""
    flights = [dialer.start()]
    flights.append(listener.receive(flights[-1]))
    flights.append(dialer.receive(flights[-1]))
    flights.append(listener.receive(flights[-1]))
    assert dialer.receive(flights[-1]) == b""
    return flights


@dataclass
class Watch:
    """Starts a link and collects what it delivers."""

    link: Link
    echo: bool = False
    records: list[bytes] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.link.on_record = self._on_record
        self.link.on_lost = self._on_lost
        self.link.start()

    def _on_record(self, view: memoryview) -> None:
        self.records.append(bytes(view))
        if self.echo:
            self.link.send(view)
        self.changed.set()

    def _on_lost(self, reason: str) -> None:
        self.reasons.append(reason)
        self.changed.set()

    async def until(self, condition: Callable[[Watch], Any], timeout_s: float = 5.0) -> None:
        async with asyncio.timeout(timeout_s):
            while not condition(self):
                self.changed.clear()
                await self.changed.wait()

    async def lost(self) -> str:
        await self.until(lambda w: w.reasons)
        return self.reasons[0]


async def turns(n: int = 10) -> None:
    """Lets the event loop turn, so that whatever is ready to happen does."""
    for _ in range(n):
        await asyncio.sleep(0)


async def eventually(condition: Callable[[], Any], timeout_s: float = 10.0) -> None:
    """Polls for a condition that has no event."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
