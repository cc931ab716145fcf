"""Reads the header of a safetensors file without torch: where its tensors are.

The format (safetensors README, "Format"): 8 bytes, the header's length N as u64 little-endian; N
bytes of JSON that map a tensor's name to its dtype, shape and [begin, end) offsets in the rest of
the file; then the tensors, without gaps. Files are untrusted: every length is checked before it is
used to read or allocate.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from aitorrentd.api import (
    InvalidParams,
    open_regular,
)

MAX_HEADER_BYTES: Final = 16 * 1024 * 1024
"The format allows 100 MB; real headers stay under 1 MB, and parsed JSON is many times larger."

_MAX_RANK: Final = 8
_MAX_DIM: Final = 2**40

BITS: Final[Mapping[str, int]] = {
    "BOOL": 8,
    "U8": 8,
    "I8": 8,
    "F8_E5M2": 8,
    "F8_E4M3": 8,
    "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "U16": 16,
    "I16": 16,
    "F16": 16,
    "BF16": 16,
    "U32": 32,
    "I32": 32,
    "F32": 32,
    "U64": 64,
    "I64": 64,
    "F64": 64,
    "C64": 64,
}
"Bits per element, by the format's dtype name."


@dataclass(frozen=True, slots=True)
class TensorRange:
    """One tensor: its dtype (the format's name), its shape, and its bytes [start, end) in the
    file."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int

    @property
    def size_bytes(self) -> int:
        """Size of the tensor in the file, in bytes."""
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class Layout:
    """All tensors of one file, and the number of bytes before the first."""

    tensors: Mapping[str, TensorRange]
    header_bytes: int


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("duplicate tensor name")
    return found


def _is_count(value: object, limit: int) -> bool:
    return type(value) is int and 0 <= value <= limit


def _tensor(name: str, entry: Any, data_start: int, data_bytes: int) -> TensorRange:
    """The range that a header entry describes; raises ValueError with the reason if invalid."""
    name.encode()  # texts of JSON may have halves of surrogate pairs
    if not isinstance(entry, dict) or not entry.keys() >= {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"tensor {name[:200]!r} needs dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in BITS:
        raise ValueError(f"tensor {name[:200]!r} has the unknown dtype {str(dtype)[:40]!r}")
    if (
        not isinstance(shape, list)
        or len(shape) > _MAX_RANK
        or not all(_is_count(d, _MAX_DIM) for d in shape)
    ):
        raise ValueError(f"tensor {name[:200]!r} has an invalid shape")
    if (
        not isinstance(offsets, list)
        or len(offsets) != 2
        or not all(_is_count(o, data_bytes) for o in offsets)
        or offsets[0] > offsets[1]
    ):
        raise ValueError(
            f"tensor {name[:200]!r} has offsets {str(offsets)[:80]} outside the {data_bytes} bytes"
            " that follow the header; the file is truncated or damaged"
        )
    bits = BITS[dtype]
    for dim in shape:
        bits *= dim
    begin, end = offsets
    if bits != 8 * (end - begin):
        raise ValueError(
            f"tensor {name[:200]!r} of {end - begin} bytes cannot be {dtype} of shape {shape}"
        )
    return TensorRange(dtype, tuple(shape), data_start + begin, data_start + end)


def parse_header(header: bytes, file_bytes: int) -> Layout:
    """The layout of a file of `file_bytes` bytes whose JSON header is `header`.

    Raises:
        InvalidParams: not a safetensors header, or one that does not fit the file.
    """
    data_start = 8 + len(header)
    data_bytes = file_bytes - data_start
    try:
        if data_bytes < 0:
            raise ValueError(f"the header of {len(header)} bytes is longer than the file")
        entries = json.loads(header.decode(), object_pairs_hook=_unique)
        if not isinstance(entries, dict):
            raise ValueError("the header is not a map")
        metadata = entries.pop("__metadata__", None)
        if metadata is not None and not (
            isinstance(metadata, dict) and all(isinstance(v, str) for v in metadata.values())
        ):
            raise ValueError("__metadata__ is not a map of texts")
        tensors = {
            name: _tensor(name, entry, data_start, data_bytes) for name, entry in entries.items()
        }
        _check_no_holes(tensors, data_start, file_bytes)
    except RecursionError:
        raise InvalidParams("damaged safetensors header: nested too deeply") from None
    except ValueError as e:
        raise InvalidParams(f"damaged safetensors header: {e}") from None
    return Layout(tensors, data_start)


def _check_no_holes(tensors: Mapping[str, TensorRange], start: int, end: int) -> None:
    at = start
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].end)):
        if tensor.start != at:
            what = "overlaps the one before it" if tensor.start < at else "leaves a hole before it"
            raise ValueError(f"tensor {name[:200]!r} {what}")
        at = tensor.end
    if at != end:
        raise ValueError(
            f"the tensors end at byte {at} of a file of {end}; it is truncated or damaged"
        )


def open_weights(path: Path) -> int:
    """A file descriptor for reading `path`; the caller closes it.

    Raises:
        InvalidParams: it cannot be opened, or is not a regular file.
    """
    try:
        return open_regular(path)
    except OSError as e:
        raise InvalidParams(f"cannot read {path}: {e.strerror}") from None


def layout_of(fd: int, name: str) -> Layout:
    """The layout of an open file; `name` is for messages.

    Raises:
        InvalidParams: not a complete safetensors file.
    """
    file_bytes = os.fstat(fd).st_size
    prefix = os.pread(fd, 8, 0)
    if len(prefix) < 8:
        raise InvalidParams(f"{name} has {len(prefix)} bytes; this is not a safetensors file")
    n = int.from_bytes(prefix, "little")
    if n > MAX_HEADER_BYTES or 8 + n > file_bytes:
        raise InvalidParams(
            f"{name} claims a header of {n} bytes in a file of {file_bytes} (at most"
            f" {MAX_HEADER_BYTES} are read); it is truncated, damaged or no safetensors file"
        )
    header = os.pread(fd, n, 8)
    if len(header) < n:
        raise InvalidParams(f"{name} ended inside its header")
    try:
        return parse_header(header, file_bytes)
    except InvalidParams as e:
        raise InvalidParams(f"{name}: {e.message}") from None
