"""Malformed frames for the control socket."""

from __future__ import annotations

import random
import struct
from typing import Any

from aitorrentd.control import framing


def random_frame(rng: random.Random) -> bytes:
    """A frame that is malformed in one of many ways, or valid."""
    shape = rng.randrange(6)
    if shape == 0:
        return rng.randbytes(rng.randrange(1, 200))
    if shape == 1:
        body = rng.randbytes(rng.randrange(1, 100))
        return struct.pack(">I", len(body)) + body
    if shape == 2:
        return struct.pack(">I", rng.choice([0, 2**31, 2**32 - 1, 17 * 2**20])) + b"\x90"
    if shape == 3:
        depth = rng.choice([10, 100, 2000, 60_000])
        return struct.pack(">I", depth + 1) + b"\x91" * depth + b"\x01"
    values: list[Any] = [None, -1, 0, 1, 2**32, 2**63, True, 1.5, "x", b"x", [], {}, [[]], {"a": 1}]
    fields = [rng.choice(values) for _ in range(rng.randrange(6))]
    kind = rng.choice([*range(-1, 12), 2**40, "x"])
    if shape == 5:
        frame = framing.encode(kind, rng.randrange(1, 9), "rpc.ping", *fields)
        return frame[: rng.randrange(1, len(frame) + 1)]
    return framing.encode(kind, *fields)
