"""What routers do according to public bug reports of other programs, each test named by one."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from async_upnp_client.exceptions import UpnpActionError

from aitorrent_nat.mapping.datagrams import pcp_answer, pmp_answer
from aitorrent_nat.mapping.gateway import Gateway
from aitorrent_nat.mapping.keeping import Forwarding
from aitorrent_nat.mapping.routers import LEASE_S, Router, Want
from aitorrent_nat.mapping.upnp_client import UpnpRouter
from aitorrentd.api import Denied, ProtocolError
from tests.unit.nat.mapping.test_datagrams import NONCE, PCP, PMP

HOME = Gateway("192.168.1.1", "192.168.1.2")
WANT = Want("tcp", 8468)
Act = Callable[..., dict[str, Any]]


def refuse(code: int) -> dict[str, Any]:
    raise UpnpActionError(error_code=code, error_desc="no")


class UpnpBox:
    """A UPnP router in memory, as the library's service object shows it."""

    def __init__(self, host: str = "81.2.69.142", **acts: Act) -> None:
        self.entries: dict[tuple[int, str], tuple[str, int, int]] = {}
        self.calls: list[str] = []
        self.host = host
        self._acts = acts

    def action(self, name: str) -> Any:
        async def call(**arguments: Any) -> dict[str, Any]:
            self.calls.append(name)
            act: Act = self._acts.get(name) or getattr(self, name)
            return act(**arguments)

        return SimpleNamespace(async_call=call)

    def GetExternalIPAddress(self) -> dict[str, Any]:
        return {"NewExternalIPAddress": self.host}

    def GetSpecificPortMappingEntry(self, **at: Any) -> dict[str, Any]:
        entry = self.entries.get((at["NewExternalPort"], at["NewProtocol"]))
        if entry is None:
            return refuse(714)
        return {"NewInternalClient": entry[0], "NewInternalPort": entry[1]}

    def AddPortMapping(self, **at: Any) -> dict[str, Any]:
        place = at["NewInternalClient"], at["NewInternalPort"], at["NewLeaseDuration"]
        self.entries[at["NewExternalPort"], at["NewProtocol"]] = place
        return {}

    def router(self) -> UpnpRouter:
        service: Any = self
        return UpnpRouter(HOME, service)


def test_syncthing_1824_port_0_is_no_forwarded_port() -> None:
    with pytest.raises(ProtocolError, match="grants no port"):
        pmp_answer(PMP[:10] + bytes(2) + PMP[12:], WANT)
    with pytest.raises(ProtocolError, match="without an IPv4 address and port"):
        pcp_answer(PCP[:42] + bytes(2) + PCP[44:], WANT, NONCE)


def test_natpmp_lease_of_no_time_is_no_forwarded_port() -> None:
    with pytest.raises(ProtocolError, match="grants no port"):
        pmp_answer(PMP[:12] + bytes(4), WANT)


@pytest.mark.parametrize("code", [402, 501, 725])
async def test_go_nat_router_that_knows_no_durations_forwards_until_told_otherwise(
    code: int,
) -> None:
    box = UpnpBox()

    def add(**at: Any) -> dict[str, Any]:
        return refuse(code) if at["NewLeaseDuration"] else UpnpBox.AddPortMapping(box, **at)

    box._acts["AddPortMapping"] = add
    lease = await box.router().map(WANT, 8468)
    assert (lease.external_port, lease.lasts_s) == (8468, 0)


async def test_syncthing_9324_router_with_a_conflict_for_every_port_is_left_alone() -> None:
    box = UpnpBox(AddPortMapping=lambda **at: refuse(718))
    with pytest.raises(Denied, match="every port that was tried is taken"):
        await box.router().map(WANT, 8468)
    assert box.calls.count("AddPortMapping") == 5


async def test_miniupnp_359_port_of_another_machine_is_not_taken_from_it() -> None:
    box = UpnpBox()
    box.entries[8468, "TCP"] = ("192.168.1.9", 8468, LEASE_S)
    lease = await box.router().map(WANT, 8468)
    assert box.entries[8468, "TCP"][0] == "192.168.1.9"
    assert box.entries[lease.external_port, "TCP"] == ("192.168.1.2", 8468, LEASE_S)


async def test_nicotine_3364_renewals_fill_no_router() -> None:
    box = UpnpBox()
    box.entries[8468, "TCP"] = ("192.168.1.9", 8468, LEASE_S)

    async def way(gateway: Gateway) -> Router:
        return box.router()

    forwarding = Forwarding([way])
    for _ in range(20):
        assert await forwarding.ensure(HOME, [WANT])
    assert len(box.entries) == 2


@pytest.mark.parametrize("code", [401, 602, 714])
async def test_nano_3295_router_that_tells_no_entries_is_asked_to_forward(code: int) -> None:
    box = UpnpBox(GetSpecificPortMappingEntry=lambda **at: refuse(code))
    assert (await box.router().map(WANT, 8468)).external_port == 8468


@pytest.mark.parametrize("told", ["", "0.0.0.0", "fritz.box", "203.0.113", "<ip>"])
async def test_open_nat_86_external_address_that_is_none_is_unknown(told: str) -> None:
    assert (await UpnpBox(told).router().map(WANT, 8468)).external_host == ""


async def test_upnp_router_that_forwards_but_tells_no_external_address_is_used() -> None:
    box = UpnpBox(GetExternalIPAddress=lambda: refuse(501))
    lease = await box.router().map(WANT, 8468)
    assert (lease.external_host, lease.external_port) == ("", 8468)
