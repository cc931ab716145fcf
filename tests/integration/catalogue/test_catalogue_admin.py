"""The administrator of a catalogue, on the command line."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any
from unittest import mock

from aitorrent_catalogue.cli_admin import TOKEN_VARIABLE
from tests.support import cli_runs
from tests.support.catalogue.publishing import Publisher
from tests.support.catalogue.trackers import TOKEN, Trackers, fresh
from tests.support.cli_nodes import Ran
from tests.support.servers.http_server import HttpServer, Reply, Request

MALLORY = Publisher("mallory")


async def ctl(*args: str) -> Ran:
    """`aitorrentctl catalogue`, beside the tracker in this process."""
    return await asyncio.to_thread(cli_runs.run_here, "catalogue", *args)


async def test_entries_are_approved_and_deleted_and_peers_listed(
    trackers: Trackers, tmp_path: Path
) -> None:
    one = await trackers(others="approve")
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    with_token = ("--server", one.url, "--token-file", str(file))
    assert (await ctl("pending", *with_token)).out == "No entries.\n"
    posted = fresh(MALLORY)
    info_hash = posted["publication"]["info_hash"]
    assert (await one.publish(posted)).status_code == 202
    (waiting,) = json.loads((await ctl("pending", "--json", *with_token)).out)["torrents"]
    shown = await ctl("pending", *with_token)
    assert "org/model" in shown.out and shown.out.splitlines()[1].split()[0] == str(waiting["id"])
    approved = await ctl("approve", str(waiting["id"]), *with_token)
    assert approved.code == 0 and "approved" in approved.out, approved.err
    assert len(await one.listed()) == 1
    assert "Nobody shares" in (await ctl("peers", info_hash, *with_token)).out
    await one.announce(info_hash, 7009)
    assert (await ctl("peers", info_hash, *with_token)).out.splitlines()[1].split() == [
        *("127.0.0.1", "7009", "seed")
    ]
    # The token may also come from the environment, and is sent to a server once.
    with mock.patch.dict("os.environ", {TOKEN_VARIABLE: TOKEN}):
        deleted = await ctl("delete", str(waiting["id"]), "--server", one.url)
    assert deleted.code == 0 and "removed" in deleted.out
    assert await one.listed() == []
    removed = await ctl("pending", "--state", "removed", *with_token)
    assert removed.code == 0 and "org/model" in removed.out


async def test_what_keeps_an_administrator_out_is_told(trackers: Trackers, tmp_path: Path) -> None:
    one = await trackers()
    wrong, good, empty = tmp_path / "wrong", tmp_path / "good", tmp_path / "empty"
    wrong.write_text("x" * 25)
    good.write_text(TOKEN)
    empty.write_text("")
    for server, token_file, code, text in (
        (one.url, "", 2, f"--token-file or {TOKEN_VARIABLE}"),
        (one.url, str(wrong), 77, "the token of the administrator"),
        (one.url, str(empty), 1, "does not have a token"),
        (one.url, "/nowhere", 1, "Cannot read /nowhere: No such file"),
        ("tracker.example", str(good), 2, "is not an address such as"),
        ("http://127.0.0.1:1", str(good), 75, "refused; name the tracker with --server"),
        (f"{one.url}/elsewhere", str(good), 1, "not"),
    ):
        ran = await ctl("pending", "--server", server, "--token-file", token_file)
        assert ran.code == code and text in ran.err, (server, token_file, ran)
        assert TOKEN not in ran.out + ran.err
    ran = await ctl("approve", "99", "--server", one.url, "--token-file", str(good))
    assert ran.code == 1 and "99" in ran.err
    ran = await ctl("peers", "../../x", "--server", one.url, "--token-file", str(good))
    assert ran.code == 1


async def test_token_follows_no_redirect_and_garbage_is_no_answer(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(TOKEN)
    asked: list[str] = []

    async def redirect(request: Request, reply: Reply) -> None:
        asked.append(request.path)
        await reply.json({}, 302)

    async def garbage(request: Request, reply: Reply) -> None:
        await reply.json([1, 2])

    handlers: list[Any] = [redirect, garbage]
    for handler in handlers:
        async with HttpServer(handler) as server:
            url = f"http://127.0.0.1:{server.port}"
            ran = await ctl("pending", "--server", url, "--token-file", str(file))
        assert ran.code == 1 and "is no catalogue" in ran.err
    assert len(asked) == 1
