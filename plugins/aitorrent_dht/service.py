"""The DHT service: one node of the DHT on the event loop, fed by the transport's peers."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import Final

from aitorrent_dht.config import DhtConfig
from aitorrent_dht.core.contact import id_of
from aitorrent_dht.core.finding import Stored
from aitorrent_dht.core.node import DhtNode
from aitorrent_dht.core.record import (
    MAX_VALUE_BYTES,
    SIGNATURE_DOMAIN,
    DhtRecord,
    Kind,
    name_digest,
    value_key,
)
from aitorrent_dht.directory import DhtDirectory, place_of
from aitorrent_dht.net.endpoint import Endpoint
from aitorrent_dht.net.saved import (
    SavedFile,
    contacts_map,
    read_contacts,
    read_values,
    values_map,
)
from aitorrent_dht.net.shell import Shell
from aitorrent_dht.wire.codec import Codec
from aitorrent_dht.wire.gate import Gate
from aitorrent_dht.wire.messages import Family
from aitorrentd.api import (
    DIRECTORY,
    DIRECTORY_SOURCES,
    REACHABILITY,
    TRANSPORT,
    UDP_LISTENERS,
    DirectoryChanged,
    NetworkChanged,
    NotFound,
    PeerId,
    PluginContext,
    TooLarge,
    Unavailable,
    public_key,
    short,
    verify,
)
from aitorrentd.api.network.addresses import is_loopback
from aitorrentd.api.tasks import Tasks

CONTACT_KEY: Final = "ait:dht:contact"
"The directory record by which connected peers tell each other their UDP port."
WATCH_S: Final = 15.0
"Between two looks at what has no event: addresses, sockets, what is to be saved."
SAVE_S: Final = 300.0
FIRST_SAVE_S: Final = 30.0
"A node that is killed soon after its first start still finds back."
MAX_NAMES: Final = 128


@dataclass(frozen=True, slots=True)
class Value:
    """A value that a node published under a name."""

    record: DhtRecord
    stored: int = 0
    "Nodes that keep it."


class DhtService:
    """A node of the DHT and what ties it to this daemon; created by `running`."""

    def __init__(self, ctx: PluginContext, config: DhtConfig) -> None:
        self.config = config
        self._ctx = ctx
        self._tasks = Tasks(ctx.tasks)
        self._transport = ctx.service(TRANSPORT)
        self._directory = ctx.service(DIRECTORY)
        self._loop = asyncio.get_running_loop()
        self._network = self._transport.network_key("dht")
        identity = ctx.identity
        self.node = DhtNode(
            identity.public_key,
            random=random.SystemRandom(),
            sign=lambda record: identity.sign(SIGNATURE_DOMAIN, record.signed_part(self._network)),
            verify=self._is_signed,
            now=self.now(),
            epoch_s=ctx.clock.time(),
            families=Family(0),
            mode=config.mode,
        )
        codec = Codec(self._network, identity.sign, verify, identity.agree)
        self.shell = Shell(self.node, codec, self._tasks, now=self.now, draw=ctx.random.random)
        self.endpoint.on_bound = self._on_bound
        self.source = DhtDirectory(
            self.node,
            identity.peer_id,
            now=self.now,
            addresses=self._transport.addresses,
            search=lambda key: self.shell.search(key, id_of(key)),
            flush=self.shell.flush,
            log=ctx.log,
        )
        self.contacts_file = SavedFile(ctx.data_dir / "contacts", "contacts of the DHT")
        self.values_file = SavedFile(ctx.data_dir / "values", "values published in the DHT")
        self._names: dict[bytes, str] = {}
        "Names of this node's values, by key."
        self._saved_at = self.now() - SAVE_S + FIRST_SAVE_S
        self._saved_count = 0
        "Contacts in the file. Once there are twice as many, they are saved at the next look."
        self._told_port: int | None = None
        self._network_changed = asyncio.Event()

    @property
    def endpoint(self) -> Endpoint:
        """Its UDP sockets."""
        return self.shell.endpoint

    @property
    def gate(self) -> Gate:
        """What strangers' datagrams pass first."""
        return self.shell.gate

    def now(self) -> float:
        """Seconds of the node's monotonic clock."""
        return self._ctx.clock.monotonic()

    def _is_signed(self, record: DhtRecord) -> bool:
        part = record.signed_part(self._network)
        return verify(record.publisher, SIGNATURE_DOMAIN, part, record.signature)

    # Life

    async def start(self) -> None:
        """Bind, then find the way into the DHT by everything that is known."""
        now = self.now()
        saved = await asyncio.to_thread(self.contacts_file.load)
        for name, record in read_values(await asyncio.to_thread(self.values_file.load)):
            if record.publisher == self.node.state.key and self._is_signed(record):
                self._names[record.key] = name
                self.node.publishing.restore(record, now)
        await self._bind()
        self.node.start(now)
        places = [(c.host, c.port) for c in read_contacts(saved)]
        self._saved_count = len(places)
        self.node.add_places([*places, *self.config.places()], now)
        self.shell.flush()
        self._tasks.spawn(self._learn_from_peers(), "dht: contacts of peers")
        self._tasks.spawn(self._watch(), "dht: upkeep")
        self._tasks.spawn(self._follow_network(), "dht: the network")

    async def close(self) -> None:
        """Save, stop the timers and close the sockets."""
        self._directory.withdraw(CONTACT_KEY)
        await self._tasks.close()
        await self._save_contacts()
        self.shell.close()
        await asyncio.sleep(0)  # the loop closes sockets in its next iteration

    async def _bind(self) -> None:
        ports = [port for _, port in self._transport.bound]
        fixed = self.config.port
        await self.endpoint.bind(
            [(host, port if fixed is None else fixed) for host, port in self._transport.bound]
            if ports
            else []
        )

    def _on_bound(self) -> None:
        families = Family(0)
        for host in self.endpoint.bound:
            families |= Family.IP6 if ":" in host else Family.IP4
        self.node.state.use(families)

    def udp_ports(self) -> list[int]:
        """The ports of its sockets; see `aitorrentd.api.UdpListener`."""
        return sorted(set(self.endpoint.bound.values()))

    async def _watch(self) -> None:
        """Follow what has no event of its own."""
        bootstrap: list[str] = []
        while True:
            await self._bind()
            if not self.config.bootstrap:
                wanted = list(await self._transport.bootstrap_addresses())
                if wanted != bootstrap:
                    bootstrap = wanted
                    found = [place for text in wanted if (place := place_of(text))]
                    self.node.add_places(found, self.now())
            self._tell_port()
            now = self.now()
            state = self.node.state
            state.epoch_offset_s = self._ctx.clock.time() - now
            own = [place[0] for text in self._transport.addresses() if (place := place_of(text))]
            state.reachability.is_own([*own, *self.endpoint.bound])
            nat = self._ctx.optional(REACHABILITY)
            state.reachability.is_closed = nat is not None and nat.is_closed
            self.source.refresh()
            has_grown = len(self.node.state.table) > 2 * self._saved_count
            if has_grown or now - self._saved_at >= SAVE_S:
                await self._save_contacts()
            self._network_changed.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(WATCH_S):
                    await self._network_changed.wait()

    async def _follow_network(self) -> None:
        while True:
            with self._ctx.subscribe(NetworkChanged) as events:
                async for _ in events:
                    self._network_changed.set()

    def _tell_port(self) -> None:
        port = next(iter(self.endpoint.bound.values()), None)
        if port is not None and port != self._told_port:
            self._told_port = port
            self._directory.publish(CONTACT_KEY, {"v": 1, "port": port})

    async def _learn_from_peers(self) -> None:
        """Ask connected peers by UDP, at the addresses where they are reached."""
        while True:
            with self._ctx.subscribe(DirectoryChanged) as events:
                self._ask_peers(None)
                async for event in events:
                    if isinstance(event, DirectoryChanged) and event.key == CONTACT_KEY:
                        self._ask_peers(event.peer)

    def _ask_peers(self, peer: PeerId | None) -> None:
        for record in self._directory.known(CONTACT_KEY):
            port = record.value.get("port")
            if record.peer == self._transport.node_id or peer not in (None, record.peer):
                continue
            if type(port) is not int or not 0 < port < 65_536:
                continue
            hosts = {place[0]: None for text in record.addresses if (place := place_of(text))}
            view = self._transport.peer(record.peer)
            is_here = view is not None and is_loopback(view.host)
            places = [(host, port) for host in hosts if is_here or not is_loopback(host)]
            self.node.add_places(places, self.now())
        self.shell.flush()

    async def _save_contacts(self) -> None:
        self._saved_at = self.now()
        entries = sorted(self.node.state.table, key=lambda entry: -entry.seen_at)
        content = contacts_map([entry.contact for entry in entries])
        if not entries:
            return
        self._saved_count = len(entries)
        try:
            await asyncio.to_thread(self.contacts_file.save, content, durable=False)
        except OSError as e:
            self.contacts_file.problem = f"contacts cannot be saved: {e.strerror}"
            self._ctx.log.warning("%s", self.contacts_file.problem)

    # Values by name

    async def put(self, name: str, value: bytes, *, timeout_s: float) -> Value:
        """Publish `value` under `name`; it is published again until it is deleted.

        Raises:
            TooLarge: over 700 bytes, or more than 128 names. Unavailable: it cannot be saved.
        """
        if len(value) > MAX_VALUE_BYTES:
            raise TooLarge(f"the value has {len(value)} bytes; the limit is {MAX_VALUE_BYTES}")
        digest = name_digest(name)
        key = value_key(self.node.state.key, digest)
        if key not in self._names and len(self._names) >= MAX_NAMES:
            raise TooLarge(f"this node already publishes {MAX_NAMES} names; delete one")
        done: asyncio.Future[Stored] = self._loop.create_future()
        record = self.node.publishing.put(
            Kind.VALUE, key, value, self.now(), name=digest, on_stored=_once(done)
        )
        self._names[key] = name
        await self._save_values()
        self.shell.flush()
        return Value(record, await self._stored(done, timeout_s))

    async def delete(self, name: str, *, timeout_s: float) -> int:
        """Delete this node's value; returns how many nodes know of it.

        Raises:
            NotFound: this node publishes no such name. Unavailable: it cannot be saved.
        """
        key = value_key(self.node.state.key, name_digest(name))
        done: asyncio.Future[Stored] = self._loop.create_future()
        if not self.node.publishing.withdraw(key, self.now(), on_stored=_once(done)):
            raise NotFound(f"this node publishes no value named {name!r}")
        await self._save_values()
        self.shell.flush()
        return await self._stored(done, timeout_s)

    async def get(self, name: str, publisher: PeerId | None, *, timeout_s: float) -> Value:
        """The value that `publisher`, or this node, published under `name`.

        Raises:
            NotFound: nobody keeps such a value. TimedOut.
        """
        me = self._transport.node_id
        owner = public_key(publisher or me)
        key = value_key(owner, name_digest(name))
        own = {r.key: r for r in self.node.publishing.records() if not r.is_deleted}
        async with asyncio.timeout(timeout_s):
            found = await self.shell.search(key, id_of(key))
        records = [*found.records, *([own[key]] if key in own else [])]
        if not records:
            whose = f"of {short(publisher)}" if publisher and publisher != me else "of this node"
            raise NotFound(f"no published value {whose} named {name!r} was found")
        newest = max(records, key=lambda record: record.seq)
        return Value(newest, self.node.publishing.stored(key))

    async def _stored(self, done: asyncio.Future[Stored], timeout_s: float) -> int:
        try:
            async with asyncio.timeout(timeout_s):
                return (await done).count
        except TimeoutError:
            return 0

    async def _save_values(self) -> None:
        """Keep the values on disk before anybody is told that they are published.

        Raises:
            Unavailable: the disk is full or failing.
        """
        records = {record.key: record for record in self.node.publishing.records()}
        self._names = {key: name for key, name in self._names.items() if key in records}
        rows = [(name, records[key]) for key, name in self._names.items()]
        try:
            await asyncio.to_thread(self.values_file.save, values_map(rows), durable=True)
        except OSError as e:
            raise Unavailable(f"values cannot be saved: {e.strerror}; free some space") from None


def _once(done: asyncio.Future[Stored]) -> Callable[[Stored], None]:
    def stored(outcome: Stored) -> None:
        if not done.done():
            done.set_result(outcome)

    return stored


@asynccontextmanager
async def running(ctx: PluginContext) -> AsyncIterator[DhtService]:
    """Run the service, from binding to the last save."""
    service = DhtService(ctx, ctx.config)
    listeners = ctx.optional(UDP_LISTENERS)
    try:
        await service.start()
        with (
            ctx.service(DIRECTORY_SOURCES).added("dht", service.source),
            nullcontext() if listeners is None else listeners.added("dht", service),
        ):
            yield service
    finally:
        await service.close()
