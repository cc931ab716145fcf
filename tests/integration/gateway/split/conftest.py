"""One network for all tests here: its models take seconds to load."""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.support.clients.llama_server import llama_server
from tests.support.nodes import short_dir
from tests.support.servers.http_server import HttpServer
from tests.support.servers.hub.certificates import tls_for
from tests.support.servers.image_servers import FakeStableDiffusion
from tests.support.shards.split_daemons import Split, split_daemons

SLOTS = 2
"Answers at a time, of which opencode has two written; none waits for another."


@asynccontextmanager
async def _network(directory: Path) -> AsyncIterator[Split]:
    """The daemons; the first also has a model for embeddings, and a server that draws, and the
    second has a certificate."""
    _, certificate = tls_for(directory)
    tls = {"tls_cert": str(certificate), "tls_key": str(certificate.with_suffix(".key"))}
    async with (
        llama_server(directory, "embed") as embedder,
        HttpServer(FakeStableDiffusion()) as pictures,
        split_daemons(
            directory,
            {
                "openai": {"servers": [{"name": "llama", "url": f"http://{embedder}/v1"}]},
                "gateway": {"images": {"kind": "sd-webui", "url": pictures.url}},
                "inference": {"max_local": SLOTS, "max_waiting": 0},
            },
            {"http": {"enabled": True, "port": 0, **tls}},
        ) as split,
    ):
        yield split


@pytest.fixture(scope="package")
def split() -> Iterator[Split]:
    """The network, run by a loop of its own: those of the tests end with them."""
    directory, loop = short_dir(), asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    network = _network(directory)
    try:
        yield asyncio.run_coroutine_threadsafe(network.__aenter__(), loop).result()
        ending = network.__aexit__(None, None, None)
        asyncio.run_coroutine_threadsafe(ending, loop).result()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
        shutil.rmtree(directory)
