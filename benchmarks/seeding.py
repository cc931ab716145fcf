"""Sharing and fetching a file against libtorrent, qBittorrent and huggingface_hub, in alternation.

In a network namespace, a node seeds a file in memory (/dev/shm). Another node fetches it by its
digest, and qBittorrent by its torrent; huggingface_hub's `hf_hub_download` fetches it from nginx
into a fresh cache. Times end when the file is complete; the node's includes the SHA-256 of the
whole, which the others do not compute, so huggingface_hub's is given with it, too. `bound` is what
a copy with both digests takes at least (seeding_bound.py). Processor time is that of both ends.
Sharing, from the command to the announcement, is compared with libtorrent's own hashing. Then a
node fetches the file from the web server alone and from both, and eight nodes fetch one at once
from a seeder whose upload is limited; their sessions run before, since eight starts would share the
processors of this machine. Needs root, nginx and qbittorrent-nox.

    python benchmarks/seeding.py --out benchmarks/results/seeding.json
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "plugins")]

from aitorrent_seeding.torrents import bencode, canonical  # noqa: E402
from aitorrent_seeding.torrents.hashing import hash_file  # noqa: E402
from benchmarks.report import finish, spread  # noqa: E402
from benchmarks.seeding_bound import bound  # noqa: E402
from benchmarks.seeding_rivals import (  # noqa: E402
    LIMIT_S,
    MIB,
    Took,
    Watch,
    WebServer,
    huggingface_hub,
    libtorrent_hash,
    nginx,
    qbittorrent,
)
from tests.support.nat.namespaces import ip, namespaces  # noqa: E402
from tests.support.nodes import Daemon, DaemonFactory  # noqa: E402
from tests.support.seeding.daemons import download, make_file, seeding_daemon, settings  # noqa: E402

SEED, LEECH, QBIT = "10.77.0.1", "10.77.0.2", "10.77.0.3"
TRACKER: Final = f"http://{SEED}:6969/announce"
CROWD: Final = 8
CROWD_BPS: Final = 8 * MIB
CROWD_SIZE: Final = 128 * MIB
"Of 32 pieces. Real ones have thousands; the last one of a small file is a large part of its time."


async def share(seed: Daemon, file: Path, digest: str) -> Took:
    """A node's share of a file that it does not know."""
    await seed.call("seeding.remove", {"which": digest})
    watch = Watch(seed.pid)
    await seed.call("seeding.share", {"path": str(file), "trackers": [TRACKER]}, timeout_s=LIMIT_S)
    return watch.took()


async def fetch(leech: Daemon, digest: str, *ends: int, **params: Any) -> Took:
    """A node's download; `ends` are the processes that send."""
    watch = Watch(leech.pid, *ends)
    await download(leech, digest, timeout_s=LIMIT_S, **params)
    took = watch.took()
    await leech.call("seeding.remove", {"which": digest, "files": True})
    return took


async def single(size: int, rounds: int, folder: Path) -> dict[str, list[Took]]:
    """Each way in turn, `rounds` times."""
    digest = make_file(folder / "file", size)
    hashes, _ = hash_file(folder / "file")
    info = bencode.decode(canonical.metainfo(hashes)).value[b"info"]
    raw = bencode.encode({b"announce": TRACKER.encode(), b"info": info})
    daemons = DaemonFactory()
    found: dict[str, list[Took]] = {}
    with namespaces() as made, nginx(folder, digest) as web:
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
            shared = await seed.call("seeding.share", {"path": str(folder / "file")})
            info_hash = shared["files"][0]["info_hash"]
            tables = {
                "dht": {"enabled": False},
                "transport": {
                    "listen": LEECH,
                    "bootstrap": (await seed.call("node.id"))["addresses"],
                },
                "seeding": settings(listen=LEECH, directory=str(folder / "leech")),
            }
            leech = await daemons({"plugins": tables}, namespace=street)
            await fetch(leech, digest)  # starts its session
            for n in range(rounds):
                http, checked = await asyncio.to_thread(huggingface_hub, web, folder)
                took = {
                    "share": await share(seed, folder / "file", digest),
                    "libtorrent_hash": await asyncio.to_thread(libtorrent_hash, folder / "file"),
                    "node": await fetch(leech, digest, seed.pid),
                    "http": http,
                    "http_checked": checked,
                    "bound": await asyncio.to_thread(bound, folder / "file", folder),
                    "qbittorrent": await qbittorrent(
                        street, QBIT, raw, info_hash, folder / f"round-{n}", seed.pid
                    ),
                }
                for name, one in took.items():
                    found.setdefault(name, []).append(one)
            await beside_web(daemons, web, folder, digest, rounds, found)
        finally:
            await daemons.close()
    return found


async def beside_web(
    daemons: DaemonFactory,
    web: WebServer,
    folder: Path,
    digest: str,
    rounds: int,
    found: dict[str, list[Took]],
) -> None:
    """From a peer, from the web, and from both, on loopback: nginx is not in the namespace."""
    seed = await seeding_daemon(daemons)
    await seed.call("seeding.share", {"path": str(folder / "file")}, timeout_s=LIMIT_S)
    near = await seeding_daemon(daemons, seed, directory_of_files=folder / "near")
    alone = await seeding_daemon(daemons, directory_of_files=folder / "alone")
    urls = [f"{web.url}/file"]
    await fetch(near, digest)
    for _ in range(rounds):
        took = {
            "peer": await fetch(near, digest, seed.pid),
            "web": await fetch(alone, digest, *web.workers, urls=urls),
            "web_and_peer": await fetch(near, digest, seed.pid, *web.workers, urls=urls),
        }
        for name, one in took.items():
            found.setdefault(name, []).append(one)


async def crowd(leechers: int, folder: Path) -> float:
    """Seconds until all of so many nodes have a file from a seeder with a limit."""
    daemons = DaemonFactory()
    digest = make_file(folder / "capped", CROWD_SIZE, seed=2)
    small = make_file(folder / "small", MIB, seed=3)
    try:
        seed = await seeding_daemon(daemons, upload_limit=CROWD_BPS)
        for name in ("small", "capped"):
            await seed.call("seeding.share", {"path": str(folder / name)})
        nodes: list[Daemon] = []
        for _ in range(leechers):
            node = await seeding_daemon(daemons, seed)
            for other in nodes:
                address = (await other.call("node.id"))["addresses"][0]
                await node.call("transport.connect", {"address": address})
            nodes.append(node)
            await download(node, small)  # starts its session
        watch = Watch()
        await asyncio.gather(*(download(node, digest, timeout_s=LIMIT_S) for node in nodes))
        return watch.took().wall_s
    finally:
        await daemons.close()


async def measure(size: int, rounds: int, folder: Path) -> dict[str, object]:
    """All figures, and the medians of the rounds' ratios of rates."""
    found = await single(size, rounds, folder)
    alone, many = [], []
    for _ in range(rounds):
        alone.append(await crowd(1, folder))
        many.append(await crowd(CROWD, folder))

    def ratio(of: str, *to: str) -> dict[str, float]:
        def one(n: int, clock: str) -> float:
            best = min(getattr(found[name][n], clock) for name in to)
            return float(best / max(0.01, getattr(found[of][n], clock)))

        return {
            clock.removesuffix("_s"): round(
                statistics.median(one(n, clock) for n in range(rounds)), 3
            )
            for clock in ("wall_s", "cpu_s")
        }

    return {
        "size_mib": size // MIB,
        "rounds": rounds,
        "mib_per_s": {
            name: spread([size / MIB / took.wall_s for took in all_])
            for name, all_ in found.items()
        },
        "cpu_s": {name: spread([took.cpu_s for took in all_]) for name, all_ in found.items()},
        "share_to_libtorrent": ratio("share", "libtorrent_hash"),
        "node_to_http": ratio("node", "http"),
        "node_to_http_checked": ratio("node", "http_checked"),
        "bound_to_http": ratio("bound", "http"),
        "node_to_qbittorrent": ratio("node", "qbittorrent"),
        "web_and_peer_to_better_alone": ratio("web_and_peer", "web", "peer"),
        "crowd": {
            "nodes": CROWD,
            "size_mib": CROWD_SIZE // MIB,
            "limit_mib_per_s": CROWD_BPS // MIB,
            "one_s": spread(alone),
            "all_s": spread(many),
            "all_to_one": round(
                statistics.median(b / a for a, b in zip(alone, many, strict=True)), 3
            ),
        },
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
