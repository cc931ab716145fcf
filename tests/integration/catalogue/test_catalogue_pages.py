"""The web page of the catalogue: by HTTP, and in Chromium."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.support.catalogue.publishing import COMMIT, Publisher
from tests.support.catalogue.trackers import Trackers, TrackerWithCatalogue, fresh
from tests.support.clients.chromium import shown_page

ALICE = Publisher("alice")
LISTED: dict[str, Any] = {"publishers": [ALICE.peer_id]}


@pytest.fixture
async def tracker(trackers: Trackers) -> TrackerWithCatalogue:
    one = await trackers(**LISTED, title="Models of <b>Ours</b>")
    for path in ("config.json", "pytorch_model.bin", "onnx/model.onnx", "onnx/fp16/model.onnx"):
        assert (await one.publish(fresh(ALICE, filename=path))).status_code == 201
    old = fresh(ALICE, commit_hash="b" * 40, filename="old.gguf", gated=True)
    assert (await one.publish(old)).status_code == 201
    return one


async def test_models_are_listed_with_files_sizes_and_live_seeders(
    tracker: TrackerWithCatalogue,
) -> None:
    (found,) = await tracker.listed(filename="config.json")
    await tracker.announce(found["info_hash"])
    page = (await tracker.client.get("/")).text
    assert '<a href="/models/org/model">org/model</a>' in page
    assert "25.0 MiB" in page and 'data-label="Files">5<' in page and "2 revisions" in page
    assert 'class="seeds some">1</span>' in page


async def test_files_of_a_model_are_a_tree_with_links_and_warnings(
    tracker: TrackerWithCatalogue,
) -> None:
    page = (await tracker.client.get(f"/models/org/model?revision={COMMIT}")).text
    lines = re.findall(r'class="depth-(\d)">(?:<span class="name"[^>]*>)?([^<]+)<', page)
    assert lines == [
        ("0", "config.json"),
        ("0", "pytorch_model.bin"),
        ("0", "onnx/"),
        ("1", "model.onnx"),
        ("1", "fp16/"),
        ("2", "model.onnx"),
    ]
    assert page.count(">pickle</span>") == 1
    assert f"aitorrentctl download catalogue://org/model@{COMMIT}" in page
    assert page.count('href="magnet:?xt=urn:btih:') == 4
    assert f'title="{ALICE.peer_id}">…{ALICE.peer_id[-8:]}<' in page
    # The newest revision is the default; it is gated.
    assert ">gated</span>" in (await tracker.client.get("/models/org/model")).text


async def test_chain_of_folders_is_one_line(tracker: TrackerWithCatalogue) -> None:
    deep = "/".join(["deep"] * 30)
    for path in (f"{deep}/x.json", "a/b/c.json", "a/b/d/e/f.json", "a/b/d/e/g/h.json"):
        body = fresh(ALICE, repo_id="org/deep", filename=path)
        assert (await tracker.publish(body)).status_code == 201
    page = (await tracker.client.get("/models/org/deep")).text
    lines = re.findall(r'class="depth-(\d)">(?:<span class="name"[^>]*>)?([^<]+)<', page)
    assert lines == [
        ("0", "a/b/"),
        ("1", "c.json"),
        ("1", "d/e/"),
        ("2", "f.json"),
        ("2", "g/"),
        ("3", "h.json"),
        ("0", f"{deep}/"),
        ("1", "x.json"),
    ]


async def test_empty_catalogue_says_how_to_publish(trackers: Trackers) -> None:
    one = await trackers(**LISTED)
    assert "<code>aitorrentctl catalogue publish</code>" in (await one.client.get("/")).text


async def test_search_and_pages(tracker: TrackerWithCatalogue) -> None:
    for number in range(30):
        body = fresh(ALICE, repo_id=f"many/model-{number:02}")
        assert (await tracker.publish(body)).status_code == 201
    first = (await tracker.client.get("/", params={"q": "MANY/"})).text
    assert "30 models · page 1 of 2" in first and "org/model<" not in first
    assert 'href="/?q=MANY%2F&amp;page=2"' in first
    second = (await tracker.client.get("/?q=MANY%2F&page=2")).text
    names = re.findall(r">(many/model-\d\d)<", first + second)
    assert len(names) == len(set(names)) == 30
    assert "Nothing matches" in (await tracker.client.get("/?q=nowhere")).text


@pytest.mark.parametrize(
    "text", ['"><script>alert(1)</script>', "{{ 7 * 7 }}", "' onfocus='x", "javascript:alert(1)"]
)
async def test_what_visitors_and_operators_write_is_escaped(
    tracker: TrackerWithCatalogue, text: str
) -> None:
    page = (await tracker.client.get("/", params={"q": text})).text
    assert "<script>alert" not in page and "<b>Ours" not in page and ">49<" not in page
    assert "Models of &lt;b&gt;Ours&lt;/b&gt;" in page


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/models/no/such", 404),
        ("/models/org/model?revision=" + "f" * 40, 404),
        ("/models/org/%00", 404),
        ("/models/..%2f..%2fetc/passwd", 404),
        ("/?page=0", 400),
        ("/?page=9999", 400),
    ],
)
async def test_errors_are_pages(tracker: TrackerWithCatalogue, path: str, status: int) -> None:
    reply = await tracker.client.get(path)
    assert reply.status_code == status
    assert reply.headers["content-type"].startswith("text/html")
    assert "This page cannot be shown" in reply.text


async def test_pages_load_nothing_from_elsewhere(tracker: TrackerWithCatalogue) -> None:
    for path in ("/", "/models/org/model"):
        page = (await tracker.client.get(path)).text
        loaded = re.findall(r'(?:src|action|<link[^>]* href)="([^"]+)"', page)
        assert loaded and all(each.startswith("/") for each in loaded)
        assert "style=" not in page and not re.search(r"\son\w+=", page)
        for each in {each for each in loaded if each.startswith("/static/")}:
            assert (await tracker.client.get(each)).status_code == 200


@pytest.mark.parametrize("width", [360, 1280])
async def test_chromium_shows_the_pages_and_runs_only_their_own_script(
    tracker: TrackerWithCatalogue, tmp_path: Path, width: int
) -> None:
    for path in ("/", f"/models/org/model?revision={COMMIT}"):
        shown = await shown_page(tracker.url + path, tmp_path / "chromium", width=width)
        assert shown.console == []
        assert "<h1>" in shown.dom
    # The script ran: it shows the buttons.
    buttons = re.findall(r"<button[^>]*data-copy[^>]*>", shown.dom)
    assert len(buttons) == 5 and not [each for each in buttons if "hidden" in each]
