"""The byte ranges of a checkpoint's files that a range of layers needs."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from aitorrent_shards.models.safetensors import MAX_HEADER_BYTES, Layout, parse_header
from aitorrentd.api import InvalidParams

Range = tuple[int, int]
"Bytes [start, end) of a file."

LENGTH_BYTES = 8
"The header's length stands in the first bytes of a safetensors file."


def header_range(prefix: bytes, file_bytes: int, name: str) -> Range:
    """Where the header is, from the first 8 bytes of the file.

    Raises:
        InvalidParams: not the beginning of a safetensors file of `file_bytes` bytes.
    """
    length = int.from_bytes(prefix[:LENGTH_BYTES], "little")
    end = LENGTH_BYTES + length
    if len(prefix) < LENGTH_BYTES or length > MAX_HEADER_BYTES or end > file_bytes:
        raise InvalidParams(
            f"{name} claims a header of {length} bytes in a file of {file_bytes} (at most"
            f" {MAX_HEADER_BYTES} are read); it is damaged or no safetensors file"
        )
    return LENGTH_BYTES, end


def layout_from(header: bytes, file_bytes: int, name: str) -> Layout:
    """The layout of a file from its JSON header, without the file.

    Raises:
        InvalidParams: damaged.
    """
    try:
        return parse_header(header, file_bytes)
    except InvalidParams as e:
        raise InvalidParams(f"{name}: {e.message}") from None


def tensor_ranges(layout: Layout, names: Collection[str]) -> list[Range]:
    """The bytes of the tensors `names` that are in this file, joined where they touch."""
    places = (layout.tensors[name] for name in names if name in layout.tensors)
    return joined((place.start, place.end) for place in places)


def joined(ranges: Iterable[Range]) -> list[Range]:
    """The same bytes in ascending order, with as few ranges as possible."""
    found: list[Range] = []
    for start, end in sorted(r for r in ranges if r[0] < r[1]):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((start, end))
    return found


def size_of(ranges: Iterable[Range]) -> int:
    """The number of bytes in ranges that do not overlap."""
    return sum(end - start for start, end in ranges)


def files_of(weight_map: Mapping[str, str], names: Collection[str]) -> list[str]:
    """The files that hold the tensors `names`, sorted."""
    return sorted({weight_map[name] for name in names if name in weight_map})
