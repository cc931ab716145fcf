"""`models`, `ask` and `chat` against a control server with the real methods."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from aitorrent_inference.cli_answer import stage_lines
from aitorrent_inference.methods import inference_methods
from aitorrentd.api import Chunk, GenerateRequest, StageView, Unavailable
from tests.support.cli_nodes import Ctl
from tests.support.cli_runs import run_here, terminal_output
from tests.support.control_server import ServerThread
from tests.support.inference_fakes import (
    LACKING,
    FakeBackend,
    FakeRouter,
    LoadingBackend,
    loading,
    make_node,
    node_id,
)
from tests.support.nodes import wait_for

LAST = Chunk(
    "",
    done=True,
    reason="stop",
    prompt_tokens=3,
    completion_tokens=2,
    stages=(StageView(node_id(0), 0, 4), StageView(node_id(1), 4, 12)),
    extra={"tokens_per_s": 12.5},
)


@contextmanager
def serving(socket: Path, *backends: FakeBackend, **settings: Any) -> Iterator[FakeRouter]:
    """A control server whose `inference.*` answer with these backends."""
    node = make_node(alone=True, **settings)
    methods = inference_methods(node.router, clock=node.clock, node=node.id)
    with node.having(*backends), ServerThread(socket, *methods):
        yield node


@pytest.fixture
def ctl(tmp_path: Path) -> Ctl:
    """Runs a command line."""
    return partial(run_here, socket=tmp_path / "s")


def test_ask_streams_the_answer_and_tells_its_figures(ctl: Ctl, tmp_path: Path) -> None:
    backend = FakeBackend("shards", last=LAST)
    with serving(tmp_path / "s", backend):
        result = ctl("ask", "-m", "m", "What", "is this?")
    assert (result.code, result.out) == (0, "one two\n")
    assert result.err.splitlines() == [
        "2 tokens, 12.5 tokens/s, first after 0.00 ms, m by shards",
        f"layers 0-4   …{node_id(0)[-8:]} (this node)",
        f"layers 4-12  …{node_id(1)[-8:]}",
    ]
    assert backend.requests[0].prompt == "What is this?"


def test_ask_gives_its_options_to_the_backend(ctl: Ctl, tmp_path: Path) -> None:
    backend = FakeBackend("a")
    schema = tmp_path / "schema.json"
    schema.write_text('{"type": "integer"}')
    with serving(tmp_path / "s", backend, FakeBackend("b")):
        for wrong in ("no-such-file", __file__):
            refused = ctl("ask", "hi", "--format", wrong)
            assert (refused.code, "--format: " in refused.err) == (2, True)
        options = [
            "--temperature",
            "0",
            "--top-p",
            "0.5",
            "--top-k",
            "3",
            "--min-p",
            "0.1",
            "--repeat-penalty",
            "1.2",
            "--presence-penalty",
            "-0.5",
            "--frequency-penalty",
            "0.5",
            "--seed",
            "7",
            "--max-tokens",
            "9",
            "--num-ctx",
            "512",
            "--format",
            str(schema),
        ]
        stops = ["--stop", "A", "--stop", "B"]
        assert (
            ctl("ask", "hi", *options, *stops, "--system", "be brief", "--backend", "a").code == 0
        )
    [request] = backend.requests
    assert [(m.role, m.content) for m in request.messages or ()] == [
        ("system", "be brief"),
        ("user", "hi"),
    ]
    assert request.params.model_dump(exclude_none=True) == {
        "temperature": 0,
        "top_p": 0.5,
        "top_k": 3,
        "min_p": 0.1,
        "repeat_penalty": 1.2,
        "presence_penalty": -0.5,
        "frequency_penalty": 0.5,
        "seed": 7,
        "max_tokens": 9,
        "num_ctx": 512,
        "stop": ("A", "B"),
        "format": {"type": "integer"},
    }


class Thinker(FakeBackend):
    """Thinks, and then answers with its words."""

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Chunk, None]:
        yield Chunk("", thinking="let me ")
        yield Chunk("", thinking="see")
        for word in self.words:
            yield Chunk(word)
        yield Chunk("", done=True, reason="length", completion_tokens=9)


def test_thinking_is_shown_beside_the_answer_where_it_is_asked_for(
    ctl: Ctl, tmp_path: Path
) -> None:
    with serving(tmp_path / "s", Thinker("a")):
        plain, shown = ctl("ask", "hi"), ctl("ask", "--thinking", "hi")
        lines = ctl("--json", "ask", "--thinking", "hi").out.splitlines()
        talk = ctl("chat", "--thinking", stdin="hi\n")
    assert (plain.out, "let me" in plain.err) == ("one two\n", False)
    assert (shown.code, shown.out) == (0, "one two\n")
    assert shown.err.startswith("let me see\n")
    assert [json.loads(line).get("thinking") for line in lines[:3]] == ["let me ", "see", None]
    assert (talk.out, talk.err.startswith("let me see\n")) == ("one two\n", True)


def test_prompt_in_the_c_locale_arrives_as_utf8(tmp_path: Path) -> None:
    backend = FakeBackend("a")
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    words = [sys.executable, "-m", "aitorrentd.cli.main", "ask"]
    with serving(tmp_path / "s", backend):
        for given, stdin in ((["grüße".encode()], b""), ([b"-"], "grüße\n".encode())):
            ran = subprocess.run(
                [*words, *given],
                input=stdin,
                capture_output=True,
                env={**os.environ, **plain, "AITORRENT_SOCKET": str(tmp_path / "s")},
                timeout=60,
                check=False,
            )
            assert (ran.returncode, ran.stdout) == (0, b"one two\n"), ran.stderr
    assert [request.prompt for request in backend.requests] == ["grüße", "grüße"]


def test_answer_of_thinking_alone_says_why_it_is_empty(ctl: Ctl, tmp_path: Path) -> None:
    with serving(tmp_path / "s", Thinker("a", words=())):
        result = ctl("ask", "hi")
        summary = json.loads(ctl("--json", "ask", "hi").out.splitlines()[-1])
    assert result.code == 0
    assert result.err.startswith("no answer: all 9 tokens went into thinking")
    assert "--thinking" in result.err
    assert summary["note"].startswith("no answer: all 9 tokens")


def test_answer_that_needs_a_caution_has_it_before_the_figures(ctl: Ctl, tmp_path: Path) -> None:
    last = Chunk("", done=True, reason="stop", warning="the prompt was \x1b[31mtruncated")
    hidden = Chunk("", done=True, reason="length", extra={"reasoning_tokens": 9})
    with serving(tmp_path / "s", FakeBackend("a", last=last)):
        cut = ctl("ask", "hi")
    with serving(tmp_path / "s", FakeBackend("a", words=(), last=hidden)):
        empty = ctl("ask", "hi")
    assert cut.err.startswith("warning: the prompt was �[31mtruncated\n")
    assert empty.err.startswith(
        "no answer: all 9 tokens went into thinking, which the server does not send; "
        "raise max_tokens (--max-tokens)\n"
    )


@pytest.mark.parametrize("words", [[], ["-"]])
def test_ask_reads_the_prompt_from_standard_input(
    ctl: Ctl, tmp_path: Path, words: list[str]
) -> None:
    backend = FakeBackend("a")
    with serving(tmp_path / "s", backend):
        assert ctl("ask", *words, stdin="two\nlines\n").code == 0
        assert ctl("ask", *words, stdin=" \n").code == 2
    assert [r.prompt for r in backend.requests] == ["two\nlines"]


def test_ask_as_json_gives_the_pieces_and_then_the_summary(ctl: Ctl, tmp_path: Path) -> None:
    with serving(tmp_path / "s", FakeBackend("a")):
        result = ctl("ask", "hi", "--json")
    *pieces, summary = [json.loads(line) for line in result.out.splitlines()]
    assert pieces == [{"text": "one "}, {"text": "two"}]
    assert (summary["reason"], summary["model"], summary["backend"]) == ("stop", "m", "a")
    assert summary["context"] == [1, 2, 3]
    assert result.err == ""


def test_ask_of_several_prints_the_first_to_answer(ctl: Ctl, tmp_path: Path) -> None:
    slow = FakeBackend("slow", words=[], hangs=True)
    with serving(tmp_path / "s", slow, FakeBackend("quick", words=["q"])):
        result = ctl("ask", "hi", "--parallel", "2")
    assert result.out == "q\n"
    assert "m by quick" in result.err


def test_ask_ends_a_broken_answer_with_its_error(ctl: Ctl, tmp_path: Path) -> None:
    with serving(tmp_path / "s", FakeBackend("a", fails=Unavailable("layers 4-8 were lost"))):
        result = ctl("ask", "hi")
    assert (result.code, result.out) == (1, "one two\n")
    assert result.err == "Error: layers 4-8 were lost\n"


def test_ask_without_a_daemon_or_a_model_says_so(ctl: Ctl, tmp_path: Path) -> None:
    result = ctl("ask", "hi")
    assert result.code == 69
    assert "no daemon at" in result.err
    with serving(tmp_path / "s"):
        result = ctl("ask", "hi")
        assert (result.code, result.err) == (1, "Error: this node has no model that can answer\n")
    with serving(tmp_path / "s", FakeBackend("a")):
        result = ctl("ask", "hi", "-m", "zz")
        assert result.err == "Error: no model 'zz'; available models: m\n"
    with serving(tmp_path / "s", FakeBackend("a"), max_local=1, max_waiting=0) as node:
        node.router.seats.used = 1
        result = ctl("ask", "hi")
        assert (result.code, result.err) == (75, "Error: Too many requests\n")


def test_notices_of_an_answer_go_to_standard_error(ctl: Ctl, tmp_path: Path) -> None:
    class Noisy(FakeBackend):
        async def generate(self, request: GenerateRequest) -> AsyncGenerator[Chunk, None]:
            yield Chunk("one ")
            yield Chunk("", notice="lost layers 0-3; looking for another holder")
            yield Chunk("two", done=True, reason="stop")

    with serving(tmp_path / "s", Noisy("a")):
        result = ctl("ask", "-m", "m", "x")
    assert result.out == "one two\n"
    assert "[lost layers 0-3; looking for another holder]" in result.err.splitlines()


def test_model_that_is_being_loaded_is_a_bar_on_a_terminal(tmp_path: Path) -> None:
    shards = LoadingBackend("shards", loading())
    shards.ready_after = 3
    with serving(tmp_path / "s", shards):
        shown = asyncio.run(terminal_output(tmp_path / "s", 100, "ask", "-m", "m", "hi"))
    bar = "#" * 7 + "." * 17
    assert f"model m is loading [{bar}]  30% 30 B of 100 B" in shown
    assert shown.rpartition("\x1b[K")[2].startswith("one two\n")  # the bar is gone before it


def test_what_is_not_ready_is_listed_with_its_state(ctl: Ctl, tmp_path: Path) -> None:
    with serving(tmp_path / "s", LoadingBackend("shards", loading(), LACKING)):
        lines = [line.split(maxsplit=6) for line in ctl("models").out.splitlines()]
        assert lines[0][:4] == ["No", "model", "is", "ready"]
        assert lines[2][:4] == ["m", "loading", "30%", "shards"]
        assert lines[3][:3] == ["big", "incomplete", "shards"]
        late = ctl("--timeout", "0.1", "wait", "--model", "m")
    assert late.code == 75
    told = "Error: no model 'm' in time: layers 0-3 are loading here (30%)\n"
    assert late.err == told  # and no list of available models, since there is none


def test_wait_ends_when_the_model_can_answer(ctl: Ctl, tmp_path: Path) -> None:
    with serving(tmp_path / "s", FakeBackend("a", ["m"])):
        assert ctl("wait", "--model", "m").out == "m is ready\n"
        late = ctl("--timeout", "0.1", "wait", "--model", "other")
    assert late.code == 75
    assert "no model 'other' in time; available models: m" in late.err


def test_models_are_listed_as_a_table_or_as_json(ctl: Ctl, tmp_path: Path) -> None:
    with serving(tmp_path / "s", FakeBackend("a", ["llama", "mistral"])):
        assert ctl("models").out.splitlines()[1:] == [
            "llama    ready  a        -     fake    -        -",
            "mistral  ready  a        -     fake    -        -",
        ]
        rows = json.loads(ctl("models", "--json").out)["models"]
    assert [row["name"] for row in rows] == ["llama", "mistral"]
    keys = {"name", "backend", "size_bytes", "family", "context_length", "detail"}
    assert set(rows[0]) == keys | {"layers", "lacks", "is_resting", "leaves_s"}
    with serving(tmp_path / "s"):
        assert ctl("models").out.startswith("No model is available")
    with serving(tmp_path / "s", LoadingBackend("shards", loading())):
        lines = ctl("models").out.splitlines()
    assert lines[0] == "No model is ready yet; `ask` waits for one that is loading."
    assert lines[2].startswith("m      loading 30%  shards")
    with serving(tmp_path / "s", LoadingBackend("shards", LACKING)):
        lines = ctl("models").out.splitlines()
    assert lines[0] == "No model is ready:"
    assert lines[2].endswith("no reachable node holds layers 3-6 of big")


def test_chat_keeps_the_conversation_until_new(ctl: Ctl, tmp_path: Path) -> None:
    backend = FakeBackend("a", words=["yes"])
    with serving(tmp_path / "s", backend):
        lines = ["first", "second \\", "line", "new", "third", "", "quit", "never"]
        result = ctl("chat", "--system", "be brief", stdin="\n".join(lines) + "\n")
    assert (result.code, result.out) == (0, "yes\nyes\nyes\n")
    system = ("system", "be brief")
    first, second, third = [
        [(m.role, m.content) for m in r.messages or ()] for r in backend.requests
    ]
    assert first == [system, ("user", "first")]
    assert second == [*first, ("assistant", "yes"), ("user", "second \nline")]
    assert third == [system, ("user", "third")]


def test_chat_goes_on_after_an_error_without_the_failed_turn(ctl: Ctl, tmp_path: Path) -> None:
    backend = FakeBackend("a", words=[], fails=Unavailable("out of memory"))
    with serving(tmp_path / "s", backend):
        result = ctl("chat", stdin="one\ntwo\n")
    assert result.code == 1
    assert result.err.splitlines() == [
        *["Error: out of memory"] * 2,
        "Error: no turn was answered",
    ]
    assert [len(r.messages or ()) for r in backend.requests] == [1, 1]


def test_chat_without_a_daemon_ends_at_once(ctl: Ctl) -> None:
    assert ctl("chat", stdin="hi\n").code == 69


def test_terminal_is_not_given_what_it_would_obey(ctl: Ctl, tmp_path: Path) -> None:
    backend = FakeBackend("a", words=["a\x1b[31m\u202eb\x9b", " 家\u200d👩\t\n"])
    with serving(tmp_path / "s", backend):
        assert ctl("ask", "hi").out == "a\x1b[31m\u202eb\x9b 家\u200d👩\t\n"
        assert ctl("ask", "hi", is_terminal=True).out == "a�[31m�b� 家\u200d👩\t\n"


def test_stages_are_aligned() -> None:
    stages = [{"peer": "x" * 60, "start": 0, "end": 9}, {"peer": "y" * 60, "start": 9, "end": 128}]
    assert stage_lines({"stages": stages, "node": "y" * 60}) == [
        "layers 0-9    …xxxxxxxx",
        "layers 9-128  …yyyyyyyy (this node)",
    ]


def test_ctrl_c_stops_the_answer_in_the_daemon(tmp_path: Path) -> None:
    backend = FakeBackend("a", hangs=True)
    command = [sys.executable, "-m", "aitorrentd.cli.main", "ask", "hi"]
    env = {**os.environ, "AITORRENT_SOCKET": str(tmp_path / "s")}
    with (
        serving(tmp_path / "s", backend) as node,
        subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as process,
    ):
        assert process.stdout is not None
        assert process.stdout.read(7) == "one two"
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
        asyncio.run(wait_for(lambda: backend.running == 0))
        assert node.router.seats.used == 0


def test_commands_cost_no_heavy_imports() -> None:
    code = (
        "import sys, aitorrent_inference.cli, aitorrent_inference.cli_chat;"
        "heavy = {'pydantic', 'asyncio', 'httpx', 'torch', 'aitorrentd.api'} & set(sys.modules);"
        "sys.exit(', '.join(sorted(heavy)) if heavy else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_chat_knows_the_commands_of_other_tools_with_a_slash(ctl: Ctl, tmp_path: Path) -> None:
    backend = FakeBackend("a")
    with serving(tmp_path / "s", backend):
        result = ctl("chat", stdin="one\n/clear\n/?\ntwo\n/bye\nthree\n")
    assert result.code == 0
    assert "`new` starts over" in result.err
    asked = [[m.content for m in r.messages or ()] for r in backend.requests]
    assert asked == [["one"], ["two"]]


def test_ctrl_c_in_a_chat_stops_the_answer_only(tmp_path: Path) -> None:
    backend = FakeBackend("a", hangs=True)
    command = [sys.executable, "-m", "aitorrentd.cli.main", "chat"]
    pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    env = {**os.environ, "AITORRENT_SOCKET": str(tmp_path / "s")}
    with (
        serving(tmp_path / "s", backend),
        subprocess.Popen(command, env=env, text=True, bufsize=0, **pipes) as process,
    ):
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("first\n")
        assert process.stdout.read(7) == "one two"
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "\n"
        backend.hangs = False
        out, err = process.communicate("second\nexit\n", timeout=20)
    assert (process.returncode, out) == (0, "one two\n")
    assert err.startswith("Stopped.\n")
    assert [m.content for m in backend.requests[1].messages or ()] == ["first", "one two", "second"]


def test_discover_leaves_the_local_backend_out(ctl: Ctl, tmp_path: Path) -> None:
    backend = FakeBackend("a")
    with serving(tmp_path / "s", backend):
        result = ctl("ask", "hi", "--discover")
        assert (result.code, result.out) == (1, "")
        assert "directory lists no peer that answers" in result.err
        assert ctl("ask", "hi", "--discover", "--backend", "a").code == 2
    assert backend.requests == []
