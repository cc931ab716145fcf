"""What the doctor says of the peer port."""

from __future__ import annotations

import errno
from types import SimpleNamespace
from typing import Any, cast

import pytest

from aitorrent_transport import checks
from aitorrent_transport.service import TransportService


async def result(monkeypatch: pytest.MonkeyPatch, error: OSError) -> Any:
    async def refuse(host: str, port: int) -> None:
        raise error

    monkeypatch.setattr("asyncio.open_connection", refuse)
    service = SimpleNamespace(binding=SimpleNamespace(waiting={}), bound=[("::", 8468)])
    (port, *_) = checks.checks(lambda: cast(TransportService, service))
    return await port.run()


async def test_machine_without_ip6_has_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    found = await result(monkeypatch, OSError(errno.EADDRNOTAVAIL, "Cannot assign"))
    assert (found.status, found.text) == ("ok", "port 8468/tcp answers")


async def test_port_that_refuses_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    found = await result(monkeypatch, ConnectionRefusedError(errno.ECONNREFUSED, "refused"))
    assert found.status == "fail"
    assert found.remedy == "allow tcp port 8468 in the firewall"
