"""Health of running discovery: warnings for `status`, checks for `doctor`."""

from __future__ import annotations

from collections.abc import Iterator

from aitorrent_discovery.records.codec import FUTURE_S
from aitorrent_discovery.service import DiscoveryService
from aitorrentd.api import CheckResult, HealthWarning


def warnings(service: DiscoveryService) -> Iterator[HealthWarning]:
    """Yield each current problem with its remedy."""
    if service.local.problem:
        yield HealthWarning("multicast", f"{service.local.problem}; retrying")
    if service.saved.problem:
        yield HealthWarning("peer_store", f"{service.saved.problem}; retrying")
    for seed, problem in service.seeds.problems.items():
        if not service.transport.peers():
            yield HealthWarning("seed", f"seed {seed} is of no use now; retrying: {problem}")
    ahead_s = service.gossip.clocks.ahead_s
    if ahead_s is not None and abs(ahead_s) > FUTURE_S:
        way = "behind" if ahead_s > 0 else "ahead of"
        yield HealthWarning(
            "clock",
            f"this machine's clock is {abs(ahead_s):.0f} s {way} its peers' clocks: they and this"
            " node do not accept each other's peer records; synchronise it (NTP)",
        )


def check_peers(service: DiscoveryService | None) -> CheckResult:
    """Whether this node has peers, or knows some to dial."""
    if service is None:
        return CheckResult("fail", "discovery is not running", "aitorrentctl plugin list")
    peers = service.transport.peers()
    if peers:
        dialled = sum(view.outbound for view in peers)
        return CheckResult("ok", f"{len(peers)} connected, {dialled} of them dialled by this node")
    known = service.candidates.count()
    if any(known.values()):
        text = ", ".join(f"{count} {kind}" for kind, count in known.items() if count)
        return CheckResult("warn", f"no peer is connected; known: {text}", "see discovery peers")
    return CheckResult(
        "warn",
        "no peer is connected, and none is known",
        "set plugins.transport.bootstrap or plugins.discovery.seeds, or start another node on this"
        " local network",
    )


def check_multicast(service: DiscoveryService | None) -> CheckResult:
    """Whether nodes on the local network can be found."""
    if service is None:
        return CheckResult("fail", "discovery is not running", "aitorrentctl plugin list")
    local = service.local
    if not service.config.mdns:
        return CheckResult("ok", "off: plugins.discovery.mdns is false")
    if local.problem:
        return CheckResult(
            "warn", local.problem, "allow udp port 5353, or set plugins.discovery.mdns to false"
        )
    return CheckResult("ok", local.state)
