"""Every built-in plugin measures what it declares, and the figures are those of its methods."""

from __future__ import annotations

from aitorrentd.api.monitoring.exposition import text_of
from tests.support.clients.raw_http import exchange, request
from tests.support.http_nodes import called
from tests.support.nodes import NodeFactory
from tests.support.scraping import Scrape, scraped
from tools.metrics_page import families


async def test_all_plugins_measure_what_they_declare(node_factory: NodeFactory) -> None:
    plugins = {
        "http": {"enabled": True, "port": 0},
        "tracker": {"enabled": True, "listen": "127.0.0.1", "port": 0, "open": True},
    }
    node = await node_factory({"plugins": plugins})
    states = {row.name: row.state for row in node.kernel.rows()}
    assert {states[name] for name in ("http", "tracker", "dht", "transport")} == {"running"}
    http = (await called(node, "http.status"))["listening"][0]
    tracker = (await called(node, "tracker.stats"))["listening"][0].partition("/")[0]
    info_hash = "%aa" * 20
    announce = f"/announce?info_hash={info_hash}&peer_id={'p' * 20}&port=6881&left=0&compact=1"
    assert (await exchange(tracker, request("GET", announce))).status == 200

    text = text_of(node.kernel.metrics())
    for plugin, listed in families().items():
        if plugin == "node" or states[plugin] == "running":
            for family in listed:
                assert f"# TYPE {family.name} {family.kind}\n" in text, plugin
    shown = await scraped(http)
    assert set(shown.of("aitorrent_plugin_metrics_unreadable").values()) == {0}

    stats = await called(node, "tracker.stats")
    assert (stats["swarms"], stats["seeds"]) == (1, 1)
    assert shown.values["aitorrent_tracker_swarms"] == 1
    assert shown.values['aitorrent_tracker_peers{state="seeding"}'] == 1
    assert shown.values['aitorrent_tracker_events_total{event="http_announces"}'] == 1
    dht = await called(node, "dht.stats")
    after = Scrape(text_of(node.kernel.metrics()))
    for name, key in (
        ("aitorrent_dht_nodes", "nodes"),
        ("aitorrent_dht_records", "records"),
        ("aitorrent_dht_lookups_total", "lookups"),
    ):
        assert after.values[name] == dht[key]
    assert after.of("aitorrent_peers") == {
        '{state="direct"}': 0,
        '{state="relayed"}': 0,
        '{state="pending"}': 0,
    }
