"""`hf://org/name`: what the Hub lists becomes files by digest."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from aitorrent_hub.names import HubNames
from aitorrent_hub.upstream.asking import Hub
from aitorrentd.api import AitorrentError, Denied, InvalidParams, NotFound, Unavailable
from aitorrentd.api.models.weights import SmallFile, WantedFile
from tests.support.servers.hub.fake_hub import FakeHub
from tests.support.servers.hub.mirrors import TOKEN
from tests.support.servers.hub.repos import File, weights

LARGE = weights(200_000)


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with FakeHub() as hub:
        hub.add("org/model", {"config.json": b"{}", "a/model.safetensors": LARGE})
        hub.add("org/gated", {"a": b"x"}, gated=True, readers=(TOKEN,))
        hub.add("org/private", {"a": b"x"}, private=True, readers=(TOKEN,))
        yield hub


@pytest.fixture
async def names(hub: FakeHub) -> AsyncIterator[HubNames]:
    behind = Hub(hub.url)
    yield HubNames(behind)
    await behind.close()


async def test_a_model_is_its_files(hub: FakeHub, names: HubNames) -> None:
    hub.page = 1
    model = await names.resolve("org/model")
    commit = hub.repos["org/model"].refs["main"]
    assert (model.name, model.revision) == ("org/model", commit)
    files = dict(model.files)
    large, small = files["a/model.safetensors"], files["config.json"]
    assert isinstance(large, WantedFile) and isinstance(small, SmallFile)
    assert (large.sha256, large.size) == (File(LARGE).sha256, len(LARGE))
    assert large.sources[0].url == f"{hub.url}/org/model/resolve/{commit}/a/model.safetensors"
    assert small.git_sha1 == File(b"{}").git_sha1


async def test_a_branch_or_a_commit(hub: FakeHub, names: HubNames) -> None:
    repo = hub.repos["org/model"]
    first = repo.refs["main"]
    repo.commit({"b": b"y"}, "refs/pr/1")
    assert [path for path, _ in (await names.resolve("org/model", "refs/pr/1")).files] == ["b"]
    assert (await names.resolve("org/model", first)).revision == first


@pytest.mark.parametrize(
    ("name", "revision", "kind", "text"),
    [
        ("org/model", "absent", NotFound, "no model org/model at revision absent"),
        ("org/gated", "", Denied, "gated or private"),
        ("org/private", "", Denied, "private"),
        ("org/absent", "", Denied, "does not exist"),
        ("../etc", "", InvalidParams, "hf://../etc must be a repository"),
        ("org/model/x", "", InvalidParams, "must be a repository"),
    ],
)
async def test_errors_name_the_model(
    names: HubNames, name: str, revision: str, kind: type[AitorrentError], text: str
) -> None:
    with pytest.raises(kind, match=text):
        await names.resolve(name, revision)


async def test_a_hub_that_is_down(hub: FakeHub, names: HubNames) -> None:
    hub.stop()
    with pytest.raises(Unavailable, match="cannot be reached"):
        await names.resolve("org/model")


async def test_a_hub_with_hostile_paths_is_refused(hub: FakeHub, names: HubNames) -> None:
    hub.add("org/evil", {"../../.ssh/authorized_keys": b"x"})
    with pytest.raises(AitorrentError, match="a path in org/evil must be relative"):
        await names.resolve("org/evil")
