"""What seeding is measured against, and how much processor time each way takes."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import libtorrent as lt

from tests.support.clients.programs import QBittorrent
from tests.support.nodes import free_port, wait_for

LIMIT_S: Final = 300.0
MIB: Final = 2**20
_REPO: Final = "org/model"
_COMMIT: Final = "0123456789" * 4
_TICKS: Final = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Took:
    """Seconds on the clock, and of processors."""

    wall_s: float
    cpu_s: float


def cpu_s(*pids: int) -> float:
    """Processor time of these processes so far."""
    total = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()
        total += int(fields[11]) + int(fields[12])
    return total / _TICKS


class Watch:
    """Measures from its creation on."""

    def __init__(self, *pids: int) -> None:
        self._pids = pids
        self._cpu_s = cpu_s(*pids)
        self._started = time.perf_counter()

    def took(self) -> Took:
        """So far."""
        wall_s = time.perf_counter() - self._started
        return Took(wall_s, cpu_s(*self._pids) - self._cpu_s)


@dataclass(frozen=True, slots=True)
class WebServer:
    """A running nginx."""

    url: str
    workers: tuple[int, ...]
    "Process ids."


@contextmanager
def nginx(folder: Path, digest: str, address: str = "127.0.0.1") -> Iterator[WebServer]:
    """A server of the files in `folder`, and of `file` as the hub serves it."""
    port = free_port()
    conf = folder / "nginx.conf"
    as_hub = (
        f"location /{_REPO}/resolve/main/file {{ alias {folder}/file; etag off;"
        f" add_header X-Repo-Commit {_COMMIT}; add_header ETag '\"{digest}\"'; }}"
    )
    conf.write_text(
        f"worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/nginx.log; user root;"
        f"events {{}} http {{ sendfile on; access_log off; server {{ listen {address}:{port};"
        f" root {folder}; {as_hub} }} }}"
    )
    server = subprocess.Popen(["nginx", "-c", conf, "-g", "daemon off;"])
    try:
        workers: list[str] = []
        until = time.monotonic() + 10
        while not workers and time.monotonic() < until:
            time.sleep(0.05)
            children = Path(f"/proc/{server.pid}/task/{server.pid}/children")
            workers = children.read_text(encoding="ascii").split()
        yield WebServer(f"http://{address}:{port}", tuple(map(int, workers)))
    finally:
        server.terminate()
        server.wait()


def libtorrent_hash(file: Path) -> Took:
    """libtorrent's hashing of a file: SHA-1 of its pieces, on one thread."""
    made = lt.create_torrent(lt.list_files(str(file)), 4 * MIB, lt.create_torrent.v1_only)
    watch = Watch(os.getpid())
    lt.set_piece_hashes(made, str(file.parent))
    return watch.took()


def huggingface_hub(web: WebServer, folder: Path) -> tuple[Took, Took]:
    """huggingface_hub's own download over HTTP into a fresh cache, without and with the SHA-256 of
    what came, which it does not compute."""
    from huggingface_hub import hf_hub_download

    cache = folder / "hub"
    watch = Watch(os.getpid(), *web.workers)
    path = hf_hub_download(_REPO, "file", endpoint=web.url, cache_dir=cache)
    fetched = watch.took()
    with open(path, "rb") as file:
        hashlib.file_digest(file, "sha256")
    checked = watch.took()
    shutil.rmtree(cache)
    return fetched, checked


async def qbittorrent(
    street: str, address: str, raw: bytes, info_hash: str, folder: Path, seed: int
) -> Took:
    """qBittorrent in a network namespace, from the moment it is given the torrent."""
    program = QBittorrent(street, address, folder / "program")
    (folder / "files").mkdir()
    try:
        watch = Watch(program.pid, seed)
        program.add(raw, folder / "files")
        await wait_for(lambda: info_hash in program.complete(), LIMIT_S, every_s=0.05)
        return watch.took()
    finally:
        await asyncio.to_thread(program.stop)
        shutil.rmtree(folder)
