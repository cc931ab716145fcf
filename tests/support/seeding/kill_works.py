"""What is done while daemons are killed: sharing, and downloads from nodes and from the web."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import shutil
import sqlite3
import tempfile
from pathlib import Path
from typing import Final

from aitorrent_seeding.library.store import Held
from aitorrent_seeding.torrents.canonical import piece_length
from tests.support.nodes import Daemon, DaemonFactory
from tests.support.seeding.daemons import MIB, download, make_file, torrents
from tests.support.seeding.kill_trials import LIFE_S, Found, Work
from tests.support.seeding.web import FileServer

SIZE: Final = 37 * MIB + 12_345
RATE: Final = "24MiB/s"
"At which the seeder and the web send, so that a download takes about two seconds."
FILES: Final = 12
FILE: Final = 5 * MIB + 77
_COUNTED_S: Final = 1.2
"Numbers of torrents are this old at most."


def sha256_of(path: Path) -> str:
    """The digest of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def files_of(state_dir: Path) -> Path:
    """Where a daemon keeps what it fetched."""
    return state_dir / "seeding" / "files"


def held_in(state_dir: Path) -> list[Held]:
    """What a dead daemon had saved of its torrents."""
    database = state_dir / "seeding" / "seeding.sqlite"
    with tempfile.TemporaryDirectory() as copy:  # a connection to the original would change it
        for path in database.parent.glob(f"{database.name}*"):
            shutil.copy(path, copy)
        with contextlib.closing(sqlite3.connect(Path(copy) / database.name)) as db:
            try:
                rows = db.execute("SELECT state FROM torrents").fetchall()
            except sqlite3.OperationalError:
                return []  # it was killed before it made the table
    return [Held.model_validate_json(state) for (state,) in rows]


def check_complete(state_dir: Path) -> None:
    """That everything that is called complete has its digest."""
    for held in held_in(state_dir):
        if held.is_whole:
            assert sha256_of(held.path) == held.sha256, f"{held.path} is called whole"
    for path in files_of(state_dir).glob("?" * 64):
        if path.stat().st_mode & 0o222 == 0:
            assert sha256_of(path) == path.name, f"{path} is read-only"


def pieces_on(path: Path, content: bytes) -> list[bool]:
    """Which pieces of a file that should have `content` are in it."""
    length = piece_length(len(content))
    there = path.read_bytes() if path.exists() else b""
    starts = range(0, len(content), length)
    return [there[at : at + length] == content[at : at + length] for at in starts]


class Sharing(Work):
    """Share a folder; the user's files are never touched, and what was answered is kept."""

    def __init__(self, daemons: DaemonFactory, found: Found, folder: Path) -> None:
        super().__init__(daemons, found)
        self._folder = folder
        self._turn = 0
        self._digests: dict[Path, str] = {}
        self._kept: dict[Path, str] = {}
        "What was answered."

    async def bootstrap(self) -> list[str]:
        """Alone."""
        return []

    async def begin(self) -> None:
        """Other files."""
        self._turn += 1
        shutil.rmtree(self._folder, ignore_errors=True)
        self._kept = {}
        if self.directory is not None:
            shutil.rmtree(self.directory / "state")
        self._digests = {
            path: make_file(path, FILE, seed=100 * self._turn + n)
            for n, path in enumerate(self._folder / f"{n:02}" for n in range(FILES))
        }

    async def do(self, daemon: Daemon) -> None:
        """Share the folder."""
        reply = await daemon.call("seeding.share", {"path": str(self._folder)}, timeout_s=LIFE_S)
        self._kept = {Path(file["path"]): file["sha256"] for file in reply["files"]}

    def check(self, state_dir: Path) -> None:
        """Files are as they were, and only right digests are saved: all that were answered."""
        check_complete(state_dir)
        assert {path: sha256_of(path) for path in self._folder.iterdir()} == self._digests
        saved = {held.path: held.sha256 for held in held_in(state_dir)}
        assert saved.items() <= self._digests.items()
        assert self._kept.items() <= saved.items(), "what was answered is lost"

    async def check_finished(self, daemon: Daemon) -> None:
        """All are seeded."""
        assert self._kept == self._digests
        states = {row["state"] for row in await torrents(daemon)}
        assert states <= {"seeding", "checking"}, states


class Downloading(Work):
    """Fetch a file by its digest from a node, if there is one."""

    def __init__(
        self, daemons: DaemonFactory, found: Found, folder: Path, seeder: Daemon | None = None
    ) -> None:
        super().__init__(daemons, found)
        self._seeder = seeder
        self._folder = folder
        self._turn = 0
        self._digest = ""
        self._content = b""
        self._there: list[bool] = []

    async def bootstrap(self) -> list[str]:
        """The seeder's."""
        if self._seeder is None:
            return []
        addresses: list[str] = (await self._seeder.call("node.id"))["addresses"]
        return addresses

    async def begin(self) -> None:
        """Another file."""
        self._turn += 1
        path = self._folder / f"{self._turn}"
        self._digest = make_file(path, SIZE, seed=self._turn)
        self._content = path.read_bytes()
        self._there = [False] * len(pieces_on(path, self._content))
        if self._seeder is not None:
            await self._seeder.call("seeding.share", {"path": str(path)}, timeout_s=LIFE_S)

    async def do(self, daemon: Daemon) -> None:
        """Fetch it."""
        await download(daemon, self._digest, timeout_s=LIFE_S)

    def check(self, state_dir: Path) -> None:
        """What is complete is right; pieces that were there are there."""
        check_complete(state_dir)
        there = pieces_on(files_of(state_dir) / self._digest, self._content)
        lost = [n for n, (old, new) in enumerate(zip(self._there, there, strict=True)) if old > new]
        assert not lost, f"pieces {lost} were there"
        self._there = there

    async def check_finished(self, daemon: Daemon) -> None:
        """It is right, and only what was missing came."""
        path = files_of(daemon.state_dir) / self._digest
        assert path.read_bytes() == self._content
        assert path.stat().st_mode & 0o222 == 0, "it can still be written"
        fetched = await self.fetched(daemon)
        missing = self.missing()
        assert fetched <= missing, f"{fetched} bytes came, and {missing} were missing"
        self.found.kept_bytes += SIZE - missing

    def missing(self) -> int:
        """Bytes that were not there when this life began."""
        return missing_bytes(self._there, SIZE)

    async def fetched(self, daemon: Daemon) -> int:
        """Bytes that came in this life."""
        await asyncio.sleep(_COUNTED_S)
        (row,) = [row for row in await torrents(daemon) if row["sha256"] == self._digest]
        return int(row["downloaded"])


class FromTheWeb(Downloading):
    """Fetch a file by its digest from a web server; no node has it."""

    def __init__(
        self, daemons: DaemonFactory, found: Found, folder: Path, server: FileServer
    ) -> None:
        super().__init__(daemons, found, folder)
        self._server = server
        self._begun = 0
        self._before = 0

    async def begin(self) -> None:
        """Another file."""
        await super().begin()
        self._server.content = self._content
        self._begun = 0

    async def do(self, daemon: Daemon) -> None:
        """Fetch it."""
        self._before = self._server.sent
        await download(daemon, self._digest, urls=[self._server.url], timeout_s=LIFE_S)

    def check(self, state_dir: Path) -> None:
        """What is complete is right, and what is there is its beginning."""
        check_complete(state_dir)
        path = files_of(state_dir) / self._digest
        there = path.read_bytes() if path.exists() else b""
        assert self._content.startswith(there), "wrong bytes"
        assert len(there) >= self._begun, "bytes that were there are lost"
        self._begun = len(there)

    def missing(self) -> int:
        """Bytes that were not there when this life began."""
        return SIZE - self._begun

    async def fetched(self, daemon: Daemon) -> int:
        """Bytes that came in this life."""
        return self._server.sent - self._before


def missing_bytes(there: list[bool], size: int) -> int:
    """Bytes of the pieces that are not there, of a file of `size` bytes."""
    length = piece_length(size)
    return sum(min(length, size - length * n) for n, here in enumerate(there) if not here)
