"""The first range that is asked for comes before the others, whatever its place in the file."""

from __future__ import annotations

import hashlib
from pathlib import Path

from aitorrentd.api.models.weights import WantedFile
from tests.support.nodes import NodeFactory
from tests.support.seeding.daemons import MIB, make_file
from tests.support.seeding.transfers import address_of, sharing_node, weights

PIECE = 4 * MIB
PIECES = 24
SIZE = PIECES * PIECE
AT = (15 * PIECE, 18 * PIECE)


async def test_header_is_verified_and_readable_long_before_the_tensors(
    node_factory: NodeFactory, tmp_path: Path
) -> None:
    """Where a header lies in this file, chance alone would bring it so early once in 2,000 runs."""
    digest = make_file(tmp_path / "f", SIZE)
    content = (tmp_path / "f").read_bytes()
    seeder = await sharing_node(node_factory, upload_limit="8MiB/s")
    await weights(seeder).offer(tmp_path / "f")
    node = await sharing_node(node_factory, address_of(seeder))
    rest = [(0, AT[0]), (AT[1], SIZE)]
    fetch = await weights(node).fetch(WantedFile(digest, SIZE, "f"), ranges=[AT, *rest])
    header = await weights(node).fetch(WantedFile(digest, SIZE, "f"), ranges=[AT])

    path = await header.want([AT])

    done = fetch.progress().done
    with path.open("rb") as file:
        file.seek(AT[0])
        found = hashlib.sha256(file.read(AT[1] - AT[0])).digest()
    assert found == hashlib.sha256(content[slice(*AT)]).digest()
    assert done <= 2 * (AT[1] - AT[0]), f"{done} of {SIZE} bytes came before, or with it"
    assert fetch.progress().total == SIZE
    await fetch.want([AT, *rest])
    header.release()
    fetch.release()
