"""Which links, addresses and default routes this machine has, as the kernel tells it.

rtnetlink(7) messages in, changes out; the socket is in `watching`. The kernel repeats itself: each
router advertisement renews addresses and routes, and a wireless card reports its signal. Only what
changes where packets can go counts. pyroute2 would do the same with 40,000 lines, most of them for
setting up networks.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from typing import Final, TypeVar

T = TypeVar("T")

# linux/rtnetlink.h
GROUPS: Final = 0x1 | 0x10 | 0x40 | 0x100 | 0x400
"Link, IPv4 address, IPv4 route, IPv6 address, IPv6 route."
_NEWLINK: Final = 16
_DELLINK: Final = 17
_GETLINK: Final = 18
_NEWADDR: Final = 20
_DELADDR: Final = 21
_GETADDR: Final = 22
_NEWROUTE: Final = 24
_DELROUTE: Final = 25
_GETROUTE: Final = 26
_MAIN_TABLE: Final = 254
# linux/if.h and linux/if_addr.h
_UP: Final = 0x1
_UP_AND_RUNNING: Final = _UP | 0x40
_IFA_TENTATIVE: Final = 0x40
_LINK_LOCAL6: Final = b"\xfe\x80"
_IFA_LOCAL: Final = 2
_IFA_ADDRESS: Final = 1
_RTA_OIF: Final = 4
_RTA_GATEWAY: Final = 5
# linux/netlink.h
_ERROR: Final = 2
_DONE: Final = 3
_REQUEST_DUMP: Final = 0x1 | 0x300
_HEADER: Final = struct.Struct("=IHHII")
_LINK: Final = struct.Struct("=BxHiII")
_ADDRESS: Final = struct.Struct("=BBBBi")
_ROUTE: Final = struct.Struct("=BBBBBBBBI")
_ATTRIBUTE: Final = struct.Struct("=HH")


class NetworkState:
    """The machine's network so far. `requests` ask the kernel for all of it, one at a time."""

    def __init__(self) -> None:
        self.requests: list[bytes] = []
        "To be sent, the last one first; each after the answer to the one before is complete."
        self._links: dict[int, int] = {}
        self._addresses: set[tuple[int, bytes]] = set()
        self._routes: set[tuple[int, bytes, bytes]] = set()
        self._lists = 0
        self.restart()

    def restart(self) -> None:
        """Forget everything, because messages were lost, and ask for it anew."""
        self._links.clear()
        self._addresses.clear()
        self._routes.clear()
        self.requests = [_dump(kind) for kind in (_GETROUTE, _GETADDR, _GETLINK)]
        self._lists = len(self.requests)

    def take(self, datagram: bytes) -> tuple[bool, bool]:
        """Note messages of the kernel.

        Returns whether they tell a change, and whether the answer to a request ended. What the
        kernel lists before all requests are answered is no change.
        """
        changed = ended = False
        for kind, body in _messages(datagram):
            if kind in (_DONE, _ERROR):
                ended = True
                self._lists = max(0, self._lists - 1)
            else:
                changed |= self._note(kind, body) and not self._lists
        return changed, ended

    def _note(self, kind: int, body: bytes) -> bool:
        try:
            if kind in (_NEWLINK, _DELLINK):
                return self._note_link(kind == _NEWLINK, body)
            if kind in (_NEWADDR, _DELADDR):
                return self._note_address(kind == _NEWADDR, body)
            if kind in (_NEWROUTE, _DELROUTE):
                return self._note_route(kind == _NEWROUTE, body)
        except struct.error:
            pass  # shorter than this kind of message is
        return False

    def _note_link(self, is_new: bool, body: bytes) -> bool:
        _, _, index, flags, _ = _LINK.unpack_from(body)
        before = self._links.pop(index, None)
        if is_new:
            self._links[index] = flags & _UP_AND_RUNNING
        now = self._links.get(index)
        if not is_new or not flags & _UP:
            # The kernel drops the routes of a link without a word.
            gone = struct.pack("=i", index)
            self._routes = {each for each in self._routes if each[2] != gone}
        # Containers come and go on links of their own, which have no address of this machine.
        return before != now and any(link == index for link, _ in self._addresses)

    def _note_address(self, is_new: bool, body: bytes) -> bool:
        _, _, flags, _, index = _ADDRESS.unpack_from(body)
        found = dict(_attributes(body[_ADDRESS.size :]))
        address = found.get(_IFA_LOCAL) or found.get(_IFA_ADDRESS, b"")
        if address.startswith(_LINK_LOCAL6):
            return False
        # An address serves nobody before the kernel has made sure that no other machine has it.
        is_new = is_new and not flags & _IFA_TENTATIVE
        return _set(self._addresses, (index, address), is_new)

    def _note_route(self, is_new: bool, body: bytes) -> bool:
        family, destination_bits, _, _, table, *_ = _ROUTE.unpack_from(body)
        if destination_bits or table != _MAIN_TABLE:
            return False
        found = dict(_attributes(body[_ROUTE.size :]))
        route = family, found.get(_RTA_GATEWAY, b""), found.get(_RTA_OIF, b"")
        return _set(self._routes, route, is_new)


def _set(known: set[T], item: T, present: bool) -> bool:
    if (item in known) is present:
        return False
    (known.add if present else known.discard)(item)
    return True


def _dump(kind: int) -> bytes:
    """A request for all links, addresses or routes."""
    size = _HEADER.size + 4
    return _HEADER.pack(size, kind, _REQUEST_DUMP, 1, 0) + struct.pack("=Bxxx", socket.AF_UNSPEC)


def _messages(datagram: bytes) -> Iterator[tuple[int, bytes]]:
    while len(datagram) >= _HEADER.size:
        size, kind, *_ = _HEADER.unpack_from(datagram)
        if not _HEADER.size <= size <= len(datagram):
            return
        yield kind, datagram[_HEADER.size : size]
        datagram = datagram[size + -size % 4 :]


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    while len(data) >= _ATTRIBUTE.size:
        size, kind = _ATTRIBUTE.unpack_from(data)
        if not _ATTRIBUTE.size <= size <= len(data):
            return
        yield kind, data[_ATTRIBUTE.size : size]
        data = data[size + -size % 4 :]
