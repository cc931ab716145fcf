"""What `aitorrentctl` shows of models of real daemons: being loaded, complete, incomplete."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

from aitorrent_shards.config import ModelEntry
from tests.support.cli_runs import run, terminal_output
from tests.support.nodes import Daemon, DaemonFactory, wait_for

LAYERS = 9


def configuration(name: str, *models: dict[str, Any], bootstrap: str = "") -> dict[str, Any]:
    plugins = {
        "ollama": {"enabled": False},
        "openai": {"enabled": False},
        "shards": {"models": [{"kv_budget": "64MiB"} | model for model in models]},
        "transport": {"bootstrap": [bootstrap]} if bootstrap else {},
    }
    return {"node": {"name": name}, "plugins": plugins}


async def address(daemon: Daemon) -> str:
    return str((await daemon.call("transport.addresses"))["addresses"][0])


def another_model(folder: Path) -> Path:
    """The demo model with other digests."""
    shutil.copytree(ModelEntry(name="demo").folder(Path()), folder)
    config = folder / "config.json"
    config.write_text(config.read_text() + "\n")
    return folder


async def stopped_loader(daemon: Daemon, model: str) -> int:
    """The process that loads the layers of a model, stopped before it is ready."""

    async def pid() -> Any:
        models = (await daemon.call("shards.models"))["models"]
        return next(row["pid"] for row in models if row["name"] == model)

    found: int = await wait_for(pid, 60)
    os.kill(found, signal.SIGSTOP)
    return found


async def both_wait(*daemons: Daemon) -> None:
    """Wait until a prompt waits at each of these nodes."""

    async def are_asked() -> bool:
        prefix = {"prefix": "aitorrent_generations_queued"}
        found = [(await each.call("monitor.metrics", prefix))["metrics"] for each in daemons]
        return all(metric["series"][0]["value"] for (metric,) in found)

    await wait_for(are_asked, 60)


async def test_models_from_loading_to_an_answer_and_what_they_take(
    daemon_factory: DaemonFactory, tmp_path: Path
) -> None:
    big = {"name": "big", "path": str(another_model(tmp_path / "big")), "layers": "0-3"}
    a = await daemon_factory(configuration("ant", {"name": "demo", "layers": "0-5"}, big))
    there = await address(a)
    loading = await stopped_loader(a, "demo")
    # While the layers load: no patience fails at once, patience gets an answer.
    (code, _, err), (_, out, _) = await asyncio.gather(
        run(a, "ask", "-m", "demo", "--wait", "0", "hi"), run(a, "status")
    )
    assert (code, "model demo cannot answer now: " in err) == (1, True), err
    assert "loading here" in err or "being read here" in err
    assert "info: shards: model demo: " in out
    assert "layers 0-5 are loading here" in out or "files are being read here" in out
    os.kill(loading, signal.SIGCONT)

    stranger = await daemon_factory(configuration("fly", bootstrap=there))
    demo = {"name": "demo", "layers": f"5-{LAYERS}"}
    b = await daemon_factory(configuration("bee", demo, bootstrap=there))
    ids = {d: (await d.call("node.id"))["id"] for d in (a, b, stranger)}
    ends = {d: "…" + ids[d][-8:] for d in ids}
    words = ("ask", "--model", "demo", "--max-tokens", "4", "Hello")
    loading = await stopped_loader(b, "demo")
    asking = asyncio.gather(terminal_output(a, 100, *words), run(stranger, *words))
    await both_wait(a, stranger)
    os.kill(loading, signal.SIGCONT)
    shown, (code, out, err) = await asking
    assert "model demo is loading" in shown
    assert f'layers 0-5  {ends[a]} "ant" (this node)' in shown
    assert f'layers 5-9  {ends[b]} "bee"' in shown
    assert "[model demo is loading]" in err
    assert (code, bool(out)) == (0, True), err
    assert "demo by peer …" in err

    # Complete: who holds what, at both widths, and as JSON.
    for columns in (80, 120):
        lines = (await terminal_output(a, columns, "models")).splitlines()
        assert max(map(len, lines)) <= columns, lines
        text = " ".join(" ".join(lines).split())
        assert "demo ready" in text
        assert '"bee"' in text
        assert "big incomplete" in text
    _, out, _ = await run(a, "models", "--json")
    reply = json.loads(out)
    (row,) = [row for row in reply["models"] if row["backend"] == "shards"]
    held = {(h["start"], h["end"]): (h["peer"], h["rss_bytes"]) for h in row["layers"]}
    assert held[5, 9] == (ids[b], None)
    assert held[0, 5][0] == ids[a]
    assert held[0, 5][1] > 50 * 2**20
    assert reply["names"] == {ids[a]: "ant", ids[b]: "bee"}

    # What it takes: the daemon and its workers, one for each model with layers here.
    _, out, _ = await run(a, "status", "--json")
    status = json.loads(out)
    assert sorted(w["name"] for w in status["workers"]) == ["shards-big", "shards-demo"]
    assert min(w["rss_bytes"] for w in status["workers"]) > 50 * 2**20
    assert {w["pid"] for w in status["workers"]} == {
        row["pid"] for row in (await a.call("shards.models"))["models"]
    }
    _, out, _ = await run(a, "status")
    for part in (
        " in total",
        "daemon ",
        "shards-demo ",
        "shards-big ",
        " demo ready",
        " big incomplete",
    ):
        assert part in out

    # Incomplete: what is missing, who holds the rest, what can be asked.
    code, _, err = await run(a, "ask", "--model", "big", "hi")
    assert code == 1
    assert err.strip() == (
        "Error: model big cannot answer now: no reachable node holds layers 3-9 of big;"
        " held are 0-3 this node; complete models: demo"
    )
    (big_row,) = reply["pending"]
    assert (big_row["name"], big_row["state"]) == ("big", "incomplete")
    assert big_row["missing"] == [[3, 9]]


async def test_wait_for_a_model_shows_how_far_it_is(daemon_factory: DaemonFactory) -> None:
    daemon = await daemon_factory(configuration("ant", {"name": "demo"}))
    shown = await terminal_output(daemon, 100, "--timeout", "90", "wait", "--model", "demo")
    assert "demo is ready" in shown
    rows = (await daemon.call("shards.models"))["models"]
    assert (rows[0]["state"], rows[0]["progress"]) == ("ready", None)
