"""A real node, and `aitorrentctl` against it in this process."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest

from aitorrentd.cli import toolkit
from tests.support.cli_nodes import Ctl, NodeThread
from tests.support.cli_runs import run_here


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeThread]:
    with NodeThread(tmp_path_factory.mktemp("n")) as node:
        yield node


@pytest.fixture
def ctl(node: NodeThread) -> Ctl:
    """Runs a command line against the node."""
    return partial(run_here, socket=node.socket)


@pytest.fixture(autouse=True)
def plain_options() -> Iterator[None]:
    """The options of one test reach no other."""
    toolkit.start_over()
    yield
    toolkit.start_over()
