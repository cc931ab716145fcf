"""Coding agents whose instructions alone exceed the context of a model of three nodes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from aitorrent_gateway.launching.programs import PROGRAMS, Model, Place
from tests.support.clients.agent_programs import agent
from tests.support.clients.sealed import sealed
from tests.support.shards.split_daemons import CONTEXT, URL, Split

pytestmark = pytest.mark.timeout(600)


@pytest.mark.parametrize(
    ("name", "words", "said"),
    [
        ("claude", ("-p", "hi"), "Prompt is too long"),
        (
            "codex",
            ("exec", "--skip-git-repo-check", "hi"),
            "ran out of room in the model's context window",
        ),
        ("opencode", ("run", "hi"), "The conversation was compacted"),
    ],
)
async def test_agent_says_that_the_context_is_too_small(
    split: Split, tmp_path: Path, name: str, words: tuple[str, ...], said: str
) -> None:
    """opencode goes on compacting what cannot be made shorter; it is ended once it has said so."""
    start = PROGRAMS[name].start(Place(URL), Model("m", CONTEXT))
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), **start.environment}
    env |= dict.fromkeys(("OPENCODE_DISABLE_MODELS_FETCH", "OPENCODE_DISABLE_AUTOUPDATE"), "1")
    command = [str(await agent(name)), *start.arguments, *words]
    # What is left of the pipe, and of the namespace of processes, ends with `grep`.
    script = 'said=$1; shift; exec grep -a -m 1 -- "$said" < <("$@" 2>&1 < /dev/null)'
    status, out, err = await sealed(
        *(("bash", "-c", script, "bash", said, *command), split.socket),
        cwd=tmp_path,
        env=env,
        wait_s=200,
    )
    assert (status, said in out) == (0, True), err
