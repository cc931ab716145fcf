"""STUN between daemons in namespaces: a server with two addresses, `nat probe`, useless servers."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

from aitorrent_nat.reach.part import RETRY_S
from tests.support import cli_runs
from tests.support.discovery.lan_machines import captured
from tests.support.nat.daemons import daemon_at, village
from tests.support.nat.lab import Lab
from tests.support.nat.namespaces import CAN_MAKE, REASON, nft
from tests.support.nodes import Daemon, DaemonFactory, merged, wait_for

pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.skipif(not CAN_MAKE, reason=REASON),
]

EI, AD, APD = "endpoint-independent", "address-dependent", "address-and-port-dependent"
PLAIN: dict[str, Any] = {"plugins": {"nat": {"upnp": False, "reservations": 0}}}


async def warnings(daemon: Daemon, code: str) -> list[str]:
    found = (await daemon.call("node.status"))["warnings"]
    return [each["text"] for each in found if each["code"] == code]


async def test_daemon_with_two_addresses_classifies_every_kind_of_nat(
    nat_lab: Lab, daemon_factory: DaemonFactory
) -> None:
    server = nat_lab.public(addresses=2)
    await daemon_at(daemon_factory, server, PLAIN)
    expected = {
        "public": ("none", EI, True),
        "fullcone": (EI, EI, True),
        "addrrestricted": (EI, AD, True),
        "portrestricted": (EI, APD, True),
        "symmetric": (APD, APD, False),
    }
    for kind, (mapping, filtering, keeps_ports) in expected.items():
        host = nat_lab.place(kind)
        client = await daemon_at(daemon_factory, host, PLAIN)
        place = f"{server.address}:8469"
        code, out, err = await cli_runs.run(client, "nat", "probe", "--server", place, "--json")
        assert code == 0, err
        found = json.loads(out)
        behaviour = found["behaviour"]
        assert (kind, behaviour["mapping"], behaviour["filtering"]) == (kind, mapping, filtering)
        assert (kind, behaviour["external"]) == (kind, host.public)
        assert (kind, behaviour["keeps_ports"]) == (kind, keeps_ports)
        assert behaviour["hairpins"] is (None if kind == "public" else False)
        (seen,) = found["seen_by"]
        assert seen["server"] == place
        assert seen["mapped"].startswith(f"{host.public}:")
        code, out, err = await cli_runs.run(client, "nat", "probe", "--server", place)
        assert (code, err) == (0, "")
        assert f"external address  {host.public}" in out
        assert f"mapping           {mapping}" in out
        await client.stop()


LIFETIME = """
import asyncio, sys
from aitorrent_nat.stun.asking import StunSocket
from aitorrent_nat.stun.lifetime import lifetime_s, poke_by

async def main():
    server = (sys.argv[1], 8469)
    with StunSocket() as socket:
        print(await lifetime_s(server, poke_by(socket, server), "0.0.0.0", waits_s=(1.0, 2.0, 8.0)))

asyncio.run(main())
"""


async def test_lifetime_of_mappings_is_measured(
    nat_lab: Lab, daemon_factory: DaemonFactory
) -> None:
    server, home = nat_lab.public(), nat_lab.place("portrestricted", udp_s=5)
    daemon = await daemon_at(daemon_factory, server, PLAIN)
    await wait_for(lambda: is_answering(daemon), 10)
    process = await asyncio.create_subprocess_exec(
        *("ip", "netns", "exec", home.namespace, sys.executable, "-c", LIFETIME, server.address),
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await asyncio.wait_for(process.communicate(), 40)
    assert float(out) == 2.0


async def is_answering(daemon: Daemon) -> bool:
    state = (await daemon.call("nat.status"))["parts"]["stun"]
    return bool(state.startswith("answers on"))


async def test_useless_servers_are_warned_of_and_the_daemon_runs(
    nat_lab: Lab, daemon_factory: DaemonFactory
) -> None:
    silent, noisy, host = nat_lab.public(), nat_lab.public(), nat_lab.place("portrestricted")
    # A name server that refuses at once; one that is silent is given up after 5 s, in other words.
    own = Path("/etc/netns", host.namespace)
    own.mkdir(parents=True)
    (own / "resolv.conf").write_text("nameserver 127.0.0.1\n")
    with noisy.socket(socket.SOCK_DGRAM, 3478) as noise:
        noise.settimeout(0.05)
        stun = [silent.address, f"{noisy.address}:3478", "stun.invalid"]
        config = merged(PLAIN, {"plugins": {"nat": {"stun": stun}}})
        daemon = await daemon_at(daemon_factory, host, config)

        async def are_told() -> bool:
            try:
                _, client = noise.recvfrom(2048)
                noise.sendto(b"HTTP/1.1 400 Bad Request", client)
            except TimeoutError:
                pass
            return len(await warnings(daemon, "stun")) == 3

        await wait_for(are_told, 2 * RETRY_S, every_s=0.05)
        told = " ".join(sorted(await warnings(daemon, "stun")))
    assert f"{silent.address}:3478 is of no use: {silent.address}:3478/udp did not answer" in told
    assert f"{noisy.address}:3478/udp answers with what is not STUN" in told
    assert "stun.invalid does not resolve" in told
    code, _, err = await cli_runs.run(daemon, "nat", "probe", "--server", silent.address)
    assert (code, err) == (1, f"Error: {silent.address}:3478/udp did not answer within 3 s\n")


async def test_port_that_is_taken_is_warned_of_and_used_once_it_is_free(
    nat_lab: Lab, daemon_factory: DaemonFactory
) -> None:
    host = nat_lab.public()
    config = merged(PLAIN, {"plugins": {"nat": {"port": 8469}}})
    with host.socket(socket.SOCK_DGRAM, 8469):
        daemon = await daemon_at(daemon_factory, host, config)
        (text,) = await wait_for(lambda: warnings(daemon, "udp"), 10)
        assert "cannot listen on port 8469/udp: address already in use" in text
        assert "plugins.nat.port" in text
        assert (await daemon.call("nat.status"))["parts"]["stun"].startswith("cannot listen")

    async def is_bound() -> bool:
        return not await warnings(daemon, "udp")

    await wait_for(is_bound, 30, every_s=0.2)
    state = (await daemon.call("nat.status"))["parts"]["stun"]
    assert state.startswith("answers on 8469/udp and ")


async def test_second_node_on_a_machine_takes_another_port_without_a_word(
    nat_lab: Lab, daemon_factory: DaemonFactory
) -> None:
    host = nat_lab.public()
    with host.socket(socket.SOCK_DGRAM, 8469):
        daemon = await daemon_at(daemon_factory, host, PLAIN)
        await wait_for(lambda: is_answering(daemon), 10)
        assert "8469/udp" not in (await daemon.call("nat.status"))["parts"]["stun"]
        assert await warnings(daemon, "udp") == []


async def test_nothing_is_sent_to_a_host_that_is_no_peer(
    nat_lab: Lab, daemon_factory: DaemonFactory
) -> None:
    """With the default configuration but for UPnP, which talks to the router."""
    hosts = await village(daemon_factory, nat_lab, PLAIN)
    leaf = nat_lab.place("portrestricted")
    config = {
        "plugins": {
            "nat": {"upnp": False},
            "transport": {"bootstrap": [f"{host.address}:8468" for host in hosts]},
        }
    }
    async with captured(leaf.namespace) as sent:
        daemon = await daemon_at(daemon_factory, leaf, config)

        async def is_classified() -> bool:
            found = (await daemon.call("nat.status"))["behaviour"]
            return (found["mapping"], found["filtering"]) == (EI, APD)

        await wait_for(is_classified, 2 * RETRY_S, every_s=0.5)
        assert await daemon.stop() == 0
    # The hairpin test goes to its own external address.
    assert set(sent.destinations) <= {*(host.address for host in hosts), leaf.public}


async def test_forwarded_port_is_found_and_announced(
    nat_lab: Lab, daemon_factory: DaemonFactory
) -> None:
    hosts = await village(daemon_factory, nat_lab, PLAIN)
    home = nat_lab.place("portrestricted")
    assert home.nat is not None
    nft(
        home.nat.namespace,
        "table ip forwarded {\n chain pre { type nat hook prerouting priority dstnat - 1;\n"
        f'  iifname "wan" tcp dport 8468 dnat to {home.address}:8468; }}\n}}',
    )
    bootstrap = {"plugins": {"transport": {"bootstrap": [f"{h.address}:8468" for h in hosts]}}}
    daemon = await daemon_at(daemon_factory, home, merged(PLAIN, bootstrap))

    async def is_announced() -> bool:
        addresses = (await daemon.call("node.status"))["addresses"]
        return any(f"/ip4/{home.public}/tcp/8468" in each for each in addresses)

    await wait_for(is_announced, 2 * RETRY_S, every_s=0.5)
    code, out, _ = await cli_runs.run(daemon, "status")
    assert code == 0
    assert "public: " in out
    assert f"dialled {home.public}:8468" in out
