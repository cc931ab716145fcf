"""Which channels survived a change of the network: those whose peers still answer.

A channel over an address that is gone never works again, and TCP takes minutes to notice. One over
a link that was down may recover, so its peer is asked.
"""

from __future__ import annotations

import asyncio
import ipaddress
from typing import Final

from aitorrent_transport.peers.interfaces import own_addresses
from aitorrent_transport.peers.table import PeerTable
from aitorrent_transport.streams.channel import Channel
from aitorrentd.api import Busy, TimedOut, Unavailable, short
from aitorrentd.api.tasks import Tasks

ANSWER_S: Final = 5.0
"Within this a peer answers, or its channel is abandoned."
GONE_S: Final = 1.0
"An address that returns within this was only renewed."


class Revalidation:
    """Tests every channel when the network has changed."""

    def __init__(self, table: PeerTable, tasks: Tasks) -> None:
        self._table = table
        self._tasks = tasks
        self._testing: set[Channel] = set()

    def start(self) -> None:
        """Test every channel that is not tested already."""
        for peer in self._table:
            for channel in peer.channels:
                if channel not in self._testing:
                    self._testing.add(channel)
                    self._tasks.spawn(self._test(channel), f"test channel to {short(peer.id)}")

    async def _test(self, channel: Channel) -> None:
        try:
            if _is_gone(channel.link.local_host):
                await asyncio.sleep(GONE_S)
                if _is_gone(channel.link.local_host):
                    channel.lose(f"this machine no longer has {channel.link.local_host}")
                    return
            await channel.probe(ANSWER_S)
        except TimedOut:
            channel.lose("no answer after the network of this machine changed")
        except (Unavailable, Busy):
            return  # it ended, or its keepalive decides
        finally:
            self._testing.discard(channel)


def _is_gone(host: str) -> bool:
    if not host:
        return False
    ip = ipaddress.ip_address(host)
    # All of 127/8 is local, and link-local addresses are not listed.
    return not (ip.is_loopback or ip.is_link_local) and host not in own_addresses(ip.version)
