"""The STUN servers that the operator configured: asked in each round, and trusted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from aitorrent_nat.networks import Place
from aitorrent_nat.stun.behaviour import UNKNOWN, Behaviour, Filtering, Observation
from aitorrent_nat.stun.classifying import classify
from aitorrent_nat.stun.legacy import classify_legacy
from aitorrent_nat.stun.sockets import local_host
from aitorrentd.api import AitorrentError, HealthWarning, PluginContext
from aitorrentd.api.network.addresses import host_port
from aitorrentd.api.network.resolver import Resolver


class Servers:
    """Configured servers, and what is wrong with them."""

    def __init__(self, ctx: PluginContext, servers: Sequence[Place]) -> None:
        self.places = servers
        "Those that are configured: host name or IP address, and port."
        self.problems: dict[Place, str] = {}
        "Why a configured server was of no use last time."
        self.observed: tuple[Observation, ...] = ()
        "Where the servers saw this node last time."
        self._ctx = ctx
        self._resolver = Resolver()

    async def classify(
        self, host_for: Callable[[str], str], servers: Sequence[Place] | None = None
    ) -> Behaviour:
        """Behaviour as the configured servers see it, or `servers` if given.

        `host_for` returns the own address from which to ask a server.

        Raises:
            OSError: no socket can be had.
        """
        wanted = self.places if servers is None else servers
        places, problems = await self._resolved(wanted)
        observed: list[Observation] = []
        found = UNKNOWN
        for version in (4, 6):
            asked = [place for place in places if (":" in place[0]) == (version == 6)]
            behaviour, seen, wrong = await self._classify(asked, host_for)
            found = merged(found, behaviour)
            observed += seen
            problems |= {places[place]: text for place, text in wrong.items() if place in places}
        for place, text in problems.items():
            if place not in self.problems:
                self._ctx.log.warning("STUN server %s is of no use: %s", host_port(*place), text)
        self.problems, self.observed = problems, tuple(observed)
        return found

    async def _resolved(
        self, servers: Sequence[Place]
    ) -> tuple[dict[Place, Place], dict[Place, str]]:
        """The first address of each server, with the place that was configured; and problems."""
        places: dict[Place, Place] = {}
        problems: dict[Place, str] = {}

        async def resolve(place: Place) -> None:
            host, port = place
            try:
                _, ip = (await self._resolver.resolve(host))[0]
            except (OSError, AitorrentError) as e:
                problems[place] = str(e) if host in str(e) else f"{host} does not resolve: {e}"
            else:
                places[ip, port] = place

        await asyncio.gather(*map(resolve, dict.fromkeys(servers)))
        return places, problems

    async def _classify(
        self, places: Sequence[Place], host_for: Callable[[str], str]
    ) -> tuple[Behaviour, tuple[Observation, ...], dict[Place, str]]:
        if not places:
            return UNKNOWN, (), {}
        try:
            own = frozenset((local_host(places[0]),))
        except OSError as e:
            return (
                UNKNOWN,
                (),
                {
                    place: f"this node has no route to {host_port(*place)}: {e.strerror}"
                    for place in places
                },
            )
        behaviour, asked = await classify(places, own, host_for(places[0][0]))
        problems = dict(asked.problems)
        old = [place for place in (*asked.legacy, *asked.problems) if ":" not in place[0]]
        if not behaviour.is_known or behaviour.filtering is Filtering.UNKNOWN:
            for place, found in zip(old, await asyncio.gather(*map(_legacy, old)), strict=True):
                if found.external:
                    behaviour = merged(behaviour, found)
                    problems.pop(place, None)
        return behaviour, asked.observed, problems

    def warnings(self, external: str) -> Iterable[HealthWarning]:
        """Servers that are silent, send garbage, or disagree with everybody else."""
        for place, text in self.problems.items():
            yield HealthWarning(
                "stun", f"STUN server {host_port(*place)} is of no use: {text}; asked again later"
            )
        for server, mapped in self.observed:
            if external and mapped[0] != external:
                text = (
                    f"STUN server {host_port(*server)} sees this node at {mapped[0]}, others at"
                    f" {external}; remove it from plugins.nat.stun unless this node has both"
                )
                yield HealthWarning("stun_disagrees", text)


async def _legacy(place: Place) -> Behaviour:
    try:
        return await classify_legacy(place)
    except AitorrentError:
        return UNKNOWN  # what is wrong with it was said in the terms of the later standards


def merged(first: Behaviour, second: Behaviour) -> Behaviour:
    """What `first` knows, completed by `second`."""
    if not first.is_known:
        first, second = second, first
    return replace(
        first,
        filtering=second.filtering if first.filtering is Filtering.UNKNOWN else first.filtering,
        external=first.external or second.external,
        keeps_ports=second.keeps_ports if first.keeps_ports is None else first.keeps_ports,
        hairpins=second.hairpins if first.hairpins is None else first.hairpins,
        lifetime_s=second.lifetime_s if first.lifetime_s is None else first.lifetime_s,
    )
