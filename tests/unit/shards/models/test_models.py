"""Models of a node: settings, digests, and workers that fail, come back or never load."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from aitorrent_shards.config import ModelEntry, ShardsConfig, parse_layers
from aitorrent_shards.methods import shards_methods
from aitorrent_shards.models.folder import Digests, combine, hash_model, read_model
from aitorrent_shards.models.tokenizer import ModelTokenizer
from aitorrent_shards.plugin import ShardsPlugin
from aitorrent_shards.protocol.loading import Loading, parse_loading
from aitorrentd.api import (
    AitorrentError,
    Frame,
    InvalidParams,
    NoParams,
    NotFound,
    PeerId,
    Record,
)
from tests.support.shards.shards_fakes import (
    FakeNode,
    ToyWorker,
    toy_network,
    until,
    write_toy_model,
)


@pytest.mark.parametrize(
    ("models", "problem"),
    [
        ([{"name": "a"}], "model 'a' needs a path, or a source to fetch it from"),
        ([{"name": "a", "path": "/x", "source": "hf://o/n"}], "both a path and a source"),
        ([{"name": "a", "source": "o/n"}], "write hf://ORG/NAME, hf://ORG/NAME@REVISION"),
        ([{"name": "demo", "layers": "4-2"}], "is not a range of layers"),
        ([{"name": "demo", "layers": 3}], "'3' is not a range of layers"),
        ([{"name": "demo", "layers": "some"}], 'write "all", "none", or "4-8"'),
        ([{"name": "demo", "kv_budget": "much"}], "'much' is not a size; write 512MiB"),
        ([{"name": "demo"}, {"name": "demo"}], "listed twice"),
        ([{"name": "demo", "dtype": "int4"}], "dtype"),
        ([{"name": "demo", "path": "/x", "colour": 1}], "colour"),
    ],
)
def test_wrong_settings_are_explained(models: list[Any], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        ShardsConfig.model_validate({"models": models})


def test_layers_are_half_open() -> None:
    assert parse_layers("4-8") == (4, 8)
    assert parse_layers("all") is parse_layers("none") is None


def test_demo_model_needs_no_path() -> None:
    files = read_model(ModelEntry.model_validate({"name": "demo"}).folder(Path("/nowhere")))
    tokenizer = ModelTokenizer(files, model="demo")
    assert files.weights
    assert tokenizer.encode(None, [{"role": "user", "content": "hi"}])
    assert tokenizer.end_ids
    assert all(i < files.vocab for i in tokenizer.encode("What is a shard?"))


def digests(folder: Path, cache: Path) -> tuple[Digests, int]:
    """Digests, and how many bytes were counted."""
    counted: list[int] = []
    found = hash_model(read_model(folder), cache, counted.append)
    return found, sum(counted)


def test_digest_covers_names_and_content(tmp_path: Path) -> None:
    folder = write_toy_model(tmp_path / "m")
    found, counted = digests(folder, tmp_path / "c.json")
    names = ("config.json", "model.safetensors", "tokenizer.json")
    hashes = {n: hashlib.sha256((folder / n).read_bytes()).hexdigest() for n in names}
    assert found.digest == combine(hashes.items())
    assert found.front == combine((n, h) for n, h in hashes.items() if "safe" not in n)
    assert counted == sum((folder / n).stat().st_size for n in names)
    (folder / "README.md").write_text("not part of it")
    assert digests(folder, tmp_path / "c.json")[0] == found
    (folder / "model.safetensors").rename(folder / "other.safetensors")
    assert digests(folder, tmp_path / "c.json")[0].digest != found.digest


def test_changed_file_is_hashed_again_and_others_are_not(tmp_path: Path) -> None:
    folder, cache = write_toy_model(tmp_path / "m"), tmp_path / "c.json"
    found, _ = digests(folder, cache)
    known = json.loads(cache.read_text())
    assert len(known) == 3
    weights = folder / "model.safetensors"
    weights.write_bytes(b"W")
    os.utime(weights, ns=(1, 1))
    changed, _ = digests(folder, cache)
    assert changed.front == found.front
    assert changed.digest != found.digest
    cache.write_text("damaged")
    assert digests(folder, cache)[0] == changed


@pytest.mark.parametrize(
    ("break_it", "error", "text"),
    [
        (lambda p: (p / "config.json").unlink(), NotFound, "config.json does not exist"),
        (lambda p: (p / "tokenizer.json").unlink(), NotFound, "a fast tokenizer is needed"),
        (lambda p: (p / "config.json").write_text("[]"), InvalidParams, "is not a JSON map"),
        (lambda p: (p / "config.json").write_text("{"), InvalidParams, "cannot be read"),
        (lambda p: (p / "config.json").write_text("{}"), InvalidParams, "layers must be an int"),
    ],
)  # fmt: skip
def test_broken_folder_is_explained(
    tmp_path: Path, break_it: Any, error: type[AitorrentError], text: str
) -> None:
    folder = write_toy_model(tmp_path / "m")
    break_it(folder)
    with pytest.raises(error, match=text):
        read_model(folder)


def rows(node: FakeNode) -> list[dict[str, Any]]:
    """The result of shards.models."""
    method = next(m for m in shards_methods(lambda: node.shards) if m.name == "shards.models")
    result = method.handler(None, NoParams())  # type: ignore[arg-type]
    return result.model_dump()["models"]  # type: ignore[union-attr, no-any-return]


async def test_methods_tell_models_spans_and_sessions(tmp_path: Path) -> None:
    async with toy_network(tmp_path, "0-3", "3-6") as nodes:
        (row,) = rows(nodes[0])
        assert (row["state"], row["covered"], row["dtype"]) == ("ready", True, "float32")
        methods = {m.name: m for m in shards_methods(lambda: nodes[0].shards)}
        spans: Any = methods["shards.spans"].handler(None, NoParams())  # type: ignore[arg-type]
        assert [(s.start, s.end, s.this_node) for s in spans.spans] == [(0, 3, True), (3, 6, False)]
        sessions: Any = methods["shards.sessions"].handler(None, NoParams())  # type: ignore[arg-type]
        assert (sessions.sessions, sessions.answering, sessions.names) == ([], 0, {})
        assert nodes[0].node_id not in spans.names


async def test_model_that_does_not_load_is_reported_and_others_go_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(worker: ToyWorker) -> None:
        def load(header: Any, tail: bytes) -> Any:
            raise InvalidParams("family toy is not supported; llama works")

        worker._load = load  # type: ignore[method-assign]

    async with toy_network(tmp_path, "all") as nodes:
        other = FakeNode(nodes[0].net, 9, nodes[0].folder, nodes[0].config, on_worker=refuse)
        async with other.running():
            await until(lambda: rows(other)[0]["state"] == "failed")
            assert rows(other)[0]["problem"] == "family toy is not supported; llama works"
            (warning,) = other.shards.health()
            assert warning.text == "model toy: family toy is not supported; llama works"
            assert rows(nodes[0])[0]["state"] == "ready"
            await until(lambda: len(nodes[0].net.records) == 1)


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        ({"path": "/nowhere"}, "model folder /nowhere does not exist"),
        ({"layers": "2-9"}, "the model has 6 layers"),
        ({"digest": "0" * 64}, "not 0000"),
    ],
)
async def test_wrong_entry_is_a_health_warning(
    tmp_path: Path, entry: dict[str, Any], text: str
) -> None:
    async with toy_network(tmp_path, "all") as nodes:
        model = {"name": "x", "path": tmp_path / "toy"} | entry
        config = ShardsConfig.model_validate({"models": [model]})
        other = FakeNode(nodes[0].net, 9, nodes[0].folder, config)
        async with other.running():
            await until(lambda: rows(other)[0]["state"] == "failed")
            (warning,) = other.shards.health()
            assert text in warning.text


async def test_record_is_there_only_while_the_worker_is(tmp_path: Path) -> None:
    async with toy_network(tmp_path, "all") as nodes:
        runs = [s.run for s in nodes[0].shards.spans()]
        nodes[0].workers[0].kill()
        await until(lambda: not nodes[0].directory.known("ait:shard:"))
        assert rows(nodes[0])[0]["state"] == "restarting"
        (warning,) = nodes[0].shards.health()
        assert "restarted: killed" in warning.text
        await until(lambda: nodes[0].directory.known("ait:shard:"))
        assert [s.run for s in nodes[0].shards.spans()] > runs
        assert rows(nodes[0])[0]["restarts"] == 1
    assert not nodes[0].net.records


def test_plugin_without_a_running_service_has_no_warnings() -> None:
    plugin = ShardsPlugin()
    assert list(plugin.aitorrent_health()) == []
    assert plugin.aitorrent_info().config is ShardsConfig
    assert [m.name for m in plugin.aitorrent_methods()] == [
        "shards.models",
        "shards.spans",
        "shards.sessions",
        "shards.add_model",
        "shards.remove_model",
        "shards.load_model",
        "shards.unload_model",
    ]


class SlowWorker:
    """Makes a toy worker load in steps that the test allows."""

    def __init__(self) -> None:
        self.done = 0
        self.steps = asyncio.Semaphore(0)

    def __call__(self, worker: ToyWorker) -> None:
        load, request = worker._load, worker.request

        async def slowly(header: Any, tail: Any = b"", *, timeout_s: float = 60.0) -> Frame:
            if header["op"] == "load":
                self.header = header
            if header["op"] in ("load", "loading"):
                await self.steps.acquire()
                self.done += 30
                if self.done <= 100:
                    return Frame({"loading": True, "done_bytes": self.done, "total_bytes": 100})
                return load(self.header, tail)
            return await request(header, tail, timeout_s=timeout_s)

        worker.request = slowly  # type: ignore[method-assign]


async def test_layers_that_the_model_does_not_have_are_told_where_people_look(
    tmp_path: Path,
) -> None:
    async with toy_network(tmp_path, "0-3") as nodes:
        here = nodes[0]
        config = ShardsConfig.model_validate(
            {"models": [{"name": "toy", "path": tmp_path / "toy", "layers": "3-60"}]}
        )
        other = FakeNode(here.net, 9, here.folder, config)
        async with other.running():
            await until(lambda: rows(other)[0]["state"] == "failed")
            (pending,) = other.shards.backend.pending()
            assert pending.state == "incomplete"
            assert pending.detail.startswith(
                "this node cannot hold it: layers 3-60 of toy: the model has 6 layers; "
                "no reachable node holds layers 3-6 of toy"
            )


async def test_loading_is_told_here_and_to_peers_and_ends_with_the_layers(tmp_path: Path) -> None:
    async with toy_network(tmp_path, "0-3") as nodes:
        here = nodes[0]
        slow = SlowWorker()
        config = ShardsConfig.model_validate(
            {"models": [{"name": "toy", "path": tmp_path / "toy", "layers": "3-6"}]}
        )
        other = FakeNode(here.net, 9, here.folder, config, on_worker=slow)
        async with other.running():
            short_id = other.id[-8:]
            slow.steps.release()
            await until(lambda: rows(other)[0]["progress"] == 0.3)
            (row,) = rows(other)
            assert (row["state"], row["done_bytes"], row["total_bytes"]) == ("loading", 30, 100)
            (warning,) = other.shards.health()
            assert warning.text == "model toy: layers 3-6 are loading here (30%)"
            assert warning.severity == "info"
            await until(lambda: here.shards.backend.pending()[0].done_bytes == 30)
            (pending,) = here.shards.backend.pending()
            assert (pending.state, pending.total_bytes, pending.missing) == (
                "loading",
                100,
                ((3, 6),),
            )
            assert pending.detail == (
                f"layers 3-6 are loading by …{short_id} (30%); held are 0-3 this node"
            )
            stranger = FakeNode(here.net, 8, here.folder, ShardsConfig())
            async with stranger.running():
                here.shards._begun.set()  # as the directory's event would
                await until(lambda: len(here.directory.known("ait:loading:")) == 2)
                (pending,) = stranger.shards.backend.pending()
                assert pending.detail.count(" by ") == 2  # by the one that loads and by the other
                assert (pending.name, pending.backend, pending.state) == ("toy", "peers", "loading")
            for _ in range(4):
                slow.steps.release()
            await until(lambda: rows(here)[0]["covered"])
            assert here.shards.backend.pending() == []
            assert rows(other)[0]["progress"] is None
            await until(lambda: not here.directory.known("ait:loading:"))


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"v": 2, "start": 0, "end": 1, "done": 0, "total": 0},
        {"v": 1, "start": 2, "end": 1, "done": 0, "total": 0},
        {"v": 1, "start": 0, "end": 10**9, "done": 0, "total": 0},
        {"v": 1, "start": 0, "end": 1, "done": -1, "total": 0},
        {"v": 1, "start": 0, "end": 1, "done": 0, "total": 2**60},
        {"v": 1, "start": True, "end": 1, "done": 0, "total": 0},
        {"v": 1, "start": 0, "end": "1", "done": 0, "total": 0},
    ],
)
def test_loading_that_a_stranger_made_up_is_not_believed(value: dict[str, Any]) -> None:
    assert parse_loading(Record("ait:loading:m", PeerId("p"), value)) is None
    good = {"v": 1, "start": 0, "end": 4, "done": 9, "total": 7}
    assert parse_loading(Record("ait:loading:m", PeerId("p"), good)) == Loading(
        PeerId("p"), "m", 0, 4, 7, 7
    )
    for name in ("", "x" * 200, "a\x1bb"):
        assert parse_loading(Record(f"ait:loading:{name}", PeerId("p"), good)) is None


def test_progress_is_told_in_steps() -> None:
    said = Loading(PeerId("p"), "m", 0, 4, 500, 1000)
    assert said.is_news(None)
    assert not replace(said, done_bytes=505).is_news(said)
    assert replace(said, done_bytes=510).is_news(said)
    assert replace(said, total_bytes=999).is_news(said)
