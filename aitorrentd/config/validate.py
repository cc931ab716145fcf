"""Step 4, validate: a resolved tree as Settings, or every problem in it.

The tables of plugins stay raw here; see `aitorrentd.config.plugin_tables`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from pydantic import ValidationError

from aitorrentd.config.model import Settings
from aitorrentd.system.paths import MAX_SOCKET_BYTES, SOCKET_NAME, Directories, directories
from aitorrentd.validation import Problem, problems


def validate(tree: Mapping[str, Any]) -> tuple[Settings | None, tuple[Problem, ...]]:
    """The settings, or None and the problems."""
    try:
        return Settings.model_validate(tree), ()
    except ValidationError as e:
        return None, tuple(map(_with_hint, problems((), e, Settings)))


def placed(
    settings: Settings, environ: Mapping[str, str]
) -> tuple[Directories, tuple[Problem, ...]]:
    """The directories of a node with these settings, and the problems with its control socket."""
    node, socket = settings.node, settings.control.socket
    found = directories(
        environ, state=node.state_dir, cache=node.cache_dir, runtime=node.runtime_dir
    )
    if socket is not None and not socket.is_absolute():
        socket = found.runtime / SOCKET_NAME
    if socket is None or len(os.fsencode(socket)) <= MAX_SOCKET_BYTES:
        return found, ()
    text = (
        f"the path {socket} is longer than {MAX_SOCKET_BYTES} bytes; "
        "set control.socket or node.runtime_dir to a shorter one"
    )
    return found, (Problem(("control", "socket"), text),)


def unsaid(found: Iterable[Problem], said: Iterable[Problem]) -> list[Problem]:
    """The entries of `found` whose setting no entry of `said` is about."""
    known = {problem.path for problem in said}
    return [problem for problem in found if problem.path not in known]


def _with_hint(problem: Problem) -> Problem:
    """`transport: unknown key; did you mean plugins.transport?`"""
    if len(problem.path) != 1 or problem.text != "unknown key":
        return problem
    # Imported here: entry points are read only after an error.
    from aitorrentd.kernel.found import ranked

    (name,) = problem.path
    if any(source.name == name for source in ranked(None).sources):
        return replace(problem, text=f"unknown key; did you mean plugins.{name}?")
    return problem
