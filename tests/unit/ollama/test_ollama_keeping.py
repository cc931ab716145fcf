"""Models of an Ollama are loaded and unloaded by that Ollama."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from aitorrent_ollama.backend import OllamaBackend
from aitorrent_ollama.config import OllamaConfig
from aitorrentd.api import NotFound
from aitorrentd.api.models.keeping import KeepsModels
from tests.support.clocks import FakeClock
from tests.support.servers.ollama_server import FakeOllama
from tests.support.servers.relays import closed_after


def backend_of(server: FakeOllama, **settings: Any) -> OllamaBackend:
    config = OllamaConfig(url=server.url, **settings)
    return OllamaBackend(config, clock=FakeClock(), log=logging.getLogger("test.ollama"))


async def test_keep_alive_goes_to_the_real_ollama() -> None:
    async with FakeOllama() as server:
        backend = backend_of(server)
        assert isinstance(backend, KeepsModels)
        async with closed_after(backend):
            await backend.load("llama3.2:latest")
            await backend.keep("llama3.2:latest", 300.0)
            await backend.keep("llama3.2:latest", None)
            await backend.unload("llama3.2:latest")
        asked = [each for each in server.requests if each.path == "/api/generate"]
    common = {"model": "llama3.2:latest", "stream": False}
    assert [each.json() for each in asked] == [
        common,
        common | {"keep_alive": 300.0},
        common | {"keep_alive": -1},
        common | {"keep_alive": 0},
    ]


async def test_model_that_is_not_allowed_stays_as_it_is() -> None:
    async with FakeOllama() as server:
        backend = backend_of(server, models=["other"])
        async with closed_after(backend):
            with pytest.raises(NotFound, match=r"not in plugins\.ollama\.models"):
                await backend.unload("llama3.2:latest")
        assert not [each for each in server.requests if each.path == "/api/generate"]
