"""What is kept over restarts: whole, or set aside; never fatal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aitorrent_dht.core.contact import contact_of
from aitorrent_dht.net.saved import (
    MAX_CONTACTS,
    SavedFile,
    contacts_map,
    read_contacts,
    read_values,
    values_map,
)
from tests.support.dht.wired import Wired

CONTACTS = [contact_of(bytes([i]) * 32, f"9.9.9.{i}", 8000 + i) for i in range(1, 4)]


def test_contacts_and_values_come_back(tmp_path: Path) -> None:
    record = Wired(1).record()
    SavedFile(tmp_path / "c", "contacts").save(contacts_map(CONTACTS), durable=True)
    SavedFile(tmp_path / "v", "values").save(values_map([("name", record)]), durable=True)
    assert read_contacts(SavedFile(tmp_path / "c", "contacts").load()) == CONTACTS
    assert read_values(SavedFile(tmp_path / "v", "values").load()) == [("name", record)]


def test_missing_file_is_an_empty_one(tmp_path: Path) -> None:
    file = SavedFile(tmp_path / "c", "contacts")
    assert file.load() == {}
    assert file.problem == ""


@pytest.mark.parametrize("change", ["flip", "cut", "empty", "longer"])
def test_damaged_file_is_set_aside_and_replaced(tmp_path: Path, change: str) -> None:
    path = tmp_path / "c"
    SavedFile(path, "contacts").save(contacts_map(CONTACTS), durable=False)
    raw = bytearray(path.read_bytes())
    if change == "flip":
        raw[50] ^= 1
    elif change == "longer":
        raw += b"x"
    else:
        del raw[20 if change == "cut" else 0 :]
    path.write_bytes(raw)
    file = SavedFile(path, "contacts")
    assert file.load() == {}
    assert "contacts were damaged; the file is now" in file.problem
    assert (tmp_path / "c.damaged").read_bytes() == raw
    file.save(contacts_map(CONTACTS), durable=False)
    assert file.problem == ""
    assert read_contacts(file.load()) == CONTACTS


def test_number_of_saved_contacts_is_bounded() -> None:
    many = [contact_of(i.to_bytes(32, "big"), "9.9.9.9", 1) for i in range(500)]
    assert read_contacts(contacts_map(many)) == many[:MAX_CONTACTS]


_things = st.recursive(
    st.none() | st.integers() | st.text(max_size=5) | st.binary(max_size=40),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=2), inner),
)


@given(st.dictionaries(st.sampled_from(["contacts", "values", "v"]), _things))
def test_content_of_another_form_is_left_out(content: dict[str, Any]) -> None:
    assert isinstance(read_contacts(content), list)
    assert isinstance(read_values(content), list)
