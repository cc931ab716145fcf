"""Addresses and ports that cannot be had yet, and those that never can."""

from __future__ import annotations

import asyncio
import errno
import itertools

import pytest

from aitorrent_transport.links.binding import Binding
from aitorrent_transport.links.listener import CannotListen, Listener
from aitorrentd.api.tasks import Tasks
from tests.support.nodes import wait_for
from tests.support.transport.link_peers import make_credentials


class System(Listener):
    """Addresses and ports of a machine that changes."""

    def __init__(self) -> None:
        super().__init__(make_credentials(), lambda link: None)
        self.errors: dict[str, int] = {}
        self.taken: set[int] = set()
        self.taken_at: set[tuple[str, int]] = set()
        self.tries: list[tuple[str, int]] = []
        self._free = itertools.count(40_000)

    async def listen(self, host: str, port: int) -> tuple[str, int]:
        self.tries.append((host, port))
        if host in self.errors:
            raise CannotListen(host, port, OSError(self.errors[host], "no"))
        if port in self.taken or (host, port) in self.taken_at:
            raise CannotListen(host, port, OSError(errno.EADDRINUSE, "no"))
        return host, port or next(self._free)


def binding(system: System, group: asyncio.TaskGroup, *hosts: str) -> Binding:
    return Binding(system, hosts, Tasks(group), lambda: 0.0, first_wait_s=0.001)


async def test_address_that_comes_later_is_listened_on_then() -> None:
    system = System()
    system.errors["fd00:5::9"] = errno.EADDRNOTAVAIL
    async with asyncio.TaskGroup() as group:
        bound = binding(system, group, "192.0.2.1", "fd00:5::9")
        await bound.start(8468)
        assert bound.bound == [("192.0.2.1", 8468)]
        assert "fd00:5::9 is not an address of this machine" in bound.waiting["fd00:5::9"].message
        await wait_for(lambda: len(system.tries) >= 6)
        system.errors.clear()
        await wait_for(lambda: not bound.waiting)
    assert bound.bound == [("192.0.2.1", 8468), ("fd00:5::9", 8468)]


async def test_port_that_becomes_free_is_taken_then() -> None:
    system = System()
    system.taken = {8468}
    async with asyncio.TaskGroup() as group:
        bound = binding(system, group, "0.0.0.0")
        await bound.start(8468)
        assert "port 8468/tcp is taken" in bound.waiting["0.0.0.0"].message
        system.taken.clear()
        await wait_for(lambda: bound.bound == [("0.0.0.0", 8468)])


async def test_free_port_is_drawn_again_when_it_is_taken_at_another_address() -> None:
    system = System()
    async with asyncio.TaskGroup() as group:
        bound = binding(system, group, "0.0.0.0", "::")
        taken = next(system._free)
        system.taken_at = {("::", taken + 1)}
        await bound.start(0)
        assert bound.bound == [("0.0.0.0", taken + 2), ("::", taken + 2)]
        assert not bound.waiting


async def test_last_port_is_kept_while_an_address_is_missing_and_left_when_taken() -> None:
    system = System()
    system.errors["fd00:5::9"] = errno.EADDRNOTAVAIL
    async with asyncio.TaskGroup() as group:
        bound = binding(system, group, "fd00:5::9", "192.0.2.1")
        await bound.start(0, 5555)
        assert bound.bound == [("192.0.2.1", 5555)]
        system.errors.clear()
        await wait_for(lambda: len(bound.bound) == 2)
        assert bound.bound[1] == ("fd00:5::9", 5555)
    system.taken = {5555}
    async with asyncio.TaskGroup() as group:
        bound = binding(system, group, "fd00:5::9", "192.0.2.1")
        await bound.start(0, 5555)
    assert bound.bound == [("fd00:5::9", 40_000), ("192.0.2.1", 40_000)]


@pytest.mark.parametrize("code", [errno.EACCES, errno.EPERM])
async def test_missing_permission_fails_at_once(code: int) -> None:
    system = System()
    system.errors["0.0.0.0"] = code
    async with asyncio.TaskGroup() as group:
        with pytest.raises(CannotListen, match="no permission to listen on port 80/tcp"):
            await binding(system, group, "0.0.0.0").start(80)


async def test_machine_without_ipv6_listens_on_what_it_has() -> None:
    system = System()
    system.errors["::"] = errno.EAFNOSUPPORT
    async with asyncio.TaskGroup() as group:
        bound = binding(system, group, "0.0.0.0", "::")
        await bound.start(8468)
        assert not bound.waiting
    assert bound.bound == [("0.0.0.0", 8468)]
