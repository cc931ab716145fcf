"""Health of the running DHT: warnings for `status`, and the doctor's check."""

from __future__ import annotations

from collections.abc import Iterator

from aitorrent_dht.service import DhtService
from aitorrentd.api import CheckResult, HealthWarning


def warnings(service: DhtService) -> Iterator[HealthWarning]:
    """Yield each current problem with its remedy."""
    for reason in service.endpoint.waiting.values():
        yield HealthWarning("udp", f"{reason}; retrying at least once a minute")
    for file in (service.contacts_file, service.values_file):
        if file.problem:
            yield HealthWarning("saved", file.problem)


def check(service: DhtService) -> CheckResult:
    """Whether the UDP port is bound and other nodes answer."""
    if service.endpoint.waiting:
        text = "; ".join(service.endpoint.waiting.values())
        return CheckResult("fail", text, "retried automatically; see the text above for a remedy")
    if not service.endpoint.bound:
        return CheckResult("warn", "no UDP port is bound: the transport does not listen", "")
    ports = ", ".join(f"{port}/udp" for port in sorted(set(service.endpoint.bound.values())))
    nodes = len(service.node.state.table)
    if service.node.state.is_client:
        text = f"{nodes} nodes answer, but none can reach this one on port {ports}"
        return CheckResult("warn", text, f"forward port {ports} to this machine on the router")
    if not nodes:
        text = f"no other node of the DHT answers on port {ports}"
        remedy = "connect to a peer, or set plugins.transport.bootstrap"
        return CheckResult("warn", text, remedy)
    return CheckResult("ok", f"{nodes} nodes answer on port {ports}")
