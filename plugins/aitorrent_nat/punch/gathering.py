"""What one end brings to a session: a TCP port, an ICE agent, a socket for guesses; and its terms.

Everything is asked at the same time, and nothing is waited for longer than GATHER_S: an end without
a mirror still brings UDP, one without STUN still brings TCP.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections.abc import Coroutine, Sequence
from dataclasses import replace
from typing import Any, Final

from aitorrent_nat.punch.birthday import udp_socket
from aitorrent_nat.punch.candidates import Candidate, Kind, canonical, is_local_host
from aitorrent_nat.punch.messages import KEY_BYTES, Terms
from aitorrent_nat.punch.observing import observe
from aitorrent_nat.punch.paths.ice import Agent
from aitorrent_nat.punch.plan import Leg
from aitorrent_nat.punch.sighting import Sighting
from aitorrent_nat.punch.surroundings import Surroundings
from aitorrent_nat.punch.tcp import Punch
from aitorrentd.api import AitorrentError, PeerId
from aitorrentd.api.tasks import Tasks

GATHER_S: Final = 2.0


class Gathered:
    """Sockets and addresses of one session; close it after use."""

    def __init__(self, agent: Agent) -> None:
        self.agent = agent
        self.punch: Punch | None = None
        self.many: socket.socket | None = None
        self.problems: dict[Leg, str] = {}
        "Why this end cannot take part in a leg."
        self.public: frozenset[str] = frozenset()
        "Hosts as which others see this node."
        self.terms: Terms
        "What to tell the peer at first."
        self.local: tuple[Candidate, ...] = ()
        "What to tell it once it turns out to have the same public address."

    def reveal_local(self) -> tuple[Candidate, ...]:
        """Add the addresses of the local network to the terms, and return them."""
        candidates = self.terms.candidates + self.local
        self.terms = replace(self.terms, candidates=candidates)
        return self.local

    async def close(self) -> None:
        """Release the sockets."""
        if self.punch is not None:
            self.punch.close()
        if self.many is not None:
            self.many.close()
        await self.agent.close()


async def gather(around: Surroundings, peer: PeerId, tasks: Tasks, *, may_guess: bool) -> Gathered:
    """Ask mirrors, STUN servers and witnesses; `may_guess` offers a birthday punch."""
    controlling = around.node_id < peer
    gathered = Gathered(Agent(tasks, controlling=controlling, turn=around.turn()))
    tcp: list[Candidate] = []
    udp: list[Candidate] = []
    many: list[Candidate] = []
    seen: list[Sighting] = []
    hosts = [host for host in around.local_hosts() if is_local_host(host)]

    async def gather_tcp() -> None:
        gathered.punch = await Punch.prepare(around.mirrors(peer))
        tcp.extend(gathered.punch.candidates(hosts))

    async def gather_udp() -> None:
        udp.extend(await gathered.agent.gather(around.stun_servers()))

    async def gather_many() -> None:
        if not may_guess or not around.birthday or not around.nat().may_need_guesses:
            return
        gathered.many = udp_socket()
        place = await observe(gathered.many, around.stun_servers())
        many.append(Candidate(Kind.MANY, *place))

    async def gather_seen() -> None:
        seen.extend(await around.sightings(peer))

    async def within(leg: Leg | None, work: Coroutine[Any, Any, None]) -> None:
        problem = ""
        try:
            async with asyncio.timeout(GATHER_S):
                await work
        except TimeoutError:
            problem = f"nothing answered within {GATHER_S:g} s"
        except AitorrentError as e:
            problem = e.message
        except OSError as e:
            problem = e.strerror or str(e)
        if problem and leg is not None:
            gathered.problems[leg] = problem

    try:
        # Not `asyncio.gather`: cancelled, it would end before what it started.
        async with asyncio.TaskGroup() as group:
            group.create_task(within(Leg.TCP, gather_tcp()))
            group.create_task(within(Leg.UDP, gather_udp()))
            group.create_task(within(Leg.BIRTHDAY, gather_many()))
            group.create_task(within(None, gather_seen()))
    except BaseException:
        await gathered.close()
        raise
    tcp, udp, many = usable(tcp), usable(udp), usable(many)
    gathered.public = frozenset(each.host for each in seen) | frozenset(
        each.host for each in (*tcp, *udp) if each.kind in (Kind.TCP, Kind.UDP)
    )
    listening = [Candidate(Kind.LISTEN, *place) for place in around.listening()]
    found = [*listening, *tcp, *udp, *many]
    # Addresses of the local network tell strangers nothing they need.
    private = [each for each in found if _is_private(each, gathered.public)]
    gathered.local = tuple(private)
    gathered.terms = Terms(
        nat=around.nat(),
        candidates=tuple(each for each in found if each not in private),
        user=gathered.agent.user,
        password=gathered.agent.password,
        key=secrets.token_bytes(KEY_BYTES),
        sightings=tuple(seen),
    )
    return gathered


def usable(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Those that a peer accepts: a mirror or a STUN server that lies must not end the session."""
    return [each for each in candidates if _is_unicast(each.host) and 0 < each.port < 65_536]


def _is_unicast(host: str) -> bool:
    try:
        return canonical(host) == host
    except ValueError:
        return False


def _is_private(candidate: Candidate, public: frozenset[str]) -> bool:
    if candidate.kind not in (Kind.TCP_HOST, Kind.UDP_HOST):
        return False
    return candidate.host not in public


def offered(candidates: Sequence[Candidate]) -> frozenset[Kind]:
    """The kinds among `candidates`."""
    return frozenset(each.kind for each in candidates)
