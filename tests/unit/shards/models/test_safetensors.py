"""Safetensors headers: good ones are read exactly, all others are refused."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import safetensors
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError
from safetensors.torch import save_file

from aitorrent_shards.models.safetensors import (
    BITS,
    MAX_HEADER_BYTES,
    Layout,
    TensorRange,
    layout_of,
    open_weights,
    parse_header,
)
from aitorrentd.errors import InvalidParams
from tests.support.effort import examples


def read_layout(path: Path) -> Layout:
    fd = open_weights(path)
    try:
        return layout_of(fd, path.name)
    finally:
        os.close(fd)


def _entry(begin: int, end: int, shape: list[int] | None = None, dtype: str = "F32") -> Any:
    shape = [(end - begin) // 4] if shape is None else shape
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def _parse(entries: Any, data_bytes: int) -> Layout:
    header = json.dumps(entries).encode()
    return parse_header(header, 8 + len(header) + data_bytes)


def test_files_of_the_safetensors_library_are_read(tmp_path: Path) -> None:
    tensors = {
        "a.weight": torch.arange(6.0).view(2, 3),
        "b": torch.arange(3, dtype=torch.bfloat16),
        "c": torch.arange(5, dtype=torch.uint8),
        "empty": torch.empty(0, 7),
        "scalar": torch.tensor(2.5),
    }
    file = tmp_path / "model.safetensors"
    save_file(tensors, file, metadata={"format": "pt"})
    layout = read_layout(file)
    assert layout.tensors.keys() == tensors.keys()
    raw = file.read_bytes()
    for name, tensor in tensors.items():
        place = layout.tensors[name]
        assert place.shape == tuple(tensor.shape)
        assert raw[place.start : place.end] == bytes(tensor.flatten().view(torch.uint8).numpy())
    assert layout.header_bytes == min(place.start for place in layout.tensors.values())


_DESERIALIZE: Any = safetensors.deserialize
_FLOAT: dict[str, Any] = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    ("header", "data_bytes"),
    [
        # Comfy-Org/ComfyUI and modelaudit 1607: `scaled_fp8` of shape [0]
        ({"scaled_fp8": _entry(0, 0, [0], "F8_E4M3"), "x": _FLOAT}, 8),
        ({"x": _entry(0, 4), "none": _entry(4, 4, [0, 5]), "y": _entry(4, 8)}, 8),
        ({"y": _entry(4, 8), "x": _entry(0, 4)}, 8),
        ({"x": _entry(0, 4, [])}, 4),
        # fastsafetensors 88 and 96, safetensors 823: metadata that is empty or null
        ({"__metadata__": {}, "x": _FLOAT}, 8),
        ({"__metadata__": None, "x": _FLOAT}, 8),
        # safetensors 466 and 601: metadata without tensors
        ({"__metadata__": {"format": "pt"}}, 0),
        # safetensors 278: metadata that is no text
        ({"__metadata__": {"step": 1}, "x": _FLOAT}, 8),
        ({"x": {**_FLOAT, "more": 1}}, 8),
        ({"x": {"dtype": "F8_E4M3FNUZ", "shape": [8], "data_offsets": [0, 8]}}, 8),
        ({"x": {"dtype": "F4", "shape": [16], "data_offsets": [0, 8]}}, 8),
        ({"x": {"dtype": "I4", "shape": [16], "data_offsets": [0, 8]}}, 8),
        ({"x": {**_FLOAT, "dtype": "f32"}}, 8),
        ({"x": _FLOAT, "tied": _FLOAT}, 8),
        ({"层.0": _FLOAT}, 8),
        ({"../../etc/passwd": _FLOAT}, 8),
        ({"": _FLOAT}, 8),
        (json.dumps({"x": _FLOAT}) + " " * 64, 8),
        (json.dumps({"x": _FLOAT}) + "\0" * 8, 8),
        ("\ufeff" + json.dumps({"x": _FLOAT}), 8),
        ('{"\\ud800": ' + json.dumps(_FLOAT) + "}", 8),
    ],
)
def test_headers_that_people_met_are_read_if_the_library_reads_them(
    header: Any, data_bytes: int
) -> None:
    raw = (header if isinstance(header, str) else json.dumps(header)).encode()
    try:
        _DESERIALIZE(len(raw).to_bytes(8, "little") + raw + bytes(data_bytes))
    except SafetensorError:
        with pytest.raises(InvalidParams, match="damaged safetensors header"):
            parse_header(raw, 8 + len(raw) + data_bytes)
    else:
        parse_header(raw, 8 + len(raw) + data_bytes)


def test_ranges_count_from_the_start_of_the_file() -> None:
    header = json.dumps({"x": _entry(0, 8), "y": _entry(8, 12)}).encode() + b"   "
    layout = parse_header(header, 8 + len(header) + 12)
    start = 8 + len(header)
    assert layout == Layout(
        {
            "x": TensorRange("F32", (2,), start, start + 8),
            "y": TensorRange("F32", (1,), start + 8, start + 12),
        },
        start,
    )
    assert layout.tensors["y"].size_bytes == 4


@pytest.mark.parametrize(
    ("entries", "data_bytes", "says"),
    [
        ([], 0, "not a map"),
        ("x", 0, "not a map"),
        ({"x": 1}, 0, "needs dtype, shape and data_offsets"),
        ({"x": {"dtype": "F32", "shape": [1]}}, 4, "needs dtype"),
        ({"x": _entry(0, 4, dtype="F128")}, 4, "unknown dtype 'F128'"),
        ({"x": {**_entry(0, 4), "dtype": 7}}, 4, "unknown dtype '7'"),
        ({"x": _entry(0, 4, [-1])}, 4, "invalid shape"),
        ({"x": _entry(0, 4, [1.0])}, 4, "invalid shape"),  # type: ignore[list-item]
        ({"x": _entry(0, 4, [True])}, 4, "invalid shape"),
        ({"x": _entry(0, 4, [2**41])}, 4, "invalid shape"),
        ({"x": _entry(0, 4, [1] * 9)}, 4, "invalid shape"),
        ({"x": {**_entry(0, 4), "shape": 1}}, 4, "invalid shape"),
        ({"x": _entry(0, 8)}, 7, "truncated or damaged"),
        ({"x": _entry(0, 2**70, [1])}, 4, "truncated or damaged"),
        ({"x": _entry(-4, 0, [1])}, 4, "truncated or damaged"),
        ({"x": _entry(4, 0, [1])}, 4, "truncated or damaged"),
        ({"x": {**_entry(0, 4), "data_offsets": [0]}}, 4, "truncated or damaged"),
        ({"x": {**_entry(0, 4), "data_offsets": "04"}}, 4, "truncated or damaged"),
        ({"x": _entry(0, 8, [1])}, 8, "of 8 bytes cannot be F32 of shape"),
        ({"x": _entry(0, 4, [2**40] * 8)}, 4, "cannot be F32"),
        ({"x": _entry(0, 8), "y": _entry(4, 12)}, 12, "'y' overlaps"),
        ({"x": _entry(0, 8), "y": _entry(0, 8)}, 8, "'y' overlaps"),
        ({"x": _entry(0, 4), "y": _entry(8, 12)}, 12, "'y' leaves a hole"),
        ({"x": _entry(4, 8)}, 8, "'x' leaves a hole"),
        ({"x": _entry(0, 4)}, 8, "truncated or damaged"),
        ({"__metadata__": {"a": 1}}, 0, "__metadata__"),
        ({"__metadata__": []}, 0, "__metadata__"),
    ],
)
def test_headers_that_break_the_format_are_refused(
    entries: Any, data_bytes: int, says: str
) -> None:
    with pytest.raises(InvalidParams, match=says):
        _parse(entries, data_bytes)


@pytest.mark.parametrize(
    ("header", "says"),
    [
        (b"", "damaged safetensors header"),
        (b"{", "damaged safetensors header"),
        (b"\xff\xfe{\0}\0", "damaged safetensors header"),
        (b'{"x": 1, "x": 2}', "duplicate tensor name"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b'{"x": ' + b"9" * 5000 + b"}", "damaged safetensors header"),
    ],
)
def test_headers_that_are_no_json_map_are_refused(header: bytes, says: str) -> None:
    with pytest.raises(InvalidParams, match=says):
        parse_header(header, 8 + len(header))


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"", "has 0 bytes; this is not a safetensors file"),
        (b"1234567", "has 7 bytes"),
        ((100).to_bytes(8, "little") + b"{}", "claims a header of 100 bytes in a file of 10"),
        (b"\xff" * 64, "claims a header of 18446744073709551615 bytes"),
        ((2).to_bytes(8, "little") + b"{}x", "tensors end at byte 10 of a file of 11"),
    ],
)
def test_files_with_bad_lengths_are_refused(tmp_path: Path, raw: bytes, says: str) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(raw)
    with pytest.raises(InvalidParams, match=says):
        read_layout(file)


def test_forged_header_length_is_refused_without_reading_it(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    with file.open("wb") as out:  # sparse: big for the length check, small on disk
        out.write((MAX_HEADER_BYTES + 1).to_bytes(8, "little"))
        out.truncate(1 << 40)
    with pytest.raises(InvalidParams, match="claims a header"):
        read_layout(file)


def test_directories_and_missing_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidParams, match="cannot read"):
        read_layout(tmp_path / "absent.safetensors")
    with pytest.raises(InvalidParams, match="cannot read"):
        read_layout(tmp_path)
    os.mkfifo(tmp_path / "pipe.safetensors")
    with pytest.raises(InvalidParams, match="not a regular file"):
        read_layout(tmp_path / "pipe.safetensors")


_SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6)
_JSON = st.recursive(
    _SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner),
    max_leaves=12,
)
_ENTRIES = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(sorted(BITS)) | _SCALARS,
        "shape": st.lists(st.integers(-1, 6), max_size=3) | _SCALARS,
        "data_offsets": st.lists(st.integers(-1, 70), min_size=1, max_size=3) | _SCALARS,
    }
)


@given(st.binary(max_size=300), st.integers(0, 400))
@settings(max_examples=examples(200))
def test_random_bytes_are_a_layout_or_refused(header: bytes, file_bytes: int) -> None:
    _check(header, file_bytes)


@given(
    st.dictionaries(st.text(max_size=6) | st.just("__metadata__"), _ENTRIES | _JSON, max_size=4),
    st.integers(-1, 80),
)
@settings(max_examples=examples(200))
def test_random_maps_are_a_layout_or_refused(entries: Any, data_bytes: int) -> None:
    header = json.dumps(entries).encode()
    _check(header, 8 + len(header) + data_bytes)


@given(st.lists(st.sampled_from(["F32", "BF16", "U8", "F64"]), max_size=6), st.data())
@settings(max_examples=examples(100))
def test_headers_made_by_the_rules_are_read(dtypes: list[str], data: st.DataObject) -> None:
    entries, at = {}, 0
    for i, dtype in enumerate(dtypes):
        shape = data.draw(st.lists(st.integers(0, 5), max_size=3))
        size = BITS[dtype] // 8
        for dim in shape:
            size *= dim
        entries[f"t{i}"] = _entry(at, at + size, shape, dtype)
        at += size
    layout = _parse(entries, at)
    assert sum(place.size_bytes for place in layout.tensors.values()) == at
    header = json.dumps(entries).encode()
    wrong = at + data.draw(st.sampled_from([-1, 1, 1000]))
    with pytest.raises(InvalidParams, match="header"):
        parse_header(header, 8 + len(header) + wrong)


def _check(header: bytes, file_bytes: int) -> None:
    try:
        layout = parse_header(header, file_bytes)
    except InvalidParams:
        return
    for place in layout.tensors.values():
        assert layout.header_bytes <= place.start <= place.end <= file_bytes
