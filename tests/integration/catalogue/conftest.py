"""Both databases of the catalogue: each test that uses `database_url` runs on SQLite and on a real
PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.support.catalogue.trackers import Trackers
from tests.support.nodes import NodeFactory
from tests.support.servers.postgres import PostgresServer


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    server = PostgresServer()
    yield server
    server.close()


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest) -> str:
    """For `catalogue.database`; empty for SQLite."""
    if request.param == "sqlite":
        return ""
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.new_database()


@pytest.fixture
async def trackers(node_factory: NodeFactory, tmp_path: Path) -> AsyncIterator[Trackers]:
    made = Trackers(node_factory, tmp_path)
    yield made
    await made.close()
