"""`aitorrentctl env` and `launch` with a node, with programs of a test and with real ones."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from aitorrentd.api import ModelView
from tests.support import cli_runs
from tests.support.clients.agent_programs import agent
from tests.support.clients.raw_http import exchange, request
from tests.support.clients.sealed import PORT, sealed
from tests.support.gateway_nodes import gateway_node
from tests.support.http_nodes import http_node
from tests.support.inference_fakes import FakeBackend
from tests.support.nodes import NodeFactory
from tests.support.servers.hub.certificates import tls_for

PRINTS = """#!/bin/sh
for word in "$@"; do echo "argument $word"; done
env
"""


async def node(
    factory: NodeFactory, directory: Path, *models: str, **settings: Any
) -> tuple[Path, str]:
    """The control socket and the address of a node with these models."""
    socket = directory / "control.sock"
    backend = FakeBackend("f", models=models, words=("Hello ", "there"))
    _, address = await gateway_node(factory, backend, control=socket, **settings)
    return socket, address


def program(directory: Path, name: str) -> dict[str, str]:
    """An environment in which a program of this name prints what it was given."""
    place = directory / "bin"
    place.mkdir()
    (place / name).write_text(PRINTS)
    (place / name).chmod(0o755)
    return {**os.environ, "PATH": f"{place}:{os.environ['PATH']}"}


async def test_env_is_for_a_shell(node_factory: NodeFactory, tmp_path: Path) -> None:
    socket, address = await node(node_factory, tmp_path, "m")
    code, out, err = await cli_runs.run(socket, "env", "openai")
    assert (code, err) == (0, "")
    shell = await asyncio.create_subprocess_exec(
        *("sh", "-ec", f"{out}\necho $OPENAI_BASE_URL $OPENAI_API_KEY"),
        stdout=asyncio.subprocess.PIPE,
    )
    said, _ = await shell.communicate()
    assert said.decode() == f"http://{address}/v1 none\n"
    code, out, _ = await cli_runs.run(socket, "env", "anthropic", "--json")
    assert json.loads(out)["ANTHROPIC_BASE_URL"] == f"http://{address}"


async def test_a_token_is_made_where_one_is_needed(
    node_factory: NodeFactory, tmp_path: Path
) -> None:
    socket, address = await node(node_factory, tmp_path, "m", anonymous=[])
    _, out, _ = await cli_runs.run(socket, "env", "openai", "--json")
    token = json.loads(out)["OPENAI_API_KEY"]
    raw = request("GET", "/v1/models", {"Authorization": f"Bearer {token}"})
    assert (await exchange(address, raw)).status == 200
    _, out, _ = await cli_runs.run(socket, "token", "list", "--json")
    (listed,) = json.loads(out)["tokens"]
    assert (listed["name"].startswith("env-openai-"), listed["role"]) == (True, "generate")
    assert listed["expires"] - listed["created"] == 30 * 86_400


async def test_launch_becomes_the_program(node_factory: NodeFactory, tmp_path: Path) -> None:
    socket, address = await node(node_factory, tmp_path, "org/m")
    environ = {
        **program(tmp_path, "claude"),
        "ANTHROPIC_API_KEY": "mine",
        "HTTP_PROXY": "http://proxy.invalid",
    }
    command = ("launch", "claude", "--", "-p", "a b", "--json")
    code, out, err = await cli_runs.run(socket, *command, env=environ)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert [line for line in lines if line.startswith("argument")] == [
        *("argument -p", "argument a b", "argument --json")
    ]
    assert {
        f"ANTHROPIC_BASE_URL=http://{address}",
        "ANTHROPIC_AUTH_TOKEN=none",
        "ANTHROPIC_MODEL=org/m",
        "NO_PROXY=127.0.0.1",
    } < set(lines)
    assert not [line for line in lines if line.startswith("ANTHROPIC_API_KEY")]

    code, out, err = await cli_runs.run(socket, "--json", *command[:2], env=environ)
    shown = json.loads(out)
    assert (code, shown["program"]) == (0, str(tmp_path / "bin" / "claude"))
    assert (shown["installed"], shown["needs_token"]) == (True, False)
    assert shown["environment"]["ANTHROPIC_MODEL"] == "org/m"


async def test_a_launch_that_starts_nothing_creates_no_token(
    node_factory: NodeFactory, tmp_path: Path
) -> None:
    socket, _ = await node(node_factory, tmp_path, "m", anonymous=[])
    environ = program(tmp_path, "claude")
    code, out, _ = await cli_runs.run(socket, "--json", "launch", "claude", env=environ)
    shown = json.loads(out)
    assert (code, shown["needs_token"]) == (0, True)
    assert shown["environment"]["ANTHROPIC_AUTH_TOKEN"] == "TOKEN"
    code, _, err = await cli_runs.run(socket, "launch", "claude", "--model", "x", env=environ)
    assert (code, "no model 'x' can answer now" in err) == (1, True)
    bare = {**environ, "PATH": str(tmp_path / "bin")}
    code, out, _ = await cli_runs.run(socket, "--json", "launch", "codex", env=bare)
    assert (code, json.loads(out)["program"], json.loads(out)["installed"]) == (0, "codex", False)
    _, out, _ = await cli_runs.run(socket, "token", "list", "--json")
    assert json.loads(out)["tokens"] == []


async def test_a_token_that_is_not_accepted_does_not_remain(
    node_factory: NodeFactory, tmp_path: Path
) -> None:
    """The address leads to another node."""
    socket, _ = await node(node_factory, tmp_path, "m", anonymous=[])
    other = tmp_path / "other"
    other.mkdir()
    _, elsewhere = await node(node_factory, other, "m", anonymous=[])
    code, _, err = await cli_runs.run(socket, "env", "openai", "--url", f"http://{elsewhere}")
    assert (code, f"http://{elsewhere} answered with status 401; is it this node?" in err) == (
        *(1, True),
    )
    _, out, _ = await cli_runs.run(socket, "token", "list", "--json")
    assert json.loads(out)["tokens"] == []


@pytest.mark.parametrize(
    ("models", "words", "code", "said"),
    [
        (("m",), ("launch", "vim"), 2, "cannot start 'vim'; programs are aider, claude"),
        (("m",), ("launch", "codex"), 1, "codex is not installed; npm install -g @openai/codex"),
        ((), ("launch", "claude"), 1, "no model can answer now"),
        (("a", "b"), ("launch", "claude"), 2, "choose a model with --model; there are a, b"),
        (("a", "b"), ("launch", "claude", "-m", "c"), 1, "no model 'c' can answer now"),
        (("m",), ("env", "openai", "--url", "127.0.0.1:1"), 2, "--url is not of the form"),
        (
            ("m",),
            ("env", "openai", "--url", "http://127.0.0.1:1"),
            *(1, "nothing answers at http://127.0.0.1:1: Connection refused\n"),
        ),
    ],
)
async def test_what_is_missing_is_said(
    node_factory: NodeFactory,
    tmp_path: Path,
    models: tuple[str, ...],
    words: tuple[str, ...],
    code: int,
    said: str,
) -> None:
    socket, _ = await node(node_factory, tmp_path, *models)
    environ = {**program(tmp_path, "claude"), "PATH": str(tmp_path / "bin")}
    found, out, err = await cli_runs.run(socket, *words, env=environ)
    assert (found, out, said in err) == (code, "", True), err


async def test_a_certificate_of_ones_own_is_trusted_by_the_environment(
    node_factory: NodeFactory, tmp_path: Path
) -> None:
    _, certificate = tls_for(tmp_path)
    key = certificate.with_suffix(".key")
    tls = {"tls_cert": str(certificate), "tls_key": str(key)}
    socket, address = await node(node_factory, tmp_path, "m", **tls)
    port = address.rpartition(":")[2]
    words = ("env", "openai", "--url")
    code, _, err = await cli_runs.run(socket, *words, f"https://127.0.0.1:{port}")
    told = "is not trusted: self-signed certificate; name it in SSL_CERT_FILE"
    assert (code, told in err) == (1, True), err
    trust = {**os.environ, "SSL_CERT_FILE": str(certificate)}
    code, _, err = await cli_runs.run(socket, *words, f"https://localhost:{port}", env=trust)
    assert (code, "not trusted: Hostname mismatch" in err) == (1, True), err
    assert "; give an address that is in it" in err
    code, out, err = await cli_runs.run(socket, *words, f"https://127.0.0.1:{port}", env=trust)
    assert (code, err, f"OPENAI_BASE_URL=https://127.0.0.1:{port}/v1" in out) == (0, "", True)


class Short(FakeBackend):
    """Has a model with a short context."""

    async def models(self) -> list[ModelView]:
        return [ModelView("m", "f", context_length=4096)]


async def test_a_short_context_is_warned_of(node_factory: NodeFactory, tmp_path: Path) -> None:
    socket = tmp_path / "control.sock"
    await gateway_node(node_factory, Short("f"), control=socket)
    environ = program(tmp_path, "claude")
    code, out, err = await cli_runs.run(socket, "launch", "claude", env=environ)
    assert (code, err) == (
        *(0, "warning: m has a context of 4096 tokens; claude wants 49152 or more\n"),
    )
    assert "CLAUDE_CODE_MAX_CONTEXT_TOKENS=4096" in out.splitlines()


async def test_a_node_without_the_apis_says_so(node_factory: NodeFactory, tmp_path: Path) -> None:
    socket = tmp_path / "control.sock"
    await http_node(node_factory, control=socket)
    code, _, err = await cli_runs.run(socket, "env", "openai")
    assert (code, "`plugin enable gateway`" in err) == (1, True), err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("claude", ("-p", "say hello")),
        ("codex", ("exec", "--skip-git-repo-check", "say hello")),
        ("opencode", ("run", "say hello")),
    ],
)
async def test_real_programs_find_the_node(
    node_factory: NodeFactory, tmp_path: Path, name: str, words: tuple[str, ...]
) -> None:
    """Without an internet, and with a token."""
    http = tmp_path / "http.sock"
    socket, _ = await node(node_factory, tmp_path, "m", unix_socket=str(http))
    path = (await agent(name)).parent
    env = {"PATH": f"{path}:{os.environ['PATH']}", "HOME": str(tmp_path), "LC_ALL": "C.UTF-8"}
    env |= dict.fromkeys(("OPENCODE_DISABLE_MODELS_FETCH", "OPENCODE_DISABLE_AUTOUPDATE"), "1")
    ctl = [sys.executable, "-m", "aitorrentd.cli.main", "--socket", str(socket)]
    command = [*ctl, "launch", name, "--url", f"http://127.0.0.1:{PORT}", "--", *words]
    status, out, err = await sealed(command, http, cwd=tmp_path, env=env, wait_s=200)
    assert (status, "Hello there" in out) == (0, True), f"{out}\n{err}"
