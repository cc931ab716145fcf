"""What NAT plugins of two nodes ask each other, one frame each way. No I/O.

→  {do: "hello", stun, alternate, relays}     ←  {stun, alternate, relays}
→  {do: "datagram", port, transaction, alternate}
                                              ←  {done}   one STUN response went to this port
→  {do: "dial", port, nonce}                  ←  {done}   a TCP connection said `AITP` and the nonce

What is asked for goes to the IP address of the asking node's own channel, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from aitorrent_nat.stun.codec import TRANSACTION_BYTES
from aitorrentd.api import ProtocolError
from aitorrentd.api.fields import blob, flag, text, whole

PROTOCOL: Final = "/ai-torrent/1/nat"
MAX_FRAME_BYTES: Final = 512
NONCE_BYTES: Final = 16
MAGIC: Final = b"AITP"
"Begins a connection that proves that this node can be dialled; the nonce follows."


@dataclass(frozen=True, slots=True)
class Hello:
    """What a node offers to its peers."""

    stun: int = 0
    "UDP port of its STUN server; 0 if it has none."
    alternate: int = 0
    "The other port of that server; 0 if it has none."
    relays: bool = False
    "Whether it relays connections for others."

    def fields(self) -> dict[str, Any]:
        """As it travels."""
        return {"stun": self.stun, "alternate": self.alternate, "relays": self.relays}


@dataclass(frozen=True, slots=True)
class SendDatagram:
    """Asks for one STUN response to a port of the asking node."""

    port: int
    transaction: bytes
    "The id that the response is to have."
    from_alternate: bool
    "Whether to send it from the alternate port."


@dataclass(frozen=True, slots=True)
class DialBack:
    """Asks for a TCP connection to a port of the asking node."""

    port: int
    nonce: bytes


Ask = Hello | SendDatagram | DialBack


def fields_of(ask: Ask) -> dict[str, Any]:
    """The header of the frame that asks."""
    if isinstance(ask, Hello):
        return {"do": "hello", **ask.fields()}
    if isinstance(ask, SendDatagram):
        return {
            "do": "datagram",
            "port": ask.port,
            "transaction": ask.transaction,
            "alternate": ask.from_alternate,
        }
    return {"do": "dial", "port": ask.port, "nonce": ask.nonce}


def read_ask(header: Mapping[str, Any]) -> Ask:
    """What a peer asks for.

    Raises:
        ProtocolError: nothing known.
    """
    do = text(header, "do", 32)
    if do == "hello":
        return read_hello(header)
    if do == "datagram":
        return SendDatagram(
            whole(header, "port", 1, 65_535),
            blob(header, "transaction", TRANSACTION_BYTES, TRANSACTION_BYTES),
            flag(header, "alternate"),
        )
    if do == "dial":
        nonce = blob(header, "nonce", NONCE_BYTES, NONCE_BYTES)
        return DialBack(whole(header, "port", 1, 65_535), nonce)
    raise ProtocolError("do must be hello, datagram or dial")


def read_hello(header: Mapping[str, Any]) -> Hello:
    """What a peer offers.

    Raises:
        ProtocolError: a field is missing or wrong.
    """
    return Hello(
        whole(header, "stun", 0, 65_535),
        whole(header, "alternate", 0, 65_535),
        flag(header, "relays"),
    )
