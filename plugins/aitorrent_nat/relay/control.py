"""The relay's end of a stream on which it tells a peer about circuits."""

from __future__ import annotations

from aitorrent_nat.relay.messages import FromRelay, encode
from aitorrentd.api import Conflict, PeerGone, PeerId, Stream


class Control:
    """A stream to a client or dialer. Messages are small and rare, and never waited for."""

    def __init__(self, stream: Stream) -> None:
        self.peer: PeerId = stream.peer
        self.stream = stream

    def send(self, message: FromRelay) -> None:
        """Send a message; a peer that does not read loses the stream."""
        try:
            if not self.stream.write_now(encode(message)):
                self.stream.reset("the relay's messages are not read")
        except (PeerGone, Conflict):
            pass  # whoever reads the stream notices
