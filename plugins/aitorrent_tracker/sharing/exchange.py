"""Exchanges changes of swarms with other trackers through Redis.

While Redis cannot be reached, the tracker serves what it has; afterwards it reads what the others
wrote, and writes what it knows, in case Redis lost it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from itertools import islice
from typing import Any, Final

from redis import asyncio as aioredis
from redis.exceptions import RedisError

from aitorrent_tracker.sharing.changes import (
    CHANNEL,
    COMPLETED_KEY,
    ORIGIN_BYTES,
    PEERS_PREFIX,
    SCRIPT,
    Batch,
    Change,
    Kind,
    hash_of,
    peers_key,
    read_message,
    read_value,
)
from aitorrent_tracker.sharing.shared import SharedStorage
from aitorrentd.api.backoff import equal_jitter_s

EVERY_S: Final = 0.25
"Changes are collected this long."
DEADLINE_S: Final = 10.0
"For each answer of Redis."
MAX_WAIT_S: Final = 15.0
"Between two attempts to reach Redis."
IN_PIPELINE: Final = 200
"Swarms that are read or written at a time."


class RedisExchange:
    """One tracker's connection to Redis; run `keep` as a task.

    `url` has no password in it; `place` is the part of it that may be shown.
    """

    def __init__(
        self,
        url: str,
        password: str | None,
        storage: SharedStorage,
        clock: Callable[[], float],
        draw: Callable[[], float],
        log: logging.Logger,
        *,
        max_counters: int,
    ) -> None:
        self.problem = ""
        "Why Redis cannot be used now; empty if it can."
        self.is_connected = False
        self._url = url
        self._password = password
        self._storage = storage
        self._clock = clock
        self._draw = draw
        self._log = log
        self._max_counters = max_counters
        self._origin = os.urandom(ORIGIN_BYTES)
        self._script = ""

    async def keep(self) -> None:
        """Exchange changes until cancelled; those that wait are written then."""
        attempt = 0
        while True:
            try:
                await self._connected()
            except (RedisError, OSError, TimeoutError) as e:
                # Long after it worked, the first attempts are quick again.
                attempt = 0 if self.is_connected else attempt + 1
                self.is_connected = False
                self._tell(str(e) or type(e).__name__)
            await asyncio.sleep(equal_jitter_s(attempt, cap_s=MAX_WAIT_S, draw=self._draw()))

    def _tell(self, reason: str) -> None:
        if not self.problem:
            self._log.warning("cannot use Redis at %s: %s", self._url, reason)
        self.problem = (
            f"swarms are not shared: cannot use Redis at {self._url}: {reason}; check that it"
            " runs, and plugins.tracker.storage"
        )

    async def _connected(self) -> None:
        client: Any = aioredis.Redis.from_url(
            self._url,
            password=self._password,
            socket_timeout=DEADLINE_S,
            socket_connect_timeout=DEADLINE_S,
        )
        pubsub = client.pubsub(ignore_subscribe_messages=True)
        try:
            seconds, micros = await client.time()
            self._storage.offset_s = seconds + micros / 1e6 - self._clock()
            self._script = str(await client.script_load(SCRIPT.decode()))
            # What others publish from here on waits until the rest was read.
            await pubsub.subscribe(CHANNEL.decode())
            await self._write(client, self._storage.take())
            await self._read_all(client)
            await self._write(client, self._storage.everything())
            if self.problem:
                self._log.info("swarms are shared through Redis again")
            self.problem = ""
            self.is_connected = True
            await self._exchange(client, pubsub)
        finally:
            with suppress(RedisError, OSError, TimeoutError):
                if self.is_connected and len(self._storage):
                    await asyncio.wait_for(self._write(client, self._storage.take()), 2.0)
            with suppress(RedisError, OSError):
                await pubsub.aclose()
                await client.aclose()

    async def _exchange(self, client: Any, pubsub: Any) -> None:
        due = time.monotonic() + EVERY_S
        while True:
            message = await pubsub.get_message(timeout=max(0.0, due - time.monotonic()))
            if message is not None:
                self._hear(message["data"])
            if time.monotonic() >= due:
                await self._write(client, self._storage.take())
                due = time.monotonic() + EVERY_S

    def _hear(self, raw: object) -> None:
        message = read_message(raw) if isinstance(raw, bytes) else None
        if message is not None and message.origin != self._origin:
            self._storage.hear(message, self._clock())

    async def _write(self, client: Any, batches: Iterable[Batch]) -> None:
        """Write batches, and note how many downloads were completed by all accounts."""
        todo = iter(batches)
        ttl_s = int(self._storage.memory.ttl_s) + 60
        while some := list(islice(todo, IN_PIPELINE)):
            pipeline = client.pipeline(transaction=False)
            for batch in some:
                words = batch.arguments(self._origin, ttl_s, self._max_counters)
                pipeline.evalsha(self._script, 2, batch.key, COMPLETED_KEY, *words)
            try:
                counts = await pipeline.execute()
            except BaseException:
                for batch in some:
                    self._storage.give_back(batch)
                raise
            for batch, count in zip(some, counts, strict=True):
                self._storage.memory.set_completed(batch.info_hash, int(count))

    async def _read_all(self, client: Any) -> None:
        """Learn the peers and counters that Redis has."""
        cursor = 0
        while True:
            cursor, pairs = await client.hscan(COMPLETED_KEY, cursor, count=1000)
            for info_hash, count in pairs.items():
                known = self._storage.counts(info_hash).completed
                self._storage.memory.set_completed(info_hash, max(known, int(count)))
            if not cursor:
                break
        while True:
            cursor, keys = await client.scan(cursor, match=PEERS_PREFIX + b"*", count=1000)
            hashes = [info_hash for key in keys if (info_hash := hash_of(key))]
            for at in range(0, len(hashes), IN_PIPELINE):
                await self._read(client, hashes[at : at + IN_PIPELINE])
            if not cursor:
                break

    async def _read(self, client: Any, hashes: list[bytes]) -> None:
        pipeline = client.pipeline(transaction=False)
        for info_hash in hashes:
            pipeline.hgetall(peers_key(info_hash))
        now = self._clock()
        for info_hash, peers in zip(hashes, await pipeline.execute(), strict=True):
            for entry, raw in peers.items():
                value = read_value(raw)
                if value is not None and len(entry) in (6, 18):
                    self._storage.learn(info_hash, entry, Change(Kind.SEEN, value), now)
