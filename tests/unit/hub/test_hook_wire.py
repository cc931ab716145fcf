"""The hook's own msgpack, against the library that the daemon uses; files that it places."""

from __future__ import annotations

import os
import sys
import types
from pathlib import Path
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

import aitorrent_hf

SENT = st.recursive(
    st.integers(0, 2**64 - 1) | st.text(max_size=70),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)
RECEIVED = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=70)
    | st.binary(max_size=70),
    lambda inner: st.lists(inner, max_size=20) | st.dictionaries(st.text(), inner, max_size=17),
    max_leaves=10,
)


@given(SENT)
def test_what_the_hook_sends_is_msgpack(value: Any) -> None:
    assert msgpack.unpackb(aitorrent_hf._packed(value)) == value


@given(RECEIVED)
def test_what_the_daemon_sends_is_understood(value: Any) -> None:
    raw = msgpack.packb(value)
    assert aitorrent_hf._unpacked(raw, 0) == (value, len(raw))


@given(st.binary(max_size=60))
def test_other_bytes_are_an_error_that_the_hook_catches(raw: bytes) -> None:
    try:
        aitorrent_hf._unpacked(raw, 0)
    except Exception as e:
        assert not isinstance(e, (SystemError, MemoryError))


@pytest.mark.parametrize("links", [True, False])
def test_a_copy_is_whole_whatever_the_file_system_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    def cannot(*args: Any) -> None:
        raise OSError("not here")

    monkeypatch.setattr(aitorrent_hf, "_clone", cannot)
    if not links:
        monkeypatch.setattr(os, "link", cannot)
    source = tmp_path / "source"
    source.write_bytes(b"weights")
    assert aitorrent_hf._copy(str(source), tmp_path / "target") is links
    assert (tmp_path / "target").read_bytes() == b"weights"


def test_a_library_without_the_function_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("huggingface_hub.file_download")
    monkeypatch.setitem(sys.modules, "huggingface_hub.file_download", module)
    aitorrent_hf.enable()
    assert not hasattr(module, "_download_to_tmp_and_move")


def test_enabling_twice_wraps_once(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("huggingface_hub.file_download")
    calls: list[dict[str, Any]] = []
    module._download_to_tmp_and_move = lambda **given: calls.append(given)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "huggingface_hub.file_download", module)
    aitorrent_hf.enable()
    wrapped = module._download_to_tmp_and_move
    aitorrent_hf.enable()
    assert module._download_to_tmp_and_move is wrapped
    wrapped(filename="a")  # without what the hook needs
    assert calls == [{"filename": "a"}]
