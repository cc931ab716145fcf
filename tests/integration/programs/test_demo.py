"""`make demo`, after its installation: three daemons answer, and then they are gone."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.nodes import REPOSITORY, short_dir, wait_for
from tools.demo import DemoError, Node, show_loading
from tools.demo_picture import RECORDING, shown

PROMPT = "How does a split model work?"


@pytest.fixture
def home() -> Iterator[Path]:
    directory = short_dir()
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


async def said(home: Path, *command: str, **environ: str) -> str:
    """What a command writes to the standard output; it must succeed."""
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=REPOSITORY,
        env={**os.environ, "TMPDIR": str(home), **environ},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await asyncio.wait_for(process.communicate(), 120)
    assert process.returncode == 0, out.decode()
    return out.decode()


def daemons(home: Path) -> list[int]:
    """The processes whose command line names something below `home`."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and f"{home}/" in (entry / "cmdline").read_text():
                found.append(int(entry.name))
        except OSError:  # it ended meanwhile
            continue
    return found


def check_answer(out: str) -> None:
    nodes = dict(re.findall(r"(?m)^  (ada|ben|cyd)  layers (\d-\d)  12D3Koo", out))
    assert nodes == {"ada": "0-3", "ben": "3-6", "cyd": "6-9"}
    _, _, after = out.partition(f"$ aitorrentctl ask -m demo '{PROMPT}'\n")
    answer, *figures = after.strip().split("\n")
    assert len(answer.split()) > 5, out
    assert re.match(r"\d+ tokens, [\d.]+ tokens/s, first after .*, demo by shards$", figures[0])
    holders = re.findall(r'(?m)^layers (\d-\d)  …\w{8} "(\w+)"', after)
    assert holders == [("0-3", "ada"), ("3-6", "ben"), ("6-9", "cyd")]


def form(out: str) -> list[str]:
    """The lines of a demo without what differs from run to run: ids, figures, the answer."""
    text = re.sub(r"12D3Koo\w+|…\w{8}", "ID", out.strip())
    head, asked, after = text.partition(f"'{PROMPT}'\n\n")
    answer, *figures = after.splitlines()
    assert answer
    return [
        *head.splitlines(),
        asked.strip(),
        *(re.sub(r"[\d.]+ (tokens|ms|s)\b", "N", f) for f in figures),
    ]


def test_node_that_does_not_listen_yet_has_no_address(home: Path) -> None:
    """The control socket is there before the plugins are."""

    class Told(Node):
        told: Any = None

        def call(self, *words: str) -> Any:
            return self.told

    node = Told(home, "one", "0-2")
    for told, address in ((None, None), ([], None), (["a"], "a")):
        node.told = told if told is None else {"id": "12D3one", "addresses": told}
        assert node.address() == address
    assert node.id == "12D3one"


@pytest.mark.parametrize("is_terminal", [True, False])
def test_loading_shows_each_node_in_order_and_counts_on_a_terminal(
    home: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    is_terminal: bool,
) -> None:
    """The second third is loaded first; its node is still listed second."""

    class Holding(Node):
        def call(self, *words: str) -> Any:
            starts = replies.pop(0)
            return starts and {
                "spans": [{"peer": f"id {at}", "start": at, "end": at + 3} for at in starts]
            }

    nodes = [Holding(home, *each) for each in (("ada", "0-3"), ("ben", "3-6"), ("cyd", "6-9"))]
    for node, start in zip(nodes, (0, 3, 6), strict=True):
        node.id = f"id {start}"
    replies: list[Any] = [None, [3], [3], [3, 0], [3, 0, 6]]
    monkeypatch.setattr(sys.stdout, "isatty", lambda: is_terminal)
    show_loading(nodes)
    assert replies == []
    out = capsys.readouterr().out
    listed = ["  ada  layers 0-3  id 0", "  ben  layers 3-6  id 3", "  cyd  layers 6-9  id 6"]
    assert "\n".join(shown(out)).splitlines() == listed
    counts = [f"  {n} of 9 layers are loaded" for n in (0, 3, 6)]
    assert re.findall(r"  \d of 9 layers are loaded", out) == (counts if is_terminal else [])


def test_node_that_ends_while_it_loads_ends_the_demo(home: Path) -> None:
    """Also one that is not asked for the progress."""

    class Asked(Node):
        def call(self, *words: str) -> Any:
            return None

    node = Node(home, "ben", "3-6")
    node.home.mkdir(parents=True)
    node.log.write_text("no space left\n")
    node.process = subprocess.Popen([sys.executable, "-c", ""])
    node.process.wait()
    with pytest.raises(DemoError, match="node ben ended early:\n  no space left"):
        show_loading([Asked(home, "ada", "0-3"), node])


async def test_three_nodes_answer_together_and_leave_nothing_behind(home: Path) -> None:
    out = await said(home, sys.executable, "tools/demo.py")
    check_answer(out)
    assert out.endswith("\n\nStopped. Next: make demo KEEP=1\n")
    recording = RECORDING.read_text().removeprefix("$ make demo\n")
    assert form(out) == form(recording), "the README's picture is old; run: make demo-picture"
    assert list(home.glob("aitd-*")) == []  # torch leaves an empty directory of its own
    assert daemons(home) == []


async def test_kept_nodes_stay_and_the_printed_commands_work(home: Path) -> None:
    out = await said(home, sys.executable, "tools/demo.py", "--keep", "--prompt", PROMPT)
    stop = re.search(r"kill ([\d ]+); sleep 2; rm -r (\S+)", out)
    assert stop is not None, out
    pids = [int(pid) for pid in stop[1].split()]
    try:
        check_answer(out.partition("\n\nThe nodes keep running")[0])
        setting = re.search(r"export PATH=(\S+):\$PATH AITORRENT_SOCKET=(\S+)", out)
        assert setting is not None
        where = {"PATH": f"{setting[1]}:{os.environ['PATH']}", "AITORRENT_SOCKET": setting[2]}
        assert len(pids) == 3
        assert set(pids) <= set(daemons(home))
        assert '"ben"' in await said(home, *f"{setting[1]}/aitorrentctl models".split(), **where)
        assert "ben" in await said(home, f"{setting[1]}/aitorrentctl", "peers", **where)
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGTERM)
        await wait_for(lambda: not daemons(home), 30)
