"""The file that tells other programs where the daemon can be dialled."""

from __future__ import annotations

import asyncio
import logging
import shutil
from pathlib import Path

import pytest

from aitorrentd.api import PluginChanged
from aitorrentd.daemon.address_file import NAME, AddressFile
from aitorrentd.kernel.context.bus import EventBus
from tests.support.nodes import wait_for

LOG = logging.getLogger("aitorrentd.test")
HERE = "/ip4/127.0.0.1/tcp/8468/p2p/x"


def test_file_has_an_address_a_line_and_anybody_may_read_it(tmp_path: Path) -> None:
    file = tmp_path / NAME
    there = AddressFile(file, lambda: [HERE, HERE + "y"], LOG)
    there.refresh()
    assert file.read_text() == f"{HERE}\n{HERE}y\n"
    assert file.stat().st_mode & 0o777 == 0o644
    there.remove()
    assert list(tmp_path.iterdir()) == []


def test_file_is_replaced_and_never_written_over(tmp_path: Path) -> None:
    file, addresses = tmp_path / NAME, [HERE]
    there = AddressFile(file, lambda: addresses, LOG)
    there.refresh()
    with file.open() as before:
        addresses.append(HERE + "y")
        there.refresh()
        assert before.read() == f"{HERE}\n"
    assert file.read_text() == f"{HERE}\n{HERE}y\n"


def test_without_an_address_there_is_no_file_not_even_an_old_one(tmp_path: Path) -> None:
    file = tmp_path / NAME
    file.write_text("left by a daemon that was killed\n")
    AddressFile(file, list, LOG).refresh()
    assert not file.exists()


def test_daemon_that_never_ran_leaves_the_file_of_another_alone(tmp_path: Path) -> None:
    file = tmp_path / NAME
    file.write_text("of the daemon that runs\n")
    AddressFile(file, lambda: [HERE], LOG).remove()
    assert file.exists()


def test_directory_that_takes_no_file_is_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    there = AddressFile(tmp_path / "file" / NAME, lambda: [HERE], LOG)
    there.refresh()
    there.refresh()
    assert [r.getMessage() for r in caplog.records] == [
        f"cannot write {tmp_path}/file/{NAME}: {tmp_path}/file is not a directory; "
        "move it away, or set node.runtime_dir"
    ]


def test_file_that_a_cleaner_removed_is_written_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "run" / NAME
    there = AddressFile(file, lambda: [HERE], LOG)
    there.refresh()
    for removed in (file, file.parent):
        shutil.rmtree(removed) if removed.is_dir() else removed.unlink()
        there.refresh()
        assert file.read_text() == f"{HERE}\n"
        there.refresh()
    told = f"{file} was removed; writing it again"
    assert [r.getMessage() for r in caplog.records] == [told, told]


async def test_file_follows_the_transport(tmp_path: Path) -> None:
    file, bus, addresses = tmp_path / NAME, EventBus(), [HERE]
    there = AddressFile(file, lambda: addresses, LOG)
    following = asyncio.create_task(there.follow(bus))
    await wait_for(file.exists)
    addresses.clear()
    bus.publish(PluginChanged("transport", "failed"))
    await wait_for(lambda: not file.exists())
    addresses.append(HERE + "y")
    bus.publish(PluginChanged("transport", "running"))
    await wait_for(file.exists)
    assert file.read_text() == f"{HERE}y\n"
    following.cancel()
    await asyncio.wait({following})
