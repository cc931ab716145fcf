"""Names that clients gave models, on the disk."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from aitorrent_gateway.core.aliases import MAX_SAVED, Aliases
from aitorrentd.api import Unavailable

LOG = logging.getLogger("test.gateway")


async def loaded(path: Path, **configured: str) -> Aliases:
    aliases = Aliases(configured, path, LOG)
    await aliases.load()
    return aliases


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"{", b"[]", b"null", b"[" * 10_000, b"\xff", b" " * 2**19),
        *(b'{"a b": "m"}', b'{"c": 1}', b'{"c": ""}', b'{"../c": "m"}'),
        json.dumps({"c": "m" * 257}).encode(),
        json.dumps({f"c{n}": "m" for n in range(MAX_SAVED + 1)}).encode(),
    ],
)
async def test_damaged_file_is_set_aside_and_told(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "aliases.json"
    path.write_bytes(content)
    aliases = await loaded(path)
    assert "was damaged; it is now" in aliases.problem
    assert (aliases.names(), path.exists()) == ({}, False)
    await aliases.save("c", "m")
    assert (await loaded(path)).names() == {"c": "m"}


async def test_names_of_the_settings_win(tmp_path: Path) -> None:
    path = tmp_path / "aliases.json"
    aliases = await loaded(path)
    await aliases.save("c", "m")
    await aliases.save("d", "m")
    later = await loaded(path, c="n")
    assert later.names() == {"c": "n", "d": "m"}
    assert (later.is_saved("c"), later.is_saved("d")) == (False, True)
    await later.forget_model("m")
    assert (await loaded(path)).names() == {}


async def test_name_that_cannot_be_saved_is_none(tmp_path: Path) -> None:
    aliases = await loaded(tmp_path / "gone" / "aliases.json")
    with pytest.raises(Unavailable, match="names of models cannot be saved"):
        await aliases.save("c", "m")
    assert aliases.names() == {}
