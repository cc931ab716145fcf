"""PluginContext: all that a plugin gets from its node."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from pathlib import Path
from typing import Any, Protocol, TypeVar

import aiosqlite

from aitorrentd.api.events import Event
from aitorrentd.api.ids import PeerId
from aitorrentd.api.services import ServiceKey
from aitorrentd.api.workers import Worker

T = TypeVar("T")
E = TypeVar("E", bound=Event)


class Clock(Protocol):
    """Time, replaceable in tests."""

    def monotonic(self) -> float:
        """Seconds that never go back."""

    def time(self) -> float:
        """Seconds since the epoch."""


class Signer(Protocol):
    """The node's identity. It signs; the key never leaves it."""

    @property
    def peer_id(self) -> PeerId:
        """The node's public name."""

    @property
    def public_key(self) -> bytes:
        """Ed25519, 32 bytes."""

    def sign(self, domain: str, message: bytes) -> bytes:
        """Ed25519 signature (64 bytes) over the domain-separated message.

        `domain` names the use (`aitd/dhcert/1`), so that a signature for one can never serve
        another. Verify with `aitorrentd.api.verify`.
        """


class PluginContext(Protocol):
    """The narrow door between a plugin and its node. There is no way from here to the kernel."""

    @property
    def name(self) -> str:
        """The plugin's name, as in the configuration."""

    @property
    def config(self) -> Any:
        """The plugin's validated configuration: an instance of the model in its PluginInfo."""

    @property
    def log(self) -> logging.Logger:
        """`aitorrentd.<name>`; INFO is for changes of state."""

    @property
    def data_dir(self) -> Path:
        """The plugin's own directory for what must survive; made 0700 on first use."""

    @property
    def cache_dir(self) -> Path:
        """The plugin's own directory for what may be deleted; made 0700 on first use."""

    @property
    def runtime_dir(self) -> Path:
        """The plugin's own directory until the daemon stops; made 0700 on first use."""

    @property
    def identity(self) -> Signer:
        """Signs for the node."""

    @property
    def clock(self) -> Clock:
        """Time."""

    @property
    def random(self) -> random.Random:
        """A random source for jitter and choices, seedable in tests; never for keys."""

    @property
    def tasks(self) -> asyncio.TaskGroup:
        """The plugin's task group; a task that fails fails the plugin, which is then restarted."""

    @property
    def network(self) -> str:
        """The network id from `node.network`; nodes of different networks never talk."""

    @property
    def node_name(self) -> str:
        """The name that its operator gave this node, or the empty string."""

    def provide(self, key: ServiceKey[T], service: T) -> None:
        """Offer a service until the plugin stops; only keys in PluginInfo.provides are allowed."""

    def service(self, key: ServiceKey[T]) -> T:
        """A service of another plugin.

        Raises:
            Unavailable: nobody provides it now.
        """

    def optional(self, key: ServiceKey[T]) -> T | None:
        """A service of another plugin, or None."""

    def publish(self, event: Event) -> None:
        """Tell every subscriber; never waits."""

    def subscribe(
        self, *kinds: type[E], max_queued: int = 1024
    ) -> AbstractContextManager[AsyncIterator[E | Event]]:
        """Events of these kinds from now on.

        `with ctx.subscribe(PeerConnected) as events:` then `async for event in events:`.
        The subscription starts when the block is entered and ends with it, or after a final
        `Lagged`.
        """

    @property
    def draining(self) -> bool:
        """Whether the node takes no new work; a change is told by `Draining`."""

    def work(self, what: str) -> AbstractContextManager[None]:
        """Work that somebody waits for, as `with ctx.work("answer"):`; `what` in the singular.

        A node that drains, or stops in order, waits for it. Leave out work that is a part of other
        counted work.

        Raises:
            ShuttingDown: on entering the block, while the node is draining.
        """

    def protocols(self) -> Iterator[Any]:
        """Wire protocols that running plugins declare now; for the transport."""

    def decide(self, hook: str, **arguments: Any) -> Any:
        """The first opinion of the plugins' policy hooks, or None; a failing hook has none."""

    def db(
        self, migrations: Mapping[int, str]
    ) -> AbstractAsyncContextManager[aiosqlite.Connection]:
        """The plugin's own SQLite database (WAL), brought up by the numbered SQL scripts not yet
        applied."""

    async def spawn_worker(
        self, entry: str, *, name: str, env: Mapping[str, str] | None = None, sandbox: bool = False
    ) -> Worker:
        """Start a worker process whose entry point is `module:function`; it ends with the plugin.

        With `sandbox` it may run strangers' code: it lives 30 s, has 10 s of processor time and
        384 MiB, and when a limit ends it the error's `data["limit"]` says which. Under systemd it
        also has no files, no network and no rights; elsewhere it is limited, but not fenced in.
        """
