"""Sharing and fetching a file against libtorrent, qBittorrent and huggingface_hub, in alternation.

In a network namespace, a node seeds a file in memory (/dev/shm). Another node fetches it by its
digest, and qBittorrent by its torrent; huggingface_hub's `http_get` fetches it from nginx. Times
end when the file is complete; the node's includes the SHA-256 of the whole, which the others do not
compute. Sharing is compared with libtorrent's own hashing. Needs root, nginx and qbittorrent-nox.

    python benchmarks/seeding.py --out benchmarks/results/seeding.json
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import libtorrent as lt

ROOT: Final = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "plugins")]

from aitorrent_seeding.torrents import bencode, canonical  # noqa: E402
from aitorrent_seeding.torrents.hashing import hash_file  # noqa: E402
from benchmarks.report import finish, spread  # noqa: E402
from tests.support.clients.programs import QBittorrent  # noqa: E402
from tests.support.nat.namespaces import ip, namespaces  # noqa: E402
from tests.support.nodes import Daemon, DaemonFactory, free_port, wait_for  # noqa: E402
from tests.support.seeding.daemons import MIB, download, make_file, settings  # noqa: E402

SEED, LEECH, QBIT = "10.77.0.1", "10.77.0.2", "10.77.0.3"
TRACKER: Final = f"http://{SEED}:6969/announce"
LIMIT_S: Final = 300.0


@contextmanager
def nginx(folder: Path) -> Iterator[str]:
    """The URL of a server of the files in `folder`."""
    port = free_port()
    conf = folder / "nginx.conf"
    conf.write_text(
        f"worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/nginx.log; user root;"
        f"events {{}} http {{ sendfile on; access_log off; server {{ listen 127.0.0.1:{port};"
        f" root {folder}; }} }}"
    )
    server = subprocess.Popen(["nginx", "-c", conf, "-g", "daemon off;"])
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()


def hash_s(file: Path) -> tuple[float, float]:
    """Seconds of the node's pass (SHA-1 of pieces and SHA-256), and of libtorrent's (SHA-1)."""
    started = time.perf_counter()
    hash_file(file)
    ours = time.perf_counter() - started
    made = lt.create_torrent(lt.list_files(str(file)), 4 * MIB, lt.create_torrent.v1_only)
    started = time.perf_counter()
    lt.set_piece_hashes(made, str(file.parent))
    return ours, time.perf_counter() - started


def http_s(url: str, folder: Path) -> float:
    """Seconds of huggingface_hub."""
    from huggingface_hub.file_download import http_get

    started = time.perf_counter()
    with (folder / "http").open("wb") as file:
        http_get(url, file)
    took = time.perf_counter() - started
    (folder / "http").unlink()
    return took


async def node_s(leech: Daemon, digest: str) -> float:
    """Seconds of a node."""
    started = time.perf_counter()
    await download(leech, digest, timeout_s=LIMIT_S)
    took = time.perf_counter() - started
    await leech.call("seeding.remove", {"which": digest, "files": True})
    return took


async def qbittorrent_s(street: str, raw: bytes, info_hash: str, folder: Path) -> float:
    """Seconds of qBittorrent, from the moment it is given the torrent."""
    program = QBittorrent(street, QBIT, folder / "program")
    (folder / "files").mkdir()
    try:
        started = time.perf_counter()
        program.add(raw, folder / "files")
        await wait_for(lambda: info_hash in program.complete(), LIMIT_S, every_s=0.05)
        return time.perf_counter() - started
    finally:
        await asyncio.to_thread(program.stop)
        shutil.rmtree(folder)


async def measure(size: int, rounds: int, folder: Path) -> dict[str, object]:
    """All figures, in MiB/s, and the medians of the rounds' ratios."""
    digest = make_file(folder / "file", size)
    hashes, _ = hash_file(folder / "file")
    info = bencode.decode(canonical.metainfo(hashes)).value[b"info"]
    raw = bencode.encode({b"announce": TRACKER.encode(), b"info": info})
    daemons = DaemonFactory()
    found: dict[str, list[float]] = {}
    with namespaces() as made, nginx(folder) as url:
        street = made.make()
        for address in (SEED, LEECH, QBIT):
            ip("-n", street, "addr", "add", f"{address}/24", "dev", "lo")
        try:
            tables = {"dht": {"enabled": False}, "transport": {"listen": SEED}}
            tracker = {"enabled": True, "listen": SEED, "open": True}
            seeding = settings(listen=SEED)
            seed = await daemons(
                {"plugins": {**tables, "tracker": tracker, "seeding": seeding}}, namespace=street
            )
            shared = await seed.call(
                "seeding.share", {"path": str(folder / "file"), "trackers": [TRACKER]}
            )
            bootstrap = (await seed.call("node.id"))["addresses"]
            tables = {
                "dht": {"enabled": False},
                "transport": {"listen": LEECH, "bootstrap": bootstrap},
                "seeding": settings(listen=LEECH, directory=str(folder / "leech")),
            }
            leech = await daemons({"plugins": tables}, namespace=street)
            info_hash = shared["files"][0]["info_hash"]
            for n in range(rounds):
                ours, theirs = await asyncio.to_thread(hash_s, folder / "file")
                took = {
                    "share": ours,
                    "libtorrent_hash": theirs,
                    "node": await node_s(leech, digest),
                    "http": await asyncio.to_thread(http_s, f"{url}/file", folder),
                    "qbittorrent": await qbittorrent_s(
                        street, raw, info_hash, folder / f"round-{n}"
                    ),
                }
                for name, seconds in took.items():
                    found.setdefault(name, []).append(size / MIB / seconds)
        finally:
            await daemons.close()

    def ratio(of: str, to: str) -> float:
        pairs = zip(found[of], found[to], strict=True)
        return round(statistics.median(a / b for a, b in pairs), 3)

    return {
        "size_mib": size // MIB,
        "mib_per_s": {name: spread(values) for name, values in found.items()},
        "share_to_libtorrent": ratio("share", "libtorrent_hash"),
        "node_to_http": ratio("node", "http"),
        "node_to_qbittorrent": ratio("node", "qbittorrent"),
    }


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--mib", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        figures = asyncio.run(measure(options.mib * MIB, options.rounds, Path(folder)))
    finish(figures, options.out)


if __name__ == "__main__":
    main()
