"""`share`, `download`, `seed` and `torrents` on the command line, and torrents that others made."""

from __future__ import annotations

import asyncio
import hashlib
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import libtorrent as lt
import pytest

from aitorrentd.api import InvalidParams, ProtocolError
from tests.support.cli_runs import command, run
from tests.support.nodes import Daemon, DaemonFactory, wait_for
from tests.support.seeding.daemons import MIB, download, make_file, seeding_daemon, torrents


async def ctl(daemon: Daemon, *args: str) -> str:
    """Standard output of a command that succeeds."""
    command = [sys.executable, "-m", "aitorrentd.cli.main", "--socket", str(daemon.socket), *args]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


async def test_folder_is_shared_listed_limited_and_removed(
    daemon_factory: DaemonFactory, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    digests = [make_file(folder / name, MIB + n, seed=n) for n, name in enumerate("ab")]
    make_file(folder / "deep" / "c", 5)
    (folder / "empty").touch()
    a = await seeding_daemon(daemon_factory)
    shared = json.loads(await ctl(a, "share", str(folder), "--repo", "org/m", "--json"))
    assert [Path(file["path"]).name for file in shared["files"]] == ["a", "b", "c"]
    assert shared["skipped"] == [str(folder / "empty")]
    assert [file["sha256"] for file in shared["files"][:2]] == digests

    listed = await ctl(a, "torrents")
    assert digests[0][:12] in listed and "seeding" in listed
    assert "100%" in listed
    limits = await ctl(a, "seed", "limit", digests[0][:8], "--upload", "5MiB/s", "--ratio", "2")
    assert "5.0 MiB/s" in limits and "unlimited" in limits, limits
    assert limits.splitlines()[-1].split() == ["stops", "after", "as", "configured"]
    assert "paused" in await ctl(a, "seed", "stop", digests[0])
    await a.stop()
    a = await seeding_daemon(daemon_factory, directory=a.directory)
    await wait_for(lambda: states(a, paused=1, seeding=2), 10)
    assert "seeding" in await ctl(a, "seed", "resume", digests[0])
    assert f"still there: {folder / 'a'}" in await ctl(a, "seed", "remove", digests[0], "--files")
    assert (folder / "a").exists(), "a user's file stays in any case"
    assert len(await torrents(a)) == 2


async def states(daemon: Daemon, **wanted: int) -> bool:
    found = [row["state"] for row in await torrents(daemon)]
    return {state: found.count(state) for state in set(found)} == wanted


async def test_folder_with_a_link_and_a_tracker_without_a_url_are_refused(
    daemon_factory: DaemonFactory, tmp_path: Path
) -> None:
    make_file(tmp_path / "m" / "a", 5)
    (tmp_path / "m" / "passwd").symlink_to("/etc/passwd")
    a = await seeding_daemon(daemon_factory)
    with pytest.raises(InvalidParams, match="passwd is a symbolic link"):
        await a.call("seeding.share", {"path": str(tmp_path / "m")})
    with pytest.raises(InvalidParams, match="'tracker' is no URL of a tracker"):
        await a.call("seeding.share", {"path": str(tmp_path / "m" / "a"), "trackers": ["tracker"]})
    assert await torrents(a) == []


async def test_download_by_magnet_link_places_the_file_where_the_user_wants_it(
    daemon_factory: DaemonFactory, tmp_path: Path
) -> None:
    make_file(tmp_path / "f.bin", 9 * MIB)
    a = await seeding_daemon(daemon_factory)
    shared = await a.call("seeding.share", {"path": str(tmp_path / "f.bin"), "hybrid": True})
    b = await seeding_daemon(daemon_factory, a)
    magnet = shared["files"][0]["magnet"]
    out = await ctl(b, "download", magnet, "--to", str(tmp_path / "out"))
    (placed,) = (tmp_path / "out").iterdir()
    assert placed.name == "f.bin", "what the magnet link calls it, not its digest"
    assert out.strip() == str(placed)
    assert placed.read_bytes() == (tmp_path / "f.bin").read_bytes()
    (row,) = await torrents(b)
    assert (row["name"], row["download_bps"]) == ("f.bin", 0), "nothing arrives any more"
    out = await ctl(b, "seed", "remove", row["sha256"], "--files")
    assert out.strip() == "removed f.bin"


async def test_download_says_that_it_still_looks_for_peers(daemon_factory: DaemonFactory) -> None:
    a = await seeding_daemon(daemon_factory)
    process = await asyncio.create_subprocess_exec(
        *command(a, "download", f"magnet:?xt=urn:btih:{'ab' * 20}"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    async with asyncio.timeout(40):
        assert await process.stderr.readline() == b"looking for peers that have it\n"
    process.send_signal(signal.SIGINT)
    out, err = await process.communicate()
    assert (out, err, process.returncode) == (b"", b"", 130)


def others_torrent(folder: Path) -> bytes:
    made = lt.create_torrent(lt.list_files(str(folder)), MIB, lt.create_torrent.v1_only)
    lt.set_piece_hashes(made, str(folder.parent))
    whole: Any = made.generate()
    return bytes(lt.bencode(whole))


async def test_download_into_the_folder_of_the_shared_file_leaves_it_alone(
    daemon_factory: DaemonFactory, tmp_path: Path
) -> None:
    digest = make_file(tmp_path / "shared" / "m.safetensors", 3 * MIB)
    a = await seeding_daemon(daemon_factory)
    link = json.loads(await ctl(a, "share", str(tmp_path / "shared"), "--json"))
    magnet = link["files"][0]["magnet"]
    await ctl(a, "download", magnet, "--to", str(tmp_path / "shared"))
    (found,) = (tmp_path / "shared").iterdir()
    assert hashlib.sha256(found.read_bytes()).hexdigest() == digest


async def test_placed_file_replaces_another_whole_and_no_folder(
    daemon_factory: DaemonFactory, tmp_path: Path
) -> None:
    digest = make_file(tmp_path / "m.safetensors", 3 * MIB)
    a = await seeding_daemon(daemon_factory)
    link = json.loads(await ctl(a, "share", str(tmp_path / "m.safetensors"), "--json"))
    magnet, out = link["files"][0]["magnet"], tmp_path / "out"
    precious = tmp_path / "precious"
    precious.write_text("a link in the folder does not lead the copy here")
    out.mkdir()
    (out / "m.safetensors").symlink_to(precious)
    await ctl(a, "download", magnet, "--to", str(out))
    (found,) = out.iterdir()
    assert hashlib.sha256(found.read_bytes()).hexdigest() == digest
    assert precious.read_text().startswith("a link")
    found.unlink()
    found.mkdir()
    code, _, problem = await run(a, "download", magnet, "--to", str(out))
    assert code == 1 and "Is a directory; the file is at" in problem
    assert [path.name for path in out.iterdir()] == ["m.safetensors"], "no part is left"


async def test_what_cannot_be_shared_or_fetched_is_said_with_what_to_write(
    daemon_factory: DaemonFactory, tmp_path: Path
) -> None:
    a = await seeding_daemon(daemon_factory)
    (tmp_path / "empty").touch()
    (tmp_path / "full").write_text("x")
    for args, text in (
        (("share", "empty"), "is empty; there is nothing to share"),
        (("share", "full", "--repo", "a/b/c"), "'a/b/c' must be a repository such as org/name"),
        (("share", "full", "--revision", "main"), "'main' must be a commit of 40"),
        (("download", "https://huggingface.co/org/m/tree/main"), "write hf://org/m"),
        (("download", "https://example.org/m.safetensors"), "this address with --url"),
        (("download", "org/m"), "write hf://org/m"),
        (("seed", "stop", "ab"), "no torrent 'ab' here; give 4 digits or more"),
    ):
        here = [str(tmp_path / arg) if arg in ("empty", "full") else arg for arg in args]
        code, out, problem = await run(a, *here)
        assert (code in (1, 2), out) == (True, "") and text in problem, problem


async def test_folder_torrent_of_another_client_is_fetched_from_it(
    daemon_factory: DaemonFactory, tmp_path: Path
) -> None:
    folder = tmp_path / "seed" / "model"
    for n, name in enumerate(("a", "deep/b")):
        make_file(folder / name, 2 * MIB + n, seed=n)
    raw = others_torrent(folder)
    session = lt.session({"listen_interfaces": "127.0.0.1:0", "enable_dht": False})
    params = lt.load_torrent_buffer(raw)
    params.save_path = str(folder.parent)
    session.add_torrent(params)
    await wait_for(session.listen_port, 10)
    info_hash = str(params.info_hashes.v1)
    b = await seeding_daemon(daemon_factory)
    peer = f"127.0.0.1:{session.listen_port()}"

    items = await download(b, f"magnet:?xt=urn:btih:{info_hash}&x.pe={peer}")

    path = Path(items[-1]["path"])
    for name in ("a", "deep/b"):
        assert (path / name).read_bytes() == (folder / name).read_bytes()
    again = await download(b, torrent=raw)
    assert again[-1]["path"] == str(path)
    del session


async def test_torrent_file_is_written_for_other_clients(
    daemon_factory: DaemonFactory, tmp_path: Path
) -> None:
    digest = make_file(tmp_path / "f", 9 * MIB)
    trackers = ["http://127.0.0.1:9/announce", "udp://127.0.0.1:9"]
    a = await seeding_daemon(daemon_factory)
    params = {"path": str(tmp_path / "f"), "hybrid": True, "trackers": trackers}
    shared = (await a.call("seeding.share", params))["files"][0]

    out = await ctl(a, "seed", "export", digest[:8], str(tmp_path / "f.torrent"))
    assert out == f"{tmp_path / 'f.torrent'}: info-hash {shared['info_hash']}\n"

    found = lt.load_torrent_buffer((tmp_path / "f.torrent").read_bytes())
    assert str(found.info_hashes.v1) == shared["info_hash"]
    assert found.info_hashes.has_v2(), "with what clients of version 2 need"
    assert found.trackers == trackers
    assert found.ti.total_size() == 9 * MIB
    folder = str(tmp_path / "none" / "f.torrent")
    with pytest.raises(AssertionError, match="No such file or directory"):
        await ctl(a, "seed", "export", digest[:8], folder)


async def test_tracker_is_added_to_what_is_shared_already_and_its_trouble_is_shown(
    daemon_factory: DaemonFactory, tmp_path: Path
) -> None:
    make_file(tmp_path / "f", MIB)
    a = await seeding_daemon(daemon_factory)
    await ctl(a, "share", str(tmp_path / "f"))
    url = "http://127.0.0.1:9/announce"
    assert "127.0.0.1" in await ctl(a, "share", str(tmp_path / "f"), "--tracker", url)

    async def is_told() -> bool:
        return bool((await torrents(a))[0]["tracker_problem"])

    await wait_for(is_told, 60)
    assert "f: tracker: " in await ctl(a, "torrents")


async def test_torrent_file_that_would_escape_is_refused(daemon_factory: DaemonFactory) -> None:
    a = await seeding_daemon(daemon_factory)
    raw = b"d4:infod6:lengthi5e4:name5:../up12:piece lengthi16384e6:pieces20:%bee" % bytes(20)
    with pytest.raises(ProtocolError, match="unsafe name"):
        await download(a, torrent=raw)
