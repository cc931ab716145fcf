"""Errors are caught narrowly; what catches everything is a fence around strangers' code.

Each fence is listed here with whose code it holds off. It logs, tells or hands on what it caught:
an error that nobody sees is a bug that nobody finds.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.sources import tree

ROOT = Path(__file__).parents[3]
SOURCES = sorted(p for top in ("aitorrentd", "plugins") for p in (ROOT / top).rglob("*.py"))
EVERYTHING = {"Exception", "BaseException"}
MAYBE = re.compile(r"\bexcept\b[^:]*(\bException\b|\bBaseException\b)|\bexcept\s*:")
"In the text of every module with such a handler; trees are slow to make."

FENCES = {
    # Plugins' tasks and hooks: the error becomes the plugin's state.
    "aitorrentd/kernel/run.py:_main": "a plugin's task",
    "aitorrentd/kernel/hooks.py:contained": "a plugin's hook that raises SystemExit and the like",
    "aitorrentd/kernel/hooks.py:register": "a plugin's hooks, which pluggy checks",
    "aitorrentd/kernel/hooks.py:health": "a plugin's health hook",
    "aitorrentd/kernel/hooks.py:metrics": "a plugin's metrics hook",
    "aitorrentd/kernel/hooks.py:_opinion": "a plugin's policy hook",
    "aitorrentd/kernel/prepare.py:load_plugin": "a plugin's import and manifest",
    "aitorrentd/kernel/prepare.py:configure": "a plugin's settings model",
    "aitorrentd/kernel/found.py:work": "a plugin's import",
    "aitorrentd/kernel/found.py:unusable": "a plugin's import, for `--check` and the doctor",
    "aitorrentd/kernel/reasons.py:_text": "an exception of a plugin that cannot describe itself",
    "aitorrentd/config/plugin_tables.py:plugin_problems": "a plugin's import; `unusable` tells it",
    "plugins/aitorrent_shards/worker/lean.py:engine_class": "imports of a release of transformers",
    # Method calls.
    "aitorrentd/control/calls.py:begin": "a control method",
    "aitorrentd/control/calls.py:_unary": "a control method",
    "aitorrentd/control/calls.py:_stream": "a control method that streams",
    "aitorrentd/methods/inside.py:call": "a control method, called in the process",
    "aitorrentd/methods/inside.py:stream": "a control method that streams, called in the process",
    "plugins/aitorrent_http/server.py:__call__": "an endpoint of another plugin",
    "aitorrentd/doctor/checks.py:run_checks": "a plugin's check",
    "plugins/aitorrent_inference/catalogue.py:ask_backend": "a backend of another plugin",
    "plugins/aitorrent_inference/catalogue.py:pending": "a backend of another plugin",
    "plugins/aitorrent_gateway/ollama/names.py:_pending": "a backend of another plugin",
    # Event handlers.
    "aitorrentd/runtime/callbacks.py:_call": "a callback of the embedding program",
    "plugins/aitorrent_transport/peers/stream_server.py:_run": "a plugin's protocol handler",
    "plugins/aitorrent_transport/streams/stream.py:_wake_reader": "a plugin's stream reader",
    # Worker pipes.
    "aitorrentd/workers/process.py:_tell": "a plugin's handling of a worker's answer",
    "aitorrentd/workers/worker.py:answer": "the request handler in a worker",
    "aitorrentd/workers/sandbox.py:handle": "untrusted code in a sandbox",
    # Distributions beside us: code and metadata that the user installed, run by import machinery.
    "aitorrentd/cli/app.py:_add_plugin_commands": "register() of a plugin's commands",
    "aitorrentd/cli/plugin_commands.py:_load": "the import of a plugin's commands",
    "aitorrentd/cli/plugin_commands.py:declared": "an import hook; the import itself tells it",
    "aitorrentd/system/distributions.py:_distributions": "an import hook that lists distributions",
    "aitorrentd/system/distributions.py:_text": "a class of distribution that an import hook made",
    "aitorrentd/system/foreign.py:entry_points": "the same; `distributions` tells it",
    # Programs of other people, in which the hook for huggingface_hub runs.
    "plugins/aitorrent_hf.py:download": "the hook itself: what it cannot do is done over HTTP",
    # A library that raises plain Exception; everything else is raised again.
    "plugins/aitorrent_shards/models/tokenizer.py:__init__": "the tokenizers library",
}


def catches_all(handler: ast.ExceptHandler) -> bool:
    """Whether it catches everything, and does not always raise it again."""
    names = (
        {n.id for n in ast.walk(handler.type) if isinstance(n, ast.Name)} if handler.type else {}
    )
    last = handler.body[-1]
    is_raised_again = isinstance(last, ast.Raise) and last.exc is None
    return (handler.type is None or bool(EVERYTHING & {*names})) and not is_raised_again


def fences(tree: ast.AST, function: str = "") -> Iterator[tuple[str, ast.ExceptHandler]]:
    """The innermost function around each handler that catches everything, and the handler."""
    for node in ast.iter_child_nodes(tree):
        inside = node.name if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) else function
        if isinstance(node, ast.ExceptHandler) and catches_all(node):
            yield inside, node
        yield from fences(node, inside)


def found() -> list[tuple[str, ast.ExceptHandler]]:
    return [
        (f"{path.relative_to(ROOT)}:{function}", handler)
        for path in SOURCES
        if MAYBE.search(path.read_text())
        for function, handler in fences(tree(path))
    ]


def test_what_catches_everything_is_a_listed_fence() -> None:
    assert {place for place, _ in found()} == {*FENCES}


def test_no_fence_swallows_what_it_caught_without_an_answer() -> None:
    silent = [
        f"{place}, line {handler.lineno}"
        for place, handler in found()
        if all(isinstance(statement, ast.Pass) for statement in handler.body)
    ]
    assert silent == []


@pytest.mark.parametrize(
    ("code", "is_fence"),
    [
        ("try: f()\nexcept Exception: pass", True),
        ("try: f()\nexcept (OSError, Exception) as e: log(e)", True),
        ("try: f()\nexcept: log()", True),
        ("try: f()\nexcept BaseException:\n    undo()\n    raise", False),
        ("try: f()\nexcept (OSError, ValueError): pass", False),
    ],
)
def test_fence_is_recognised(code: str, is_fence: bool) -> None:
    assert bool(list(fences(ast.parse(code)))) is is_fence
