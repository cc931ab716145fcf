"""What people reported of mirrors, proxies and downloads of the Hub does not happen here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.nodes import DaemonFactory, NodeFactory
from tests.support.servers.hub.fake_hub import FakeHub
from tests.support.servers.hub.mirrors import Program, files_in, mirror_config, mirror_of
from tests.support.servers.hub.repos import weights

LARGE = weights(900_000)
CONFIG = b'{"model_type": "llama"}' * 500
FILES = {"config.json": CONFIG, "model.safetensors": LARGE}
CONFIG_PATH = "/org/model/resolve/main/config.json"
LARGE_PATH = "/org/model/resolve/main/model.safetensors"


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with FakeHub() as hub:
        hub.add("org/model", FILES)
        yield hub


async def mirrored(node_factory: NodeFactory, hub: FakeHub, **settings: Any) -> Program:
    node = await node_factory(mirror_config(hub, **settings))
    return Program(await mirror_of(node))


async def ask(program: Program, method: str, path: str, **headers: str) -> httpx.Response:
    async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
        return await client.request(method, program.endpoint + path, headers=headers)


async def test_head_of_text_has_its_length_although_the_hub_compresses_it(
    node_factory: NodeFactory, hub: FakeHub
) -> None:
    """padeoe/hf-mirror-site issues 31 and 56: `Distant resource does not have a Content-Length`."""
    hub.compresses = True
    program = await mirrored(node_factory, hub)
    head = await ask(program, "HEAD", CONFIG_PATH, **{"Accept-Encoding": "gzip, br"})
    assert head.headers["content-length"] == str(len(CONFIG))
    assert "content-encoding" not in head.headers
    assert (await ask(program, "GET", CONFIG_PATH)).content == CONFIG


async def test_head_has_etag_and_commit_without_a_redirect(
    node_factory: NodeFactory, hub: FakeHub
) -> None:
    """huggingface/hf-hub issues 33 and 163, huggingface_hub issue 1796: clients that follow no
    redirect found no ETag, proxies lost X-Repo-Commit."""
    hub.resolve_cache = hub.loses_commit = True
    program = await mirrored(node_factory, hub)
    for path in (CONFIG_PATH, LARGE_PATH):
        head = await ask(program, "HEAD", path)
        assert head.status_code == 200
        assert head.headers["x-repo-commit"] == hub.repos["org/model"].refs["main"]
        assert head.headers["etag"].startswith('"')


async def test_the_first_byte_alone_tells_size_and_etag(
    node_factory: NodeFactory, hub: FakeHub
) -> None:
    """huggingface/hf-hub issues 132 and 144: it learns of a file by `Range: bytes=0-0`, and a
    mirror sent no Content-Range."""
    program = await mirrored(node_factory, hub)
    answer = await ask(program, "GET", LARGE_PATH, Range="bytes=0-0")
    assert (answer.status_code, answer.content) == (206, LARGE[:1])
    assert answer.headers["content-range"] == f"bytes 0-0/{len(LARGE)}"
    assert answer.headers["x-repo-commit"] and answer.headers["x-linked-etag"]


async def test_continuing_a_complete_download_says_that_it_is_complete(
    node_factory: NodeFactory, hub: FakeHub
) -> None:
    """huggingface_hub issue 2197: 416 without the size."""
    program = await mirrored(node_factory, hub)
    answer = await ask(program, "GET", LARGE_PATH, Range=f"bytes={len(LARGE)}-")
    assert answer.status_code == 416
    assert answer.headers["content-range"] == f"bytes */{len(LARGE)}"


async def test_a_repository_without_a_revision_is_described_also_while_the_hub_is_down(
    node_factory: NodeFactory, hub: FakeHub
) -> None:
    """huggingface_hub issue 3681: mirrors answered `/api/models/ORG/NAME` with 404."""
    program = await mirrored(node_factory, hub)
    before = await ask(program, "GET", "/api/models/org/model")
    hub.stop()
    after = await ask(program, "GET", "/api/models/org/model")
    assert before.status_code == after.status_code == 200
    assert before.json() == after.json()


async def test_a_part_that_begins_too_early_is_cut(node_factory: NodeFactory, hub: FakeHub) -> None:
    """xroche/httrack issue 198: block-aligned caches send more than was asked for; appended as it
    came, that damages the file."""
    hub.aligns = 65_536
    program = await mirrored(node_factory, hub)
    part = await ask(program, "GET", LARGE_PATH, Range="bytes=100000-100009")
    assert part.content == LARGE[100_000:100_010]
    hub.truncated = 1
    assert (await ask(program, "GET", LARGE_PATH)).content == LARGE


async def test_a_hub_that_ignores_ranges(node_factory: NodeFactory, hub: FakeHub) -> None:
    """ai-dynamo/modelexpress pull request 467: a mirror answers `Range: bytes=0-0` with all of the
    file and 200. Behind us, it is answered as it was asked."""
    hub.ignores_ranges = True
    program = await mirrored(node_factory, hub)
    part = await ask(program, "GET", LARGE_PATH, Range="bytes=0-0")
    assert (part.status_code, part.content) == (206, LARGE[:1])
    hub.truncated = 1
    assert (await ask(program, "GET", LARGE_PATH)).content == LARGE


async def test_a_new_commit_is_seen_at_once(node_factory: NodeFactory, hub: FakeHub) -> None:
    """huggingface_hub issue 3406: a branch whose history was replaced gave files of the old one."""
    program = await mirrored(node_factory, hub)
    assert await program.snapshot() == FILES
    changed = {"config.json": b'{"changed": 1}', "new.safetensors": weights(100_000)}
    hub.repos["org/model"].commit(changed)
    assert await program.snapshot() == changed
    assert await Program(program.endpoint).snapshot() == changed


async def test_a_branch_that_moves_between_head_and_get_mixes_no_files(
    node_factory: NodeFactory, hub: FakeHub
) -> None:
    """The cache of huggingface_hub names a file by the ETag of HEAD, and keeps what GET sends."""
    program = await mirrored(node_factory, hub)
    head = await ask(program, "HEAD", LARGE_PATH)
    hub.repos["org/model"].commit({"model.safetensors": weights(900_000)})
    answer = await ask(program, "GET", LARGE_PATH)
    assert answer.headers["etag"] == head.headers["etag"]
    assert answer.content == LARGE


async def test_an_endpoint_with_a_slash_at_its_end(node_factory: NodeFactory, hub: FakeHub) -> None:
    """binary-husky/gpt_academic issue 1504: `HF_ENDPOINT=https://hf-mirror.com/`; clients that join
    texts ask for `//api/…`."""
    program = await mirrored(node_factory, hub)
    assert (await ask(program, "GET", "/" + CONFIG_PATH)).content == CONFIG
    assert (await ask(program, "GET", "//api/models/org/model")).json()["id"] == "org/model"


async def test_names_that_need_escapes(node_factory: NodeFactory, hub: FakeHub) -> None:
    """huggingface_hub issue 4637 and others: a proxy that decodes and encodes again asks for
    another file."""
    odd = {"a b+c#d%20e/é ü&f=g.txt": b"odd", "weights 100%.bin": weights(100_000)}
    repo = hub.add("org/odd", odd)
    repo.refs["refs/pr/1"] = repo.refs["main"]
    program = await mirrored(node_factory, hub)
    assert await program.snapshot("org/odd") == odd
    assert await program.snapshot("org/odd", revision="refs/pr/1") == odd


async def test_query_parameters_of_download_links_do_no_harm(
    node_factory: NodeFactory, hub: FakeHub
) -> None:
    """Links of the web page, and llama.cpp, ask for `?download=true`."""
    program = await mirrored(node_factory, hub)
    assert (await ask(program, "GET", f"{LARGE_PATH}?download=true")).content == LARGE
    assert len(hub.bodies("model.safetensors")) == 1


async def test_a_download_that_was_cut_off_continues_where_it_stopped(
    node_factory: NodeFactory, hub: FakeHub, tmp_path: Path
) -> None:
    """huggingface_hub issues 3648 and 4196: an interrupted download starts from nothing."""
    hub.bytes_per_s = 600_000
    program = await mirrored(node_factory, hub)
    async with (
        httpx.AsyncClient(trust_env=False) as client,
        client.stream("GET", program.endpoint + LARGE_PATH) as answer,
    ):
        async for _ in answer.aiter_raw(1000):
            break
    hub.bytes_per_s = 0
    assert (await ask(program, "GET", LARGE_PATH)).content == LARGE
    assert len(hub.bodies("model.safetensors")) == 1


async def test_transformers_loads_a_model(node_factory: NodeFactory, hub: FakeHub) -> None:
    """huggingface_hub issue 3681: `AutoTokenizer.from_pretrained` through a mirror, twice, the
    second time while the Hub is down."""
    folder = await tiny_model()
    hub.add("org/tiny", files_in(folder))
    program = await mirrored(node_factory, hub)
    code = (
        "from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer\n"
        "AutoTokenizer.from_pretrained('org/tiny')\n"
        "model = AutoModelForCausalLM.from_pretrained('org/tiny')\n"
        "print(AutoConfig.from_pretrained('org/tiny').hidden_size, model.num_parameters())"
    )
    first = await program.run(code, timeout_s=180)
    assert first.splitlines()[-1].startswith("32 ")
    hub.stop()
    again = await Program(program.endpoint).run(code, timeout_s=180)
    assert again.splitlines()[-1] == first.splitlines()[-1]


async def test_transformers_loads_a_model_with_the_hook(
    daemon_factory: DaemonFactory, hub: FakeHub
) -> None:
    hub.add("org/tiny", files_in(await tiny_model()))
    daemon = await daemon_factory(mirror_config(hub))
    hub.corrupt = 1
    program = Program(hub.url, env={"AITORRENT_SOCKET": str(daemon.socket)})
    loaded = await program.run(
        "import aitorrent_hf; aitorrent_hf.enable()\n"
        "from transformers import AutoModelForCausalLM\n"
        "print(AutoModelForCausalLM.from_pretrained('org/tiny').config.hidden_size)",
        timeout_s=180,
    )
    assert loaded.splitlines()[-1] == "32"
    status = await daemon.call("hub.status")
    assert (status["files"], status["wrong_files"]) == (1, 1)


async def tiny_model() -> Path:
    """A model of a few hundred kilobytes with its tokenizer, as transformers saves it."""
    program = Program("http://127.0.0.1:9")
    code = (
        "from tokenizers import Tokenizer, models\n"
        "from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast\n"
        f"place = {str(program.home / 'tiny')!r}\n"
        "words = {chr(97 + n): n for n in range(26)}\n"
        "kept = Tokenizer(models.WordLevel(words, unk_token='a'))\n"
        "PreTrainedTokenizerFast(tokenizer_object=kept, unk_token='a').save_pretrained(place)\n"
        "config = LlamaConfig(vocab_size=26, hidden_size=32, intermediate_size=64,"
        " num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2)\n"
        "LlamaForCausalLM(config).save_pretrained(place)\n"
    )
    await program.run(code, timeout_s=180)
    return program.home / "tiny"
