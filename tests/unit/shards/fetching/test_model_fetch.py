"""Fetching a model: only the bytes of some layers, and nothing that strangers could choose."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from aitorrent_shards.fetching.manifest import (
    MANIFEST,
    Manifest,
    ManifestFile,
    covered,
    files_from,
    read_manifest,
)
from aitorrent_shards.fetching.manifest_exchange import ToldModel
from aitorrent_shards.fetching.model_fetch import ModelFetch
from aitorrent_shards.fetching.sources import Source, parse_source
from aitorrent_shards.models.checkpoint_files import INDEX_FILE
from aitorrent_shards.models.folder import hash_model, read_model
from aitorrentd.api import (
    AitorrentError,
    InvalidParams,
    NotFound,
    ProtocolError,
    Registry,
    Unavailable,
)
from aitorrentd.api.models.weights import ModelFiles, ModelNames, SmallFile, WantedFile
from tests.support.shards.folder_weights import FolderWeights, OneModel, digest_of, files_in
from tests.support.shards.models import make_model
from tests.support.shards.shards_worker import Chain, load_worker, random_prompt

LOG = logging.getLogger("test.fetching")
THIRDS = [0, 2, 4, 6]


async def nobody(digest: str) -> ToldModel:
    raise NotFound("no reachable node holds layers of it")


class Node:
    """What a node has to fetch with."""

    def __init__(
        self, folder: Path, model: Path | ModelFiles, swarm: Path, **settings: Any
    ) -> None:
        files = files_in(model) if isinstance(model, Path) else model
        self.folder = folder / "model"
        self.weights = FolderWeights(swarm.iterdir(), folder / "store", **settings)
        self.origin = OneModel(files)
        self.names: Registry[ModelNames] = Registry("model name scheme")

    async def fetch(self, layers: str, source: str = "hf://org/toy", ask: Any = nobody) -> Manifest:
        with self.names.added("hf", self.origin):
            fetch = ModelFetch(
                self.folder,
                parse_source(source),
                layers,
                weights=lambda: self.weights,
                names=lambda: self.names,
                ask_peers=ask,
                log=LOG,
            )
            return await fetch.run()


def digest(path: Path, cache: Path, manifest: Manifest | None = None) -> str:
    proven = {f.name: f.sha256 for f in manifest.files} if manifest else None
    return hash_model(read_model(path), cache / "hashes.json", lambda n: None, proven).digest


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("shards", [1, 3])
async def test_three_nodes_with_a_third_each_answer_as_the_whole_model(
    tmp_path: Path, shards: int, tied: bool
) -> None:
    whole = make_model(tmp_path / "whole", shards=shards, tied=tied)
    folders, fetched = [], 0
    for start, end in pairwise(THIRDS):
        node = Node(tmp_path / f"node{start}", whole, whole, piece=512)
        manifest = await node.fetch(f"{start}-{end}")
        assert digest(node.folder, tmp_path, manifest) == digest(whole, tmp_path)
        folders.append(node.folder)
        fetched += node.weights.fetched_bytes
    prompt = random_prompt(9)
    workers = [
        load_worker(folder, start, end)
        for folder, (start, end) in zip(folders, pairwise(THIRDS), strict=True)
    ]
    room = len(prompt) + 8
    cut = Chain(workers, THIRDS, max_positions=room, prompt=len(prompt)).generate(prompt, 8)
    one = Chain([load_worker(whole, 0, 6)], [0, 6], max_positions=room, prompt=len(prompt))
    assert cut == one.generate(prompt, 8)
    sizes = [path.stat().st_size for path in whole.iterdir()]
    small = sum(
        size
        for size, path in zip(sizes, whole.iterdir(), strict=True)
        if path.suffix != ".safetensors"
    )
    embedding = 320 * 64 * 4
    # Each node also has headers, small files and piece edges; tied weights are in two nodes.
    pieces = 3 * shards * 2 * 20 * 512
    assert fetched < sum(sizes) + 2 * small + (embedding if tied else 0) + pieces
    assert max(sizes) > 100_000


async def test_range_beyond_the_model_is_refused(tmp_path: Path) -> None:
    whole = make_model(tmp_path / "whole")
    node = Node(tmp_path / "node", whole, whole)
    with pytest.raises(InvalidParams, match="the model has 6 layers"):
        await node.fetch("4-9")


async def test_model_without_layers_here_needs_no_weights(tmp_path: Path) -> None:
    whole = make_model(tmp_path / "whole", shards=2)
    node = Node(tmp_path / "node", whole, whole)
    await node.fetch("none")
    assert not list(node.folder.glob("*.safetensors"))
    assert read_model(node.folder).layers == 6


async def test_second_run_asks_neither_origin_nor_peers(tmp_path: Path) -> None:
    whole = make_model(tmp_path / "whole")
    node = Node(tmp_path / "node", whole, whole)
    first = await node.fetch("0-3")
    node.origin.problem = Unavailable("the origin is down")
    assert await node.fetch("0-3") == first
    assert len(node.origin.asked) == 1


async def test_changed_small_file_makes_the_origin_be_asked_again(tmp_path: Path) -> None:
    whole = make_model(tmp_path / "whole")
    node = Node(tmp_path / "node", whole, whole)
    first = await node.fetch("0-3")
    for damage in (b"", b"{}", b"[" * 100_000):
        (node.folder / "config.json").write_bytes(damage)
        assert await node.fetch("0-3") == first
        (node.folder / MANIFEST).write_bytes(damage)
        assert await node.fetch("0-3") == first
    assert (node.folder / "config.json").read_bytes() == (whole / "config.json").read_bytes()


async def test_model_by_digest_comes_from_peers_alone(tmp_path: Path) -> None:
    whole = make_model(tmp_path / "whole", shards=2)
    holder = Node(tmp_path / "holder", whole, whole)
    known = await holder.fetch("0-2")
    told = ToldModel(
        Manifest("peers", "", files_from(covered(known.files))),
        (holder.folder / INDEX_FILE).read_bytes(),
    )

    async def ask(wanted: str) -> ToldModel:
        assert wanted == known.digest == digest(whole, tmp_path)
        return told

    node = Node(tmp_path / "node", whole, whole)
    manifest = await node.fetch("2-6", known.digest, ask)
    assert node.origin.asked == []
    assert digest(node.folder, tmp_path, manifest) == known.digest
    # Nothing that the digest does not cover is taken from peers.
    assert {f.name for f in manifest.files} - {f["name"] for f in covered(known.files)} == {
        INDEX_FILE
    }
    load_worker(node.folder, 2, 6)


async def test_index_of_a_lying_peer_makes_the_fetch_fail(tmp_path: Path) -> None:
    whole = make_model(tmp_path / "whole", shards=2)
    holder = Node(tmp_path / "holder", whole, whole)
    known = await holder.fetch("0-2")
    index = json.loads((whole / INDEX_FILE).read_bytes())
    one, two = sorted(set(index["weight_map"].values()))
    index["weight_map"] = {
        name: two if file == one else one for name, file in index["weight_map"].items()
    }

    async def ask(wanted: str) -> ToldModel:
        return ToldModel(known, json.dumps(index).encode())

    node = Node(tmp_path / "node", whole, whole)
    with pytest.raises(ProtocolError, match="a peer lied about it"):
        await node.fetch("2-6", known.digest, ask)
    index = json.loads((whole / INDEX_FILE).read_bytes())
    await node.fetch("2-6", known.digest, ask)


def renamed(files: ModelFiles, old: str, new: str) -> ModelFiles:
    pairs = tuple((new if name == old else name, file) for name, file in files.files)
    return replace(files, files=pairs)


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("tokenizer.json", "tokenizer.model", "no tokenizer.json; .*AutoTokenizer"),
        ("config.json", "../config.json", "no config.json"),
        ("config.json", "sub/config.json", "no config.json"),
        ("model.safetensors", "pytorch_model.bin", "index.json, but pytorch_model.bin, which"),
        ("model.safetensors", "consolidated.safetensors", "but consolidated.safetensors, which"),
        ("model.safetensors", "model-Q4_K.gguf", "but model-Q4_K.gguf, which is not read"),
        ("model.safetensors", "unet/model.safetensors", "but unet/model.safetensors, which"),
        ("model.safetensors", "README.md", "no model.safetensors.index.json$"),
    ],
)
async def test_repository_that_lacks_a_file_is_explained(
    tmp_path: Path, old: str, new: str, problem: str
) -> None:
    whole = make_model(tmp_path / "whole")
    node = Node(tmp_path / "node", renamed(files_in(whole), old, new), whole)
    with pytest.raises(NotFound, match=problem):
        await node.fetch("all")
    assert {path.name for path in tmp_path.iterdir()} <= {"whole", "node"}


BUILT = "model-00001-of-00003.safetensors"


@pytest.mark.parametrize(
    ("file", "changed", "problem"),
    [
        # sglang 32279, nativ 370, mlx-vlm 1827: an index of another build of the model
        (INDEX_FILE, {BUILT: "model-00001-of-00013.safetensors"}, "00013.safetensors, though its"),
        (INDEX_FILE, {BUILT: "/etc/passwd.safetensors"}, "safetensors files beside it"),
        (INDEX_FILE, {BUILT: "../model.safetensors"}, "safetensors files beside it"),
        (INDEX_FILE, {BUILT: "pytorch_model-00001.bin"}, "safetensors files beside it"),
        (INDEX_FILE, {"weight_map": "weights"}, "has no weight_map"),
        (INDEX_FILE, {'"weight_map": {': '"weight_map": {"x": [], '}, "beside it"),
        ("config.json", {'"llama"': '"gpt_oss"'}, "model family 'gpt_oss' is not supported"),
        ("config.json", {"LlamaForC": "LlamaForSequenceC"}, "only LlamaForCausalLM is"),
        (
            "config.json",
            {"{": '{"quantization_config": {"quant_method": "fp8"}, '},
            "not supp.* fp8",
        ),
        ("config.json", {"{": '{"quantization": {"bits": 4}, '}, "quantised checkpoints are not"),
        (
            "config.json",
            {'"num_hidden_layers": 6': '"num_hidden_layers": "6"'},
            "num_hidden_layers",
        ),
        ("config.json", {"{": "\ufeff{"}, "config.json cannot be read"),
    ],
)
async def test_repository_that_cannot_be_computed_costs_no_bytes_of_weights(
    tmp_path: Path, file: str, changed: dict[str, str], problem: str
) -> None:
    whole = make_model(tmp_path / "whole", shards=3)
    text = (whole / file).read_text()
    for old, new in changed.items():
        assert old in text
        text = text.replace(old, new)
    (whole / file).write_text(text)
    node = Node(tmp_path / "node", whole, whole)
    with pytest.raises((InvalidParams, NotFound), match=problem):
        await node.fetch("0-2")
    for path in whole.glob("*.safetensors"):
        assert not (node.weights.store / digest_of(path)).exists()


@pytest.mark.parametrize("dtype", ["U8", "F8_E4M3", "I8"])
async def test_quantised_weights_are_refused_after_their_header(tmp_path: Path, dtype: str) -> None:
    whole = make_model(tmp_path / "whole")
    raw = (whole / "model.safetensors").read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    entry = header["model.layers.1.mlp.up_proj.weight"]
    entry["dtype"], entry["shape"] = dtype, [entry["shape"][0], 4 * entry["shape"][1]]
    text = json.dumps(header).encode()
    (whole / "model.safetensors").write_bytes(
        len(text).to_bytes(8, "little") + text + raw[8 + length :]
    )
    node = Node(tmp_path / "node", whole, whole, piece=512)
    await node.fetch("2-4")
    before = node.weights.fetched_bytes
    with pytest.raises(InvalidParams, match=f"up_proj.weight' is {dtype}; quantised"):
        await node.fetch("0-2")
    assert node.weights.fetched_bytes - before <= len(text) + 8 + 2 * 512


async def test_only_what_the_index_names_is_fetched(tmp_path: Path) -> None:
    """vllm 40765, unsloth-zoo 900: other layouts beside the shards, and their unusual names."""
    whole = make_model(tmp_path / "whole", shards=2)
    index = (whole / INDEX_FILE).read_text()
    for n in (1, 2):
        old = f"model-{n:05}-of-00002.safetensors"
        new = f"model.safetensors-{n:05}-of-00002.safetensors"
        (whole / old).rename(whole / new)
        index = index.replace(old, new)
    (whole / INDEX_FILE).write_text(index)
    for name in ("consolidated.safetensors", "model.fp16.safetensors", "pytorch_model.bin"):
        (whole / name).write_bytes(name.encode())
    (whole / "generation_config.json").unlink()
    node = Node(tmp_path / "node", whole, whole)
    manifest = await node.fetch("0-6")
    assert {file.name for file in manifest.weights} == set(json.loads(index)["weight_map"].values())
    load_worker(node.folder, 0, 6)


async def test_weights_without_a_sha256_are_refused(tmp_path: Path) -> None:
    whole = make_model(tmp_path / "whole")
    files = files_in(whole)
    pairs = tuple(
        (n, SmallFile("0" * 40, f.size, n) if n.endswith(".safetensors") else f)
        for n, f in files.files
    )
    node = Node(tmp_path / "node", replace(files, files=pairs), whole)
    with pytest.raises(NotFound, match=r"no SHA-256 for model\.safetensors"):
        await node.fetch("all")


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"\0" * 4,
        (2**63).to_bytes(8, "little") + b"{}",
        (5).to_bytes(8, "little") + b"[[[[[" + b"\0" * 40,
        (2).to_bytes(8, "little") + b"{}" + b"\0" * 40,
    ],
    ids=["empty", "short", "huge-header", "nested", "bytes-without-tensors"],
)
async def test_damaged_weights_are_refused(tmp_path: Path, damage: bytes) -> None:
    whole = make_model(tmp_path / "whole")
    (whole / "model.safetensors").write_bytes(damage)
    node = Node(tmp_path / "node", whole, whole)
    with pytest.raises(InvalidParams, match=r"model\.safetensors"):
        await node.fetch("0-2")


@pytest.mark.parametrize("problem", [Unavailable("the disk is full"), NotFound("nobody has it")])
async def test_problem_of_the_swarm_is_told_and_a_later_run_succeeds(
    tmp_path: Path, problem: AitorrentError
) -> None:
    whole = make_model(tmp_path / "whole")
    node = Node(tmp_path / "node", whole, whole)
    node.weights.problem = problem
    with pytest.raises(type(problem), match=problem.message):
        await node.fetch("0-2")
    node.weights.problem = None
    await node.fetch("0-2")


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("hf://Qwen/Qwen3-0.6B", Source("hf", "Qwen/Qwen3-0.6B")),
        ("hf:Qwen/Qwen3-0.6B@main", Source("hf", "Qwen/Qwen3-0.6B", "main")),
        ("hf://a/b@refs/pr/3", Source("hf", "a/b", "refs/pr/3")),
        ("catalogue:llama", Source("catalogue", "llama")),
        ("AB" * 32, Source("", "ab" * 32)),
    ],
)
def test_sources(text: str, source: Source) -> None:
    assert parse_source(text) == source


@pytest.mark.parametrize(
    "text", ["", "Qwen/Qwen3", "hf://", "hf:///", "ab" * 31, "hf://a/b@", "HF://a/b", "hf://a b"]
)
def test_what_is_no_source_is_explained(text: str) -> None:
    with pytest.raises(ValueError, match="hf://ORG/NAME@REVISION"):
        parse_source(text)


ROW = {"name": "config.json", "sha256": "0" * 64, "size": 1}


@pytest.mark.parametrize(
    "rows",
    [
        None,
        [],
        [1],
        [ROW, ROW],
        [ROW | {"name": "../config.json"}],
        [ROW | {"name": "a/b.safetensors"}],
        [ROW | {"name": ".hidden"}],
        [ROW | {"name": "a\0b"}],
        [ROW | {"name": "‮json.config"}],
        [ROW | {"name": "c:\\x"}],
        [ROW | {"sha256": "0" * 63}],
        [ROW | {"sha256": "G" * 64}],
        [ROW | {"size": -1}],
        [ROW | {"size": True}],
        [ROW | {"urls": "http://x"}],
        [ROW | {"name": f"{n}.safetensors"} for n in range(3000)],
    ],
)
def test_hostile_manifest_is_refused(rows: Any) -> None:
    with pytest.raises(ProtocolError):
        files_from(rows)


def test_manifest_survives_saving() -> None:
    files = (
        ManifestFile("config.json", "1" * 64, 3),
        ManifestFile("model.safetensors", "2" * 64, 9, ("https://example.org/m",)),
    )
    manifest = Manifest("hf://a/b", "c" * 40, files)
    assert read_manifest(manifest.as_json()) == manifest
    assert manifest.weights == files[1:]
    assert isinstance(WantedFile("2" * 64, 9, "m"), WantedFile)
