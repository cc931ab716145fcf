"""What makes a network namespace a NAT box of a given kind: its nftables ruleset.

| kind | mapping (RFC 4787) | filtering |
|---|---|---|
| fullcone | endpoint-independent | endpoint-independent |
| addrrestricted | endpoint-independent | address-dependent |
| portrestricted | endpoint-independent | address- and port-dependent |
| symmetric | address- and port-dependent | address- and port-dependent |

All hold for TCP and UDP. The box drops what nobody asked for, silently and before conntrack
confirms it: an early packet that the box itself accepted would own the tuple that a later
connection of a host behind it needs, and that one would get another port, as behind a symmetric
NAT.
"""

from __future__ import annotations

from typing import Final

KINDS: Final = ("public", "fullcone", "addrrestricted", "portrestricted", "symmetric")
UDP_S: Final = 120
_TCP_S: Final = 3600
_BOTH: Final = "meta l4proto { tcp, udp }"
_HOLE: Final = "meta l4proto . ct reply proto-dst"


def ruleset(
    kind: str,
    outside: str,
    *,
    keeps_ports: bool = True,
    udp: bool = True,
    hairpin: bool = False,
    resets: bool = False,
    udp_s: int = UDP_S,
) -> str:
    """The ruleset of a box with the address `outside` on `wan`, and hosts on `lan`.

    `keeps_ports`: the outside port is that of the host while it is free, else another that depends
    on the host's address and port alone. Without `udp` no datagram passes. `hairpin`, of a full
    cone: hosts reach each other at the outside address. `resets`: unasked TCP is refused with RST.
    A UDP hole closes `udp_s` after its last use.
    """
    if kind not in KINDS[1:]:
        raise ValueError(f"no kind of NAT: {kind}")
    if kind == "symmetric":
        source = "masquerade fully-random"
    elif keeps_ports:
        source = "masquerade persistent"
    else:
        hashed = "jhash ip saddr . th sport mod 30000 seed 0x1 offset 2048"
        source = f"{_BOTH} snat to {outside}:{hashed}"
    chains = [
        f'chain post {{ type nat hook postrouting priority srcnat; oifname "wan" {source};'
        + (f' oifname "lan" ip saddr 192.168.0.0/16 snat to {outside};' if hairpin else "")
        + " }"
    ]
    if kind in ("fullcone", "addrrestricted"):
        chains += _holes(kind, outside, hairpin, udp_s)
    dropped = '  iifname "wan" ct state new tcp flags syn reject with tcp reset;\n' * resets
    no_udp = "  meta l4proto udp drop;\n" * (not udp)
    return "\n".join(
        [
            "table ip nat {",
            *chains,
            "}",
            "table ip door {",
            " chain into { type filter hook input priority filter;",
            '  iifname "wan" ct state established,related accept;',
            f'{dropped}  iifname "wan" drop; }}',
            " chain through { type filter hook forward priority filter;",
            f'{no_udp}  iifname "wan" ct state new ct status dnat accept;',
            f'{dropped}  iifname "wan" ct state new drop; }}',
            "}",
        ]
    )


def _holes(kind: str, outside: str, hairpin: bool, udp_s: int) -> list[str]:
    """Chains that note the outside port of each connection, and lead strangers through it."""
    remote = kind == "addrrestricted"
    key = "ipv4_addr . " * remote + "inet_proto . inet_service"
    out = "ip daddr . " * remote + _HOLE
    into = "ip saddr . " * remote + "meta l4proto . th dport"
    host = "ct original ip saddr . ct original proto-src"
    sides = "{ wan, lan }" if hairpin else "wan"

    def note(protocol: str, timeout_s: int) -> str:
        learnt = f"update @holes {{ {out} timeout {timeout_s}s : {host} }};"
        return f'  oifname "wan" ct direction original meta l4proto {protocol} {learnt}'

    return [
        f" map holes {{ type {key} : ipv4_addr . inet_service; flags dynamic,timeout;",
        "  size 65535; }",
        # After the mapping was chosen.
        " chain learn { type filter hook postrouting priority srcnat + 10;",
        note("tcp", _TCP_S),
        note("udp", udp_s),
        " }",
        " chain pre { type nat hook prerouting priority dstnat;",
        f"  iifname {sides} ip daddr {outside} dnat ip to {into} map @holes; }}",
    ]
