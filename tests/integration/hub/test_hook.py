"""The hook for huggingface_hub: files come through the daemon, and over HTTP if it cannot."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.nodes import Daemon, DaemonFactory, wait_for
from tests.support.servers.hub.fake_hub import FakeHub
from tests.support.servers.hub.mirrors import TOKEN, Program, mirror_config
from tests.support.servers.hub.repos import weights

LARGE = weights(4_000_000)
FILES = {"config.json": b"{}", "model.safetensors": LARGE}
FETCH = "import aitorrent_hf; aitorrent_hf.enable(); import huggingface_hub as h; "
SNAPSHOT = FETCH + "print(h.snapshot_download('org/model'))"


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with FakeHub() as hub:
        hub.add("org/model", FILES)
        yield hub


async def hooked(daemon: Daemon, hub: FakeHub, **env: str) -> Program:
    """A program that asks the Hub itself, and the daemon first for large files."""
    return Program(hub.url, env={"AITORRENT_SOCKET": str(daemon.socket), **env})


def blob(program: Program) -> Path:
    found = [p for p in program.home.glob("hub/models--org--model/snapshots/*/model.safetensors")]
    assert len(found) == 1
    return found[0]


async def sent_by(daemon: Daemon) -> int:
    """Large files that went through the daemon."""
    return int((await daemon.call("hub.status"))["files"])


async def test_a_download_goes_through_the_daemon(
    daemon_factory: DaemonFactory, hub: FakeHub
) -> None:
    daemon = await daemon_factory(mirror_config(hub))
    program = await hooked(daemon, hub)
    await program.run(SNAPSHOT)
    assert blob(program).read_bytes() == LARGE
    assert await sent_by(daemon) == 1
    assert len(hub.bodies("model.safetensors")) == 1
    again = await hooked(daemon, hub)
    await again.run(SNAPSHOT)
    assert blob(again).read_bytes() == LARGE
    assert len(hub.bodies("model.safetensors")) == 1
    assert list((again.home / "hub").rglob("*.incomplete")) == []


async def test_wrong_bytes_are_fetched_again(daemon_factory: DaemonFactory, hub: FakeHub) -> None:
    hub.corrupt = 1
    daemon = await daemon_factory(mirror_config(hub))
    program = await hooked(daemon, hub)
    await program.run(SNAPSHOT)
    assert blob(program).read_bytes() == LARGE


@pytest.mark.parametrize("trouble", ["no daemon", "plugin off", "another hub", "silent"])
async def test_without_help_from_the_daemon_a_download_is_as_always(
    daemon_factory: DaemonFactory, hub: FakeHub, trouble: str, tmp_path: Path
) -> None:
    with FakeHub() as other:
        config = mirror_config(other if trouble == "another hub" else hub)
        if trouble == "plugin off":
            config["plugins"]["hub"]["enabled"] = False
        daemon = await daemon_factory(config)
        program = await hooked(daemon, hub)
        code = SNAPSHOT
        server: Any = None
        writers: list[asyncio.StreamWriter] = []
        if trouble == "no daemon":
            await daemon.stop()
        if trouble == "silent":
            path = str(tmp_path / "s.sock")
            server = await asyncio.start_unix_server(lambda r, w: writers.append(w), path)
            program.env["AITORRENT_SOCKET"] = path
            code = code.replace("enable()", "enable(); aitorrent_hf._SILENCE_S = 0.5")
        await program.run(code)
        assert blob(program).read_bytes() == LARGE
        if server is not None:
            for writer in writers:
                writer.close()
                await writer.wait_closed()
            server.close()


async def test_a_killed_daemon_ends_no_download_and_continues_later(
    daemon_factory: DaemonFactory, hub: FakeHub
) -> None:
    daemon = await daemon_factory(mirror_config(hub))
    program = await hooked(daemon, hub)
    hub.bytes_per_s = 2_000_000
    running = asyncio.ensure_future(program.run(SNAPSHOT))
    files = daemon.state_dir.parent
    await wait_for(lambda: any(p.stat().st_size > 500_000 for p in parts(files)), 20)
    await daemon.kill()
    hub.bytes_per_s = 0
    await running
    assert blob(program).read_bytes() == LARGE
    before = len(hub.bodies("model.safetensors"))
    daemon = await daemon_factory(directory=daemon.directory)
    other = await hooked(daemon, hub)
    await other.run(SNAPSHOT)
    assert blob(other).read_bytes() == LARGE
    (last,) = hub.bodies("model.safetensors")[before:]
    assert int(last.headers["range"].removeprefix("bytes=").removesuffix("-")) > 400_000


def parts(directory: Path) -> list[Path]:
    return [p for p in directory.rglob("files/*/*") if p.is_file()]


async def test_gated_files_do_not_go_through_the_daemon(
    daemon_factory: DaemonFactory, hub: FakeHub
) -> None:
    hub.add("org/gated", {"model.safetensors": weights()}, gated=True, readers=(TOKEN,))
    daemon = await daemon_factory(mirror_config(hub))
    program = await hooked(daemon, hub)
    await program.run(FETCH + f"print(h.snapshot_download('org/gated', token='{TOKEN}'))")
    assert await sent_by(daemon) == 0
    assert TOKEN not in daemon.log()


async def test_a_node_of_another_user_serves_its_file_over_its_mirror(
    daemon_factory: DaemonFactory, hub: FakeHub
) -> None:
    daemon = await daemon_factory(mirror_config(hub))
    program = await hooked(daemon, hub)
    denied = "def no(*a): raise PermissionError\naitorrent_hf._copy = no; "
    await program.run(
        SNAPSHOT.replace("aitorrent_hf.enable();", f"\n{denied}aitorrent_hf.enable();")
    )
    assert blob(program).read_bytes() == LARGE
    assert len(hub.bodies("model.safetensors")) == 1
    assert (await daemon.call("hub.status"))["sent"]["here"] == len(LARGE)


async def test_a_local_dir_gets_a_file_of_its_own_mode(
    daemon_factory: DaemonFactory, hub: FakeHub, tmp_path: Path
) -> None:
    daemon = await daemon_factory(mirror_config(hub))
    program = await hooked(daemon, hub)
    await program.run(
        FETCH + f"h.snapshot_download('org/model', local_dir={str(tmp_path / 'm')!r})"
    )
    assert (tmp_path / "m" / "model.safetensors").read_bytes() == LARGE
    assert await sent_by(daemon) == 1


async def test_progress_is_shown_in_the_bar_of_huggingface_hub(
    daemon_factory: DaemonFactory, hub: FakeHub
) -> None:
    daemon = await daemon_factory(mirror_config(hub))
    program = await hooked(daemon, hub)
    counted = await program.run(
        FETCH + "from tqdm.auto import tqdm\n"
        "seen = []\n"
        "class Bar(tqdm):\n"
        "    def update(self, n=1):\n"
        "        seen.append(n)\n"
        "h.hf_hub_download('org/model', 'model.safetensors', tqdm_class=Bar)\n"
        "print(sum(seen))"
    )
    assert counted.splitlines()[-1] == str(len(LARGE))


async def test_python_m_runs_a_program_and_a_module_with_the_hook(
    daemon_factory: DaemonFactory, hub: FakeHub, tmp_path: Path
) -> None:
    daemon = await daemon_factory(mirror_config(hub))
    program = await hooked(daemon, hub)
    script = tmp_path / "train.py"
    script.write_text(
        "import sys, huggingface_hub as h\nh.snapshot_download('org/model'); print(sys.argv[1:])"
    )
    run = [program.python, "-m", "aitorrent_hf"]
    status, text = await program.ran([*run, str(script), "--epochs", "3"])
    assert status == 0 and "['--epochs', '3']" in text, text
    assert await sent_by(daemon) == 1
    other = await hooked(daemon, hub)
    hf = ["-m", "huggingface_hub.cli.hf", "download", "org/model"]
    status, text = await other.ran([*run, *hf])
    assert status == 0, text
    assert blob(other).read_bytes() == LARGE
    assert len(hub.bodies("model.safetensors")) == 1


@pytest.mark.slow
@pytest.mark.parametrize("version", ["0.23.5", "0.36.2", "1.2.3"])
async def test_other_versions_of_huggingface_hub(
    daemon_factory: DaemonFactory, hub: FakeHub, version: str, tmp_path: Path
) -> None:
    """The hook, installed with its .pth file into an environment without aitorrentd."""
    daemon = await daemon_factory(mirror_config(hub))
    python = tmp_path / "venv" / "bin" / "python"
    program = await hooked(daemon, hub, AITORRENT_HF="1")
    uv = str(Path(program.python).with_name("uv"))
    for command in (
        [uv, "venv", "-q", str(tmp_path / "venv")],
        [uv, "pip", "install", "-q", "--python", str(python), f"huggingface_hub=={version}"],
        [program.python, "-m", "aitorrentd.cli.main", "hub", "hook", "install"],
    ):
        more = ["--python", str(python)] if command[-1] == "install" else []
        status, text = await program.ran([*command, *more], timeout_s=240)
        assert status == 0, text
    program.python = str(python)
    await program.run(SNAPSHOT.removeprefix("import aitorrent_hf; aitorrent_hf.enable(); "))
    assert blob(program).read_bytes() == LARGE
    assert await sent_by(daemon) == 1
    await daemon.stop()
    shutil.rmtree(program.home)
    program.home.mkdir()
    await program.run(SNAPSHOT.removeprefix("import aitorrent_hf; aitorrent_hf.enable(); "))
    assert blob(program).read_bytes() == LARGE
    assert os.environ.get("AITORRENT_HF") is None
