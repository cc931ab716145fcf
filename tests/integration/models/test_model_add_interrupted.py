"""`model add` while the Hub is down: it says so, and an interrupt leaves a model that goes on."""

from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path
from typing import Any, Final

from tests.support.cli_runs import command, run
from tests.support.nodes import DaemonFactory, wait_for
from tests.support.seeding.daemons import seeding_daemon
from tests.support.servers.hub.fake_hub import FakeHub
from tests.support.shards.models import make_model

OFF: Final = {name: {"enabled": False} for name in ("ollama", "openai", "discovery", "nat")}


async def test_interrupted_wait_for_a_hub_that_is_down_goes_on_when_it_is_up(
    tmp_path: Path, daemon_factory: DaemonFactory
) -> None:
    folder = make_model(tmp_path / "toy", layers=2)
    with FakeHub() as hub:
        hub.add("org/toy", {path.name: path.read_bytes() for path in folder.iterdir()})
        hub.stop()
        on = {"enabled": True, "upstream": hub.url, "port": 0}
        daemon = await seeding_daemon(daemon_factory, plugins={**OFF, "hub": on})
        adding = await asyncio.create_subprocess_exec(
            *command(daemon, "model", "add", "toy", "hf://org/toy", "--dtype", "float32"),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        assert adding.stderr is not None
        said = ""
        while "attempt 1 failed" not in said:
            line = await asyncio.wait_for(adding.stderr.readline(), 60)
            assert line, said
            said += line.decode()
        assert "cannot be reached: Connection refused; trying again" in said
        adding.send_signal(signal.SIGINT)
        _, rest = await asyncio.wait_for(adding.communicate(), 30)
        assert adding.returncode == 130
        assert 'model toy stays added and the node goes on; see "aitorrentctl model list"' in (
            rest.decode()
        )
        code, text, _ = await run(daemon, "model", "list", "--json")
        (row,) = json.loads(text)["models"]
        assert (code, row["state"]) == (0, "fetching")
        assert row["problem"].endswith("Connection refused; trying again")
        hub.start()

        async def ready() -> Any:
            (model,) = (await daemon.call("shards.models"))["models"]
            return model["state"] == "ready"

        await wait_for(ready, 120, every_s=0.2)
