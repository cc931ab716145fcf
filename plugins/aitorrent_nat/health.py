"""Health of NAT traversal: the doctor's check of who can dial this node."""

from __future__ import annotations

from aitorrent_nat.service import NatService
from aitorrent_nat.stun.behaviour import Mapping
from aitorrentd.api import CheckResult, Reach


def check_reach(service: NatService | None) -> CheckResult:
    """Whether strangers can reach this node, and what helps if not."""
    if service is None:
        return CheckResult("fail", "NAT traversal is not running", "aitorrentctl plugin list")
    reach, reason = service.reach.reach, service.reach.reason
    text = f"{reach}: {reason}"
    if reach in (Reach.PUBLIC, Reach.UNKNOWN):
        return CheckResult("ok", text)
    if reach is Reach.OFFLINE:
        return CheckResult("warn", text, "connect to a peer; see the check discovery.peers")
    if service.reach.relayed_by():
        return CheckResult("ok", f"{text}; to be dialled as well, {_remedy(service)}")
    return CheckResult("warn", text, _remedy(service))


def _remedy(service: NatService) -> str:
    ports = sorted({port for _, port in service.transport.bound})
    port = f"port {', '.join(map(str, ports))}/tcp" if ports else "the peer port"
    if service.reach.behaviour.mapping is Mapping.NONE:
        return f"open {port} in the firewalls of this machine and its network"
    if not service.config.upnp:
        return f"forward {port} to this machine on the router, or set plugins.nat.upnp to true"
    return f"forward {port} to this machine on the router, or enable UPnP there"
