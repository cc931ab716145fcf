"""Names that list whole addresses: the TXT records of `_dnsaddr.NAME`, each `dnsaddr=MULTIADDR`.

Follows the dnsaddr section of libp2p's addressing specification, without names that lead to further
names. Whoever controls the name or the network to the name server can answer anything: the records
only lead to dials.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from aitorrentd.api import InvalidParams, Unavailable
from aitorrentd.api.network.addresses import Address, parse_address

PREFIX: Final = "/dnsaddr/"
MAX_RECORDS: Final = 64
"Of one name; those beyond are ignored."
MAX_CHARS: Final = 512
LOOKUP_S: Final = 5.0
_KEY: Final = "dnsaddr="


def name_in(seed: str) -> str:
    """The name in a seed such as /dnsaddr/seeds.example.org; empty if it is of another form."""
    return seed.removeprefix(PREFIX).rstrip("/") if seed.startswith(PREFIX) else ""


def addresses_in(records: Iterable[str]) -> list[Address]:
    """The addresses in TXT records; what is none of ours is ignored."""
    found: list[Address] = []
    for text in records:
        if not text.startswith(_KEY) or len(text) > MAX_CHARS or len(found) == MAX_RECORDS:
            continue
        try:
            found.append(parse_address(text.removeprefix(_KEY)))
        except InvalidParams:
            continue
    return found


async def txt_records(name: str) -> list[str]:
    """The TXT records of `_dnsaddr.NAME`.

    Raises:
        Unavailable: there are none, or no name server answers.
    """
    import dns.asyncresolver
    import dns.exception

    try:
        answer = await dns.asyncresolver.resolve(f"_dnsaddr.{name}", "TXT", lifetime=LOOKUP_S)
    except (dns.exception.DNSException, OSError) as e:
        raise Unavailable(" ".join(str(e).split())[:200] or type(e).__name__) from None
    return [b"".join(record.strings).decode("utf-8", "replace") for record in answer]
