"""What answers a dialer when it is no node, recognised by the first bytes of the answer."""

from __future__ import annotations

from typing import Final

_KNOWN: Final = (
    (b"SSH-", "an SSH server answers there"),
    (
        b"HTTP/",
        "a web server answers there, or a proxy or captive portal in between; a node behind a web"
        " server is dialled with /ws at the end of its address",
    ),
    (b"\x15\x03", "a TLS server answers there"),
    (b"\x16\x03", "a TLS server answers there"),
    (b"\x00\x00\x12\x04", "an HTTP/2 server answers there"),
    (b"\x00\x00\x18\x04", "an HTTP/2 server answers there"),
    (b"220 ", "a mail or FTP server answers there"),
    (b"220-", "a mail or FTP server answers there"),
    (b"AIT1", "what answers there sends back what it gets"),
)


def what_answers(first: bytes) -> str:
    """A sentence about the sender of `first`, the first bytes of an answer to a handshake."""
    for start, text in _KNOWN:
        if first.startswith(start):
            return text
    shown = "".join(chr(b) if 32 <= b < 127 else "." for b in first[:16])
    return f"what answers there is not a node (its answer begins with {shown!r})"
