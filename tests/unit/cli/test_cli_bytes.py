"""Arguments and standard input of any bytes, in any locale: one line, never a traceback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st

from aitorrentd.cli.app import CORE, root
from aitorrentd.cli.running import run
from aitorrentd.errors import InvalidParams
from aitorrentd.system.words import readable, unreadable
from tests.support.cli_nodes import Ctl, NodeThread
from tests.support.effort import examples
from tests.support.nodes import REPOSITORY

PLAIN: Final = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
BAD: Final = os.fsdecode(b"caf\xe9")


def commands() -> list[list[str]]:
    """Every command of `aitorrentctl` that is no group."""
    group = root()
    context = typer.Context(group)

    def below(command: Any, words: list[str]) -> list[list[str]]:
        inner = getattr(command, "commands", None)
        if inner is None:
            return [words]
        return [path for name in inner for path in below(inner[name], [*words, name])]

    return [
        path
        for name in group.list_commands(context)
        for path in below(group.get_command(context, name), [name])
    ]


ALL: Final = commands()


def one_line(text: str) -> str:
    lines = text.splitlines()
    assert len(lines) == 1, text
    assert "Traceback" not in text
    return lines[0]


def test_table_has_every_command() -> None:
    names = {path[0] for path in ALL}
    assert names >= {*CORE, "ask", "chat", "models", "peers"}
    assert ["config", "set"] in ALL


@pytest.mark.parametrize("words", ALL, ids=" ".join)
@pytest.mark.parametrize("place", ["argument", "option", "value", "before"])
def test_argument_that_is_not_utf8_is_named(
    words: list[str], place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = {
        "argument": [*words, BAD],
        "option": [*words, f"--{BAD}"],
        "value": [*words, "--socket", BAD],
        "before": [f"--{BAD}", *words],
    }[place]
    assert run(bad) == 2
    number = next(i for i, word in enumerate(bad, 1) if BAD in word)
    told = capsys.readouterr()
    assert one_line(told.err).startswith(f"Error: argument {number} is not UTF-8: ")
    assert "caf\\xe9" in told.err
    assert told.out == ""


def test_argument_that_is_not_utf8_is_json_where_that_is_asked_for(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(["models", "--json", BAD]) == 2
    error = json.loads(one_line(capsys.readouterr().err))["error"]
    assert (error["code"], "argument 3" in error["message"]) == ("usage", True)


@settings(max_examples=examples(200))
@given(st.lists(st.binary(max_size=20).map(lambda b: os.fsdecode(b.replace(b"\0", b"")))))
def test_arguments_are_text_or_one_of_them_is_named(args: list[str]) -> None:
    try:
        words = readable(args)
    except InvalidParams as e:
        assert e.message.isprintable()
        return
    assert [os.fsencode(arg) for arg in args] == [word.encode() for word in words]


def process(
    words: list[bytes], stdin: bytes, socket: Path | None = None, **env: str
) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "aitorrentd.cli.main", *words],
        input=stdin,
        capture_output=True,
        cwd=REPOSITORY,
        env={**os.environ, "AITORRENT_SOCKET": str(socket or "/nowhere/s"), **env},
        timeout=90,
        check=False,
    )
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def _calls() -> list[dict[str, Any]]:
    folder = REPOSITORY / "tests" / "cases" / "inference" / "cli"
    found: list[dict[str, Any]] = json.loads((folder / "bad-bytes.json").read_text())
    return [call for call in found if call["exit"]]


@pytest.mark.parametrize("call", _calls())
def test_call_that_occurs_ends_in_one_line(call: dict[str, Any], node: NodeThread) -> None:
    words = [bytes.fromhex(word) for word in call["argv_hex"]]
    stdin = bytes.fromhex(call["stdin_hex"])
    code, out, err = process(words, stdin, node.socket, **call.get("env", {}))
    assert (code, out) == (call["exit"], "")
    assert "UTF-8" in one_line(err)


@pytest.mark.slow
@pytest.mark.parametrize(
    "words", [[b"ask"], [b"ask", b"-"], [b"chat"], [b"call", b"node.id", b"--stdin"], [b"shell"]]
)
@pytest.mark.parametrize("env", [{}, PLAIN, {"PYTHONUTF8": "1"}], ids=["own", "C", "utf8"])
def test_standard_input_that_is_not_utf8_is_one_line(
    words: list[bytes], env: dict[str, str], node: NodeThread
) -> None:
    code, _, err = process(words, b"caf\xe9 x\nid\n", node.socket, **env)
    assert code == 1
    assert "standard input cannot be read: it is not UTF-8: byte 0xe9" in one_line(err)


def test_text_arrives_whatever_the_locale(node: NodeThread) -> None:
    code, out, err = process(
        [b"call", b"rpc.list", "prefix=grüße".encode()],
        b"",
        node.socket,
        **PLAIN,
    )
    assert (code, err) == (0, "")
    assert json.loads(out) == {"methods": []}


def test_standard_input_may_be_closed(node: NodeThread) -> None:
    line = f"exec {sys.executable} -m aitorrentd.cli.main ask <&-"
    done = subprocess.run(
        ["sh", "-c", line],
        capture_output=True,
        cwd=REPOSITORY,
        env={**os.environ, "AITORRENT_SOCKET": str(node.socket)},
        timeout=90,
        check=False,
        text=True,
    )
    assert (done.returncode, one_line(done.stderr)) == (2, "Error: standard input is empty")


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (r'"\ud800"', r"an unpaired surrogate, \ud800"),
        ('["' + r"\udfff" + '"]', "an unpaired surrogate"),
        ("9" * 40, "more than 64 bits"),
        ("[" * 600 + "]" * 600, "deep"),
    ],
)
def test_parameter_that_cannot_be_sent_is_one_line(ctl: Ctl, value: str, why: str) -> None:
    ran = ctl("call", "rpc.list", f"prefix={value}")
    assert ran.code in (1, 2)
    assert why in one_line(ran.err)


@pytest.mark.parametrize(
    ("words", "env", "why"),
    [
        ([b"--config", b"caf\xe9"], {}, "argument 2 is not UTF-8: caf\\xe9"),
        ([b"--caf\xe9"], {}, "argument 1 is not UTF-8"),
        ([b"--check", b"--name", b"\xff"], {}, "argument 3 is not UTF-8"),
        ([b"--config", "grüße".encode()], PLAIN, "set LC_ALL=C.UTF-8"),
    ],
)
def test_daemon_names_an_argument_that_it_cannot_read(
    words: list[bytes], env: dict[str, str], why: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "aitorrentd.main", *words],
        capture_output=True,
        cwd=REPOSITORY,
        env={**os.environ, **env},
        timeout=90,
        check=False,
    )
    assert (done.returncode, done.stdout) == (64, b"")
    assert why in one_line(done.stderr.decode())


def test_what_cannot_be_read_is_told_in_words() -> None:
    with pytest.raises(UnicodeDecodeError) as read:
        b"ab\xff".decode()
    assert unreadable(read.value) == "it is not UTF-8: byte 0xff at position 2"
    with pytest.raises(UnicodeEncodeError) as written:
        "ü".encode("ascii")
    assert unreadable(written.value).startswith("the locale (ascii) has no '\\xfc'")
