"""Programs with HF_ENDPOINT at the mirror get what the Hub has, verified."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.nodes import NodeFactory, short_dir, wait_for
from tests.support.servers.hub.fake_hub import FakeHub
from tests.support.servers.hub.mirrors import (
    Program,
    called,
    files_in,
    mirror_config,
    mirror_of,
)
from tests.support.servers.hub.repos import weights

LARGE = weights(3_000_000)
FILES = {"config.json": b'{"model_type": "llama"}', "onnx/model.safetensors": LARGE}
PATH = "/org/model/resolve/main/onnx/model.safetensors"


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with FakeHub() as hub:
        hub.add("org/model", FILES)
        yield hub


async def mirrored(node_factory: NodeFactory, hub: FakeHub, **settings: Any) -> Program:
    node = await node_factory(mirror_config(hub, **settings))
    return Program(await mirror_of(node))


async def get(program: Program, path: str = PATH, **headers: str) -> httpx.Response:
    async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
        return await client.get(program.endpoint + path, headers=headers)


async def test_snapshot_download(node_factory: NodeFactory, hub: FakeHub) -> None:
    program = await mirrored(node_factory, hub)
    assert await program.snapshot() == FILES


async def test_download_to_a_local_dir_by_the_command(
    node_factory: NodeFactory, hub: FakeHub, tmp_path: Path
) -> None:
    program = await mirrored(node_factory, hub)
    hf = str(Path(program.python).with_name("hf"))
    status, text = await program.ran([hf, "download", "org/model", "--local-dir", str(tmp_path)])
    assert status == 0, text
    assert files_in(tmp_path) == FILES


async def test_hf_hub_download_of_one_file(node_factory: NodeFactory, hub: FakeHub) -> None:
    program = await mirrored(node_factory, hub)
    path = await program.run(
        "import huggingface_hub as h; print(h.hf_hub_download('org/model', 'config.json'))"
    )
    assert Path(path).read_bytes() == FILES["config.json"]


async def test_datasets_and_the_file_system(node_factory: NodeFactory, hub: FakeHub) -> None:
    hub.add("datasets/org/data", {"train/a.bin": LARGE, "README.md": b"# Data"})
    program = await mirrored(node_factory, hub)
    read = await program.run(
        "import huggingface_hub as h; f = h.HfFileSystem();"
        "print(len(f.cat_file('datasets/org/data/train/a.bin')),"
        "f.cat_file('datasets/org/data/train/a.bin', start=5, end=9).hex())"
    )
    assert read == f"{len(LARGE)} {LARGE[5:9].hex()}"
    found = await program.snapshot("org/data", repo_type="dataset")
    assert found == {"train/a.bin": LARGE, "README.md": b"# Data"}


async def test_nothing_is_asked_of_the_hub_before_a_program_asks(
    node_factory: NodeFactory, hub: FakeHub
) -> None:
    program = await mirrored(node_factory, hub)
    assert hub.seen == []
    await program.snapshot()
    assert len(hub.bodies("model.safetensors")) == 1


async def test_many_programs_share_one_download(node_factory: NodeFactory, hub: FakeHub) -> None:
    hub.bytes_per_s = 3_000_000
    program = await mirrored(node_factory, hub)
    answers = await asyncio.gather(*(get(program) for _ in range(8)))
    assert all(answer.content == LARGE for answer in answers)
    assert len(hub.bodies("model.safetensors")) == 1


async def test_xet_does_not_lead_programs_away(node_factory: NodeFactory, hub: FakeHub) -> None:
    hub.xet = True
    program = await mirrored(node_factory, hub)
    assert await program.snapshot() == FILES
    assert hub.asked("xet-read-token") == 0
    async with httpx.AsyncClient(trust_env=False) as client:
        head = await client.head(program.endpoint + PATH)
    assert not [name for name in head.headers if "xet" in name] and "link" not in head.headers


async def test_files_over_50_gb_are_fetched(
    node_factory: NodeFactory, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """huggingface_hub refuses if HEAD declares more; here with smaller numbers on both sides."""
    monkeypatch.setattr("aitorrent_hub.upstream.described.HIDDEN_SIZE_BYTES", 1_000_000)
    program = await mirrored(node_factory, hub)
    async with httpx.AsyncClient(trust_env=False) as client:
        head = await client.head(program.endpoint + PATH)
    assert head.status_code == 200
    assert "content-length" not in head.headers and "x-linked-size" not in head.headers
    path = await program.run(
        "import huggingface_hub as h, huggingface_hub.constants as c;"
        "c.MAX_HTTP_DOWNLOAD_SIZE = 1_000_000;"
        "print(h.hf_hub_download('org/model', 'onnx/model.safetensors'))"
    )
    assert Path(path).read_bytes() == LARGE


async def test_only_sizes_over_50_gb_are_hidden(node_factory: NodeFactory, hub: FakeHub) -> None:
    program = await mirrored(node_factory, hub)
    for size, is_told in ((50_000_000_000, True), (50_000_000_001, False)):
        hub.declared = {"onnx/model.safetensors": size}
        async with httpx.AsyncClient(trust_env=False) as client:
            head = await client.head(program.endpoint + PATH)
        assert ("content-length" in head.headers) == is_told


async def test_renamed_repositories_and_redirects_keep_the_commit(
    node_factory: NodeFactory, hub: FakeHub
) -> None:
    hub.resolve_cache = hub.loses_commit = True
    hub.renamed = {"old/name": "org/model"}
    program = await mirrored(node_factory, hub)
    path = await program.run(
        "import huggingface_hub as h; print(h.hf_hub_download('old/name', 'config.json'))"
    )
    assert Path(path).read_bytes() == FILES["config.json"]


async def test_pages_of_a_tree_stay_at_the_mirror(node_factory: NodeFactory, hub: FakeHub) -> None:
    many = {f"part-{n}.txt": str(n).encode() for n in range(7)}
    hub.add("org/many", many)
    hub.page = 3
    program = await mirrored(node_factory, hub)
    assert await program.snapshot("org/many") == many
    commit = hub.repos["org/many"].refs["main"]
    answer = await get(program, f"/api/models/org/many/tree/{commit}")
    assert answer.headers["link"].startswith(f"<{program.endpoint}/api/models/")


@pytest.mark.parametrize(
    ("header", "part"),
    [
        ("bytes=0-9", slice(10)),
        ("bytes=1000000-1000009", slice(1_000_000, 1_000_010)),
        ("bytes=2999990-", slice(-10, None)),
        ("bytes=-10", slice(-10, None)),
        ("bytes=0-99999999", slice(None)),
    ],
)
async def test_ranges(node_factory: NodeFactory, hub: FakeHub, header: str, part: slice) -> None:
    program = await mirrored(node_factory, hub)
    for _ in range(2):
        answer = await get(program, Range=header)
        assert answer.status_code == 206
        assert answer.content == LARGE[part]
        assert answer.headers["content-range"].endswith(f"/{len(LARGE)}")
        assert (await get(program)).content == LARGE  # then it is here


async def test_a_range_behind_the_end_is_416(node_factory: NodeFactory, hub: FakeHub) -> None:
    program = await mirrored(node_factory, hub)
    answer = await get(program, Range=f"bytes={len(LARGE)}-")
    assert answer.status_code == 416
    assert answer.headers["content-range"] == f"bytes */{len(LARGE)}"


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/org/model/resolve/main/absent.json", 404, "EntryNotFound"),
        ("/org/model/resolve/no-such-branch/config.json", 404, "RevisionNotFound"),
        ("/org/absent/resolve/main/config.json", 401, "RepoNotFound"),
        ("/org/gated/resolve/main/config.json", 401, "GatedRepo"),
        ("/api/models/org/model/revision/no-such-branch", 404, "RevisionNotFound"),
    ],
)
async def test_errors_of_the_hub_reach_the_program(
    node_factory: NodeFactory, hub: FakeHub, path: str, status: int, code: str
) -> None:
    hub.add("org/gated", FILES, gated=True)
    program = await mirrored(node_factory, hub)
    answer = await get(program, path)
    assert (answer.status_code, answer.headers["x-error-code"]) == (status, code)
    if code == "EntryNotFound":
        assert answer.headers["x-repo-commit"] == hub.repos["org/model"].refs["main"]


async def test_wrong_bytes_never_reach_a_program_whole(
    node_factory: NodeFactory, hub: FakeHub, caplog: pytest.LogCaptureFixture
) -> None:
    hub.corrupt = hub.corrupt_small = 1
    program = await mirrored(node_factory, hub)
    with pytest.raises(httpx.RemoteProtocolError):
        await get(program)
    assert (await get(program)).content == LARGE
    assert await program.snapshot() == FILES
    assert "came with wrong bytes, 1 times" in caplog.text


async def test_huggingface_hub_starts_over_after_wrong_bytes(
    node_factory: NodeFactory, hub: FakeHub
) -> None:
    """It continues a broken download after the last 10 MiB that it got, which are wrong."""
    huge = weights(25_000_000)
    hub.add("org/huge", {"model.safetensors": huge})
    hub.corrupt = 1
    program = await mirrored(node_factory, hub)
    assert await program.snapshot("org/huge") == {"model.safetensors": huge}
    assert len(hub.bodies("model.safetensors")) == 2


@pytest.mark.parametrize("failure", ["truncated", "stalls"])
async def test_a_download_goes_on_after_the_hub_breaks_off(
    node_factory: NodeFactory, hub: FakeHub, failure: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aitorrent_hub.upstream.connection.SILENCE_S", 0.5)
    program = await mirrored(node_factory, hub)
    setattr(hub, failure, 2)
    assert (await get(program)).content == LARGE
    ranges = [seen.headers.get("range") for seen in hub.bodies("model.safetensors")]
    assert ranges[0] is None and all(ranges[1:])


async def test_errors_of_the_hub_are_such_as_programs_try_again(
    node_factory: NodeFactory, hub: FakeHub
) -> None:
    program = await mirrored(node_factory, hub)
    hub.failing = [(503, "")]
    answer = await get(program)
    assert answer.status_code == 503
    assert (await get(program)).content == LARGE


async def test_rate_limits_reach_the_program(node_factory: NodeFactory, hub: FakeHub) -> None:
    hub.failing = [(429, "7")]
    program = await mirrored(node_factory, hub)
    answer = await get(program)
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "7")


async def test_what_was_read_once_is_there_while_the_hub_is_down(
    node_factory: NodeFactory, hub: FakeHub
) -> None:
    program = await mirrored(node_factory, hub)
    await program.snapshot()
    await get(program, "/org/model/resolve/main/absent.json")
    hub.stop()
    other = Program(program.endpoint)
    assert await other.snapshot() == FILES
    absent = await get(program, "/org/model/resolve/main/absent.json")
    assert (absent.status_code, absent.headers["x-error-code"]) == (404, "EntryNotFound")
    unknown = await get(program, "/org/model/resolve/main/other.bin")
    assert unknown.status_code == 503
    assert "cannot be reached" in unknown.json()["error"]


async def test_a_restarted_node_still_has_it(node_factory: NodeFactory, hub: FakeHub) -> None:
    state = short_dir()
    node = await node_factory(mirror_config(hub), state_dir=state)
    await Program(await mirror_of(node)).snapshot()
    await node.stop()
    hub.stop()
    again = await node_factory(mirror_config(hub), state_dir=state)
    assert await Program(await mirror_of(again)).snapshot() == FILES


async def test_a_web_page_gets_nothing(node_factory: NodeFactory, hub: FakeHub) -> None:
    program = await mirrored(node_factory, hub, hosts=["models.example.org"])
    for headers, status in (
        ({"Host": "evil.example.org"}, 403),
        ({"Origin": "https://evil.example.org"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Host": "models.example.org:8042"}, 200),
        ({"Host": "localhost:1"}, 200),
    ):
        answer = await get(program, "/org/model/resolve/main/config.json", **headers)
        assert answer.status_code == status, headers
    assert {seen.headers["host"] for seen in hub.seen} == {hub.url.removeprefix("http://")}


async def test_what_the_mirror_does_not_know_is_passed_on(
    node_factory: NodeFactory, hub: FakeHub
) -> None:
    program = await mirrored(node_factory, hub)
    async with httpx.AsyncClient(trust_env=False) as client:
        answer = await client.post(program.endpoint + "/echo?a=1", content=b"hello")
    assert answer.json() == {"method": "POST", "body": "hello", "query": {"a": ["1"]}}


async def test_the_cache_stays_within_its_limit(node_factory: NodeFactory, hub: FakeHub) -> None:
    hub.add("org/other", {"a.bin": weights(2_000_000), "b.bin": weights(2_000_000)})
    node = await node_factory(mirror_config(hub, cache="4MB"))
    program = Program(await mirror_of(node))
    await get(program)
    await get(program, "/org/other/resolve/main/a.bin")
    await get(program, "/org/other/resolve/main/b.bin")

    async def is_trimmed() -> bool:
        status = await called(node, "hub.status")
        return bool(status["files"] == 2 and status["bytes"] == 4_000_000)

    await wait_for(is_trimmed)
    assert (await get(program)).content == LARGE
