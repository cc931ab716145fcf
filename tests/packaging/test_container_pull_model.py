"""The script that pulls a model into Ollama: what it asks, shows, and does when things go wrong."""

from __future__ import annotations

import asyncio
import importlib.util
import io
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.packaging.container_ollama import PullOllama

FOLDER = Path(__file__).parents[2] / "packaging" / "container"


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("pull_model", FOLDER / "pull_model.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["pull_model"] = module
    spec.loader.exec_module(module)
    return module


pull_model: Any = load()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def modelfile(tmp_path: Path) -> Path:
    path = tmp_path / "Modelfile"
    path.write_text('FROM llama3.2:3b\nPARAMETER temperature 0.7\nSYSTEM """\nBe brief.\n"""\n')
    return path


class Script:
    """Runs `main` in a thread, and keeps the pauses that it wanted to make."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self.pauses: list[float] = []
        self.code = -1
        self.out = self.err = ""

    async def __call__(self, url: str, modelfile: Path, *, name: str = "assistant") -> Script:
        words = ["--url", url, "--name", name, str(modelfile)]
        work = asyncio.to_thread(pull_model.main, words, self.pauses.append)
        self.code = await asyncio.wait_for(work, 30)
        self.out, self.err = self._capsys.readouterr()
        return self


@pytest.fixture
def script(capsys: pytest.CaptureFixture[str]) -> Script:
    return Script(capsys)


async def test_first_start_pulls_with_progress_and_creates_the_model(
    script: Script, modelfile: Path
) -> None:
    async with PullOllama() as ollama:
        done = await script(ollama.url, modelfile)
    assert (done.code, done.err, done.pauses) == (0, "", [])
    lines = done.out.splitlines()
    assert lines[:2] == ["Pulling llama3.2:3b", "pulling manifest"]
    assert f"[{'#' * 7}{'.' * 23}]  25 %  500 MB of 2.0 GB" in lines
    assert f"[{'#' * 30}] 100 %  2.0 GB of 2.0 GB" in lines
    assert lines[-1] == "assistant is ready"
    assert ollama.created == [
        {
            "model": "assistant",
            "from": "llama3.2:3b",
            "parameters": {"temperature": 0.7},
            "system": "Be brief.",
            "stream": True,
        }
    ]


async def test_later_start_pulls_nothing_and_applies_the_modelfile(
    script: Script, modelfile: Path
) -> None:
    async with PullOllama(names=["llama3.2:3b"]) as ollama:
        done = await script(ollama.url, modelfile)
    assert done.code == 0
    assert "llama3.2:3b is already present" in done.out
    assert ollama.pulls == 0
    assert len(ollama.created) == 1


async def test_model_without_a_tag_is_the_latest_one(script: Script, tmp_path: Path) -> None:
    (tmp_path / "Modelfile").write_text("FROM mistral\n")
    async with PullOllama(names=["mistral:latest"]) as ollama:
        done = await script(ollama.url, tmp_path / "Modelfile")
    assert (done.code, ollama.pulls) == (0, 0)


async def test_broken_pull_is_taken_up_again(script: Script, modelfile: Path) -> None:
    async with PullOllama(breaks=3) as ollama:
        done = await script(ollama.url, modelfile)
    assert done.code == 0
    assert ollama.pulls == 4
    assert done.pauses == [1, 2, 4]
    assert done.out.count("retrying in") == 3


async def test_pull_that_keeps_breaking_is_given_up(script: Script, modelfile: Path) -> None:
    async with PullOllama(says=b'{"status":"pulling manifest"}\n') as ollama:
        done = await script(ollama.url, modelfile)
    assert done.code == 1
    assert ollama.pulls == 6
    assert "gave up after 6 attempts" in done.err


async def test_model_that_nobody_has_is_said_in_one_line(script: Script, tmp_path: Path) -> None:
    (tmp_path / "Modelfile").write_text("FROM nonesuch:1b\n")
    async with PullOllama() as ollama:
        done = await script(ollama.url, tmp_path / "Modelfile")
    assert done.code == 1
    assert ollama.pulls == 1
    assert done.err == "pull_model: Ollama: pull model manifest: file does not exist\n"


async def test_refused_creation_is_said(script: Script, modelfile: Path) -> None:
    async with PullOllama(create_error="invalid parameter 'temprature'") as ollama:
        done = await script(ollama.url, modelfile)
    assert done.code == 1
    assert done.err == "pull_model: Ollama: invalid parameter 'temprature'\n"


@pytest.mark.parametrize("line", [b"<html>\n", b"[1]\n", b'"x"\n', b"\xff\xfe\n"])
async def test_nonsense_of_a_server_is_an_error(
    script: Script, modelfile: Path, line: bytes
) -> None:
    async with PullOllama(says=line) as ollama:
        done = await script(ollama.url, modelfile)
    assert done.code == 1
    assert done.err.startswith("pull_model: Ollama sent a line that is not ")


async def test_escape_codes_of_a_server_do_not_reach_the_terminal(
    script: Script, modelfile: Path
) -> None:
    async with PullOllama(says=b'{"error":"a\\u001b[2Jb"}\n') as ollama:
        done = await script(ollama.url, modelfile)
    assert done.err == "pull_model: Ollama: a [2Jb\n"


async def test_server_that_is_not_there_is_waited_for(
    script: Script, modelfile: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pull_model, "START_S", 0.0)
    async with PullOllama() as ollama:
        url = ollama.url
    done = await script(url, modelfile)
    assert done.code == 1
    assert done.err.startswith(f"pull_model: no answer from Ollama at {url}: ")
    assert "is the container `ollama` running?" in done.err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("PARAMETER top_k 3", "has no FROM"),
        ("FROM a\nADAPTER x", "line 2: ADAPTER is none of FROM"),
        ("FROM a\nPARAMETER top_k", "line 2: write PARAMETER NAME VALUE"),
        ('FROM a\nSYSTEM """x\ny', 'line 2: its """ is never closed'),
    ],
)
async def test_wrong_modelfile_asks_nothing(
    script: Script, tmp_path: Path, text: str, message: str
) -> None:
    (tmp_path / "Modelfile").write_text(text)
    async with PullOllama() as ollama:
        done = await script(ollama.url, tmp_path / "Modelfile")
    assert done.code == 64
    assert message in done.err
    assert ollama.requests == []


async def test_missing_modelfile_is_said(script: Script, tmp_path: Path) -> None:
    done = await script("http://127.0.0.1:9", tmp_path / "none")
    assert done.code == 64
    assert "cannot read" in done.err


def test_modelfile_of_the_compose_file_sets_what_it_should() -> None:
    fields = pull_model.parse_modelfile((FOLDER / "Modelfile").read_text())
    assert fields["from"] == "llama3.2:3b"
    assert fields["parameters"] == {"temperature": 0.7, "num_ctx": 4096}
    assert fields["system"].startswith("You are a helpful assistant")


def test_modelfile_values_have_the_types_of_the_api() -> None:
    text = (
        'from a\n# a comment\nPARAMETER top_k 3\nparameter stop "<end>"\nPARAMETER stop ###\n'
        'PARAMETER use_mmap true\nTEMPLATE """{{ .Prompt }}"""\nSYSTEM in one line\n'
    )
    assert pull_model.parse_modelfile(text) == {
        "from": "a",
        "parameters": {"top_k": 3, "stop": ["<end>", "###"], "use_mmap": True},
        "template": "{{ .Prompt }}",
        "system": "in one line",
    }


@given(st.text(max_size=300) | st.binary(max_size=100).map(lambda b: b.decode("latin-1")))
def test_any_modelfile_is_fields_or_an_error(text: str) -> None:
    try:
        fields = pull_model.parse_modelfile(f"FROM a\n{text}")
    except pull_model.ModelfileError:
        return
    json.dumps(fields)


def lines_of_a_pull(progress: Any, clock: list[float], parts: int, step_s: float) -> None:
    for part in range(parts + 1):
        clock[0] = part * step_s
        progress.update({"status": "x", "digest": "d", "total": 10**9, "completed": 10**6 * part})


def test_terminal_shows_every_change_in_one_line() -> None:
    out, clock = Terminal(), [0.0]
    progress = pull_model.Progress(out, lambda: clock[0])
    lines_of_a_pull(progress, clock, 20, 1.0)
    progress.line("done")
    assert out.getvalue().count("\r") == 21
    assert out.getvalue().count("\n") == 2
    assert "  20 MB of 1.0 GB, 1 MB/s\x1b[K\ndone\n" in out.getvalue()


def test_log_gets_a_line_per_five_percent_and_signs_of_life_between() -> None:
    quick, slow, clock = io.StringIO(), io.StringIO(), [0.0]
    lines_of_a_pull(pull_model.Progress(quick, lambda: clock[0]), clock, 1000, 0.01)
    assert len(quick.getvalue().splitlines()) == 21
    clock[0] = 0.0
    lines_of_a_pull(pull_model.Progress(slow, lambda: clock[0]), clock, 30, 2.0)
    assert len(slow.getvalue().splitlines()) == 1 + 60 // 16


def test_strange_figures_are_no_progress() -> None:
    out = io.StringIO()
    progress = pull_model.Progress(out)
    for total, done in ((0, 0), (-5, 1), ("1", 2), (10, None), (10, "x")):
        progress.update({"status": "pulling", "digest": "d", "total": total, "completed": done})
    assert out.getvalue() == "pulling\n"
    progress.update({"status": "pulling", "digest": "d", "total": 10, "completed": 99})
    assert "100 %  10 B of 10 B" in out.getvalue()
