"""A model that lies on this machine is added where it lies, and never deleted."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from aitorrent_shards.methods_models import RemoveParams
from aitorrentd.api import AitorrentError, Denied, InvalidParams, NotFound, Unavailable
from aitorrentd.api.models.weights import WEIGHTS
from tests.support.shards.adding import Call, Site, add, method, rows, running, site_in
from tests.support.shards.folder_weights import digest_of
from tests.support.shards.shards_fakes import until, write_toy_model


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with site_in(tmp_path) as site:
        yield site


async def test_folder_is_served_in_place_over_restarts_and_stays_when_it_is_removed(
    site: Site,
) -> None:
    before = {path.name: digest_of(path) for path in site.whole.iterdir()}
    async with running(node := site.node(1)):
        added = await add(node, path=str(site.whole), layers="0-2")
        assert (added.state, added.problem) == ("ready", "")
        (row,) = rows(node)
        assert (row.path, row.source, row.is_added) == (str(site.whole), "", True)
        assert node.services[WEIGHTS].fetched_bytes == 0
    async with running(again := site.node(1)):
        await until(again.ready)
        assert rows(again)[0].digest == added.digest
        remove = method(again.shards, "shards.remove_model")
        await remove(Call(), RemoveParams(name="toy"))
        assert rows(again) == [] and not again.shards.spans()
    assert {path.name: digest_of(path) for path in site.whole.iterdir()} == before


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
async def test_file_of_a_model_stands_for_its_folder(site: Site, name: str) -> None:
    async with running(node := site.node(1)):
        await add(node, path=str(site.whole / name), layers="none")
        assert rows(node)[0].path == str(site.whole)


@pytest.mark.slow
async def test_peers_learn_the_files_of_a_folder_once_it_is_shared(site: Site) -> None:
    async with running(first := site.node(1), second := site.node(2)):
        added = await add(first, path=str(site.whole), layers="0-3")
        with pytest.raises(Unavailable, match="no model with the digest"):
            await add(second, source=added.digest, layers="3-6")
        for path in site.whole.iterdir():
            await first.services[WEIGHTS].offer(path)
        await until(second.ready, 60)
        assert rows(second)[0].digest == added.digest


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


def _only(*names: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        _empty(folder)
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text("{}")

    return make


def _without_weights(other: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        if other:
            (folder / other).write_text("")

    return make


def _changed(**settings: object) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | settings))

    return make


@pytest.mark.parametrize(
    ("make", "kind", "text"),
    [
        (_empty, NotFound, "is not a model's folder in Hugging Face layout"),
        (_only("a/config.json"), NotFound, "did you mean .*/broken/a?"),
        (_only("x.gguf"), NotFound, "weights in GGUF, which is not read"),
        (_only("adapter_config.json"), NotFound, "is an adapter"),
        (_only("model_index.json"), NotFound, "is a pipeline of diffusers"),
        (_only("snapshots/c0ffee/x"), NotFound, "its model is in .*/snapshots/c0ffee"),
        (_only("config.json"), NotFound, r"tokenizer\.json does not exist; a fast tokenizer"),
        (_without_weights("pytorch_model.bin"), NotFound, "but pytorch_model.bin, which is not"),
        (_without_weights("m.gguf"), NotFound, "but weights in GGUF"),
        (_without_weights(""), NotFound, 'set layers to "none"'),
        (_changed(model_type="bert"), InvalidParams, "model family 'bert' is not supported"),
        (_changed(num_hidden_layers=1), InvalidParams, "layers 0-2: the model has 1 layers"),
    ],
)
async def test_folder_that_cannot_be_served_adds_nothing(
    site: Site, make: Callable[[Path], None], kind: type[AitorrentError], text: str
) -> None:
    broken = write_toy_model(site.folder / "broken")
    make(broken)
    async with running(node := site.node(1)):
        with pytest.raises(kind, match=text):
            await add(node, path=str(broken), layers="0-2")
        assert rows(node) == []


@pytest.mark.parametrize(
    ("path", "kind", "text"),
    [
        ("/nowhere/at/all", NotFound, "/nowhere/at/all does not exist$"),
        ("/home/nobody/model", NotFound, "under systemd it does not see home directories"),
        ("whole", InvalidParams, "whole is relative"),
        ("/" + "x" * 300, InvalidParams, "File name too long"),
        ("/dev/null", InvalidParams, "is no file; name the folder"),
        ("/etc/passwd", InvalidParams, "is a file of [0-9]+ bytes; name the folder"),
    ],
)
async def test_path_that_is_no_folder_is_explained(
    site: Site, path: str, kind: type[AitorrentError], text: str
) -> None:
    async with running(node := site.node(1)):
        with pytest.raises(kind, match=text):
            await add(node, path=path)
        with pytest.raises(InvalidParams, match="both a path and a source"):
            await add(node, path=str(site.whole), source="hf://org/toy")


async def test_folder_that_the_daemon_may_not_read_is_an_error_with_its_user(site: Site) -> None:
    async with running(node := site.node(1)):
        site.whole.chmod(0)
        user = os.geteuid()
        os.seteuid(65534 if user == 0 else user)
        try:
            with pytest.raises(Denied, match=f"runs as uid {os.geteuid()}, cannot read"):
                await add(node, path=str(site.whole))
        finally:
            os.seteuid(user)
            site.whole.chmod(0o755)
        assert rows(node) == []
