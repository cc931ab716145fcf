"""What users of other catalogues, indexes and registries reported: it must not happen here.

Each test names the report that it comes from.
"""

from __future__ import annotations

import asyncio
import re
from html import unescape
from typing import Any
from urllib.parse import unquote

import pytest

from tests.support.catalogue.publishing import Publisher
from tests.support.catalogue.trackers import (
    Trackers,
    TrackerWithCatalogue,
    fresh,
    torrent,
    with_metainfo,
)

ALICE, BOB = Publisher("alice"), Publisher("bob")
LISTED: dict[str, Any] = {"publishers": [ALICE.peer_id, BOB.peer_id]}


@pytest.fixture
async def tracker(trackers: Trackers) -> TrackerWithCatalogue:
    return await trackers(**LISTED)


async def test_info_dictionary_out_of_order_is_refused_rather_than_rehashed(
    tracker: TrackerWithCatalogue,
) -> None:
    """NyaaPantsu/nyaa 799: torrents of a client that does not sort keys got another info-hash."""
    made = torrent(b"w" * 100)
    swapped = (
        made["metainfo"]
        .replace(b"4:name17:model.safetensors", b"")
        .replace(b"12:piece length", b"4:name17:model.safetensors12:piece length")
    )
    raw = swapped.replace(b"d6:lengthi100e", b"d4:zzzz1:x6:lengthi100e")
    reply = await tracker.publish(with_metainfo(fresh(ALICE, **made["fields"]), raw))
    assert reply.status_code == 400
    assert "out of order" in reply.json()["error"]["message"]


async def test_same_file_published_at_the_same_moment_is_no_server_error(
    trackers: Trackers, database_url: str
) -> None:
    """go-gitea/gitea 30973: `duplicate key value violates unique constraint`, status 500."""
    one = await trackers(database_url, **LISTED)
    replies = await asyncio.gather(*(one.publish(fresh(w)) for w in (ALICE, BOB) * 6))
    assert sorted(reply.status_code for reply in replies) == [200] * 11 + [201]


async def test_files_of_a_model_published_at_once_are_all_listed(
    trackers: Trackers, database_url: str
) -> None:
    """getnora-io/nora 648: versions were lost when several were published at the same time."""
    one = await trackers(database_url, **LISTED)
    names = [f"model-{i:05}-of-00040.safetensors" for i in range(40)]
    await asyncio.gather(*(one.publish(fresh(ALICE, filename=name)) for name in names))
    assert sorted(e["filename"] for e in await one.listed(limit=200)) == names


async def test_publishing_again_after_a_lost_answer_succeeds(
    tracker: TrackerWithCatalogue,
) -> None:
    """npm/npm 4273: the first try worked but said 409; so did every further one."""
    body = fresh(ALICE)
    codes = [(await tracker.publish(body)).status_code for _ in range(3)]
    assert codes == [201, 200, 200]


@pytest.mark.parametrize("name", ["要求.safetensors", "Janitor’s boy.gguf", "aé.gguf"])
async def test_torrent_of_a_file_with_any_name_is_downloaded(
    tracker: TrackerWithCatalogue, name: str
) -> None:
    """getpaseo/paseo 1954, huridocs/uwazi 3219: such names in Content-Disposition ended in 500."""
    made = torrent(b"w" * 100, name=name)
    body = with_metainfo(fresh(ALICE, filename=name, **made["fields"]), made["metainfo"])
    assert (await tracker.publish(body)).status_code == 201
    reply = await tracker.client.get(f"/api/v1/torrents/{made['fields']['info_hash']}.torrent")
    assert reply.status_code == 200
    shown = reply.headers["content-disposition"].partition("UTF-8''")[2]
    assert unquote(shown) == f"{name}.torrent"


SPECIAL = ("[", "{", "C++", "&", "#", "a&page=2", "100%", "'", '"', "\\", "_")


@pytest.mark.parametrize("text", SPECIAL)
async def test_search_for_special_characters_finds_what_has_them(
    tracker: TrackerWithCatalogue, text: str
) -> None:
    """wso2/api-manager 1491: an error; zds-site 2915: the next page searched for something else;
    Pagefind 60 and 639: everything, or nothing, was found."""
    for number in range(27):
        body = fresh(ALICE, repo_id=f"org/m{number}", filename="with [b]{c} & # ' +++.gguf")
        assert (await tracker.publish(body)).status_code == 201
    reply = await tracker.client.get("/", params={"q": text})
    assert reply.status_code == 200
    matches = all(c in "with [b]{c} & # ' +++.gguf org/m" for c in text)
    found = matches and text in "org/m/with [b]{c} & # ' +++.gguf"
    assert ("27 models" in reply.text) == found
    assert ("Nothing matches" in reply.text) != found
    if found:
        following = unescape(re.findall(r'rel="next" href="([^"]+)"', reply.text)[0])
        assert "page 2 of 2" in (await tracker.client.get(following)).text


async def test_search_on_the_second_page_starts_at_the_first(
    tracker: TrackerWithCatalogue,
) -> None:
    """torrust-index-archive 34: a search from page 2 showed page 2 of its results."""
    for number in range(30):
        assert (await tracker.publish(fresh(ALICE, repo_id=f"o/m{number:02}"))).status_code == 201
    page = (await tracker.client.get("/?page=2")).text
    (form,) = re.findall(r"(?s)<form.*?</form>", page)
    assert "page" not in form


async def test_magnet_link_has_each_tracker_once_and_the_web_seeds(
    tracker: TrackerWithCatalogue,
) -> None:
    """webtorrent/instant.io 56: no trackers in it; webtorrent 563: trackers twice, no web seeds."""
    seed = "https://huggingface.co/org/model/resolve/" + "a" * 40 + "/model.safetensors"
    await tracker.publish(fresh(ALICE, web_seeds=(seed,)))
    (found,) = await tracker.listed()
    parts = [unquote(part) for part in found["magnet_link"].removeprefix("magnet:?").split("&")]
    assert len(parts) == len(set(parts))
    assert [p for p in parts if p.startswith("tr=")] == [
        f"tr=http://127.0.0.1:{tracker.port}/announce",
        f"tr=udp://127.0.0.1:{tracker.port}/announce",
    ]
    assert f"ws={seed}" in parts


async def test_counts_follow_the_swarm_at_once(tracker: TrackerWithCatalogue) -> None:
    """nyaadevs/nyaa 89: seeders stood at 0 after the tracker had changed."""
    await tracker.publish(fresh(ALICE))
    (found,) = await tracker.listed()
    for port, left in ((7001, 0), (7002, 0), (7003, 5)):
        await tracker.announce(found["info_hash"], port, left)
    (found,) = await tracker.listed()
    assert (found["seeders"], found["leechers"]) == (2, 1)
    assert 'class="seeds">2<' in (await tracker.client.get("/")).text


async def test_errors_hold_no_statements_of_the_database(
    trackers: Trackers, database_url: str
) -> None:
    """ayunis-core 1116: answers had raw errors of the driver, and SQL."""
    one = await trackers(database_url, **LISTED)
    bodies = [fresh(ALICE), fresh(BOB, info_hash="e" * 40), {"publication": {"size": "'"}}]
    texts = [(await one.publish(body)).text for body in bodies]
    paths = ("/api/v1/torrents?q='", "/api/v1/torrents?cursor='", "/models/a'b", "/?q=')--")
    texts += [(await one.client.get(path)).text for path in paths]
    for text in texts:
        assert not re.search(r"SELECT|INSERT|sqlite|asyncpg|Traceback|catalogue_", text)


async def test_behind_https_links_lead_to_the_configured_address(trackers: Trackers) -> None:
    """torrust-tracker 163, aquatic 156: links and addresses were those of the proxy."""
    one = await trackers(**LISTED, url="https://tracker.example/")
    await one.publish(fresh(ALICE))
    for host in ("evil.example", "[::1]:5", 'a"onload="x', "a b"):
        reply = await one.client.get("/api/v1/torrents", headers={"Host": host})
        (found,) = reply.json()["torrents"]
        assert "tr=https%3A%2F%2Ftracker.example%2Fannounce" in found["magnet_link"]


@pytest.mark.parametrize("host", ['a"onload="x', "a b", "evil.example/path?", "x" * 300, "a:b:c"])
async def test_host_that_is_no_host_is_not_repeated(
    tracker: TrackerWithCatalogue, host: str
) -> None:
    """Host header injection, as web caches and password mails of many sites had it."""
    await tracker.publish(fresh(ALICE))
    reply = await tracker.client.get("/api/v1/torrents", headers={"Host": host})
    (found,) = reply.json()["torrents"]
    assert f"tr=http%3A%2F%2F127.0.0.1%3A{tracker.port}%2Fannounce" in found["magnet_link"]


async def test_the_same_name_in_another_case_is_another_model(
    trackers: Trackers, database_url: str
) -> None:
    """Registries on case-insensitive databases mixed them up; the Hub tells them apart."""
    one = await trackers(database_url, **LISTED)
    for repo in ("Org/Model", "org/model"):
        assert (await one.publish(fresh(ALICE, repo_id=repo))).status_code == 201
    assert len(await one.listed(repo_id="org/model")) == 1
    assert len(await one.listed(q="ORG/model")) == 2
    assert "2 models" in (await one.client.get("/")).text
