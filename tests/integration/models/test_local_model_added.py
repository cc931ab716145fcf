"""`model add NAME ./folder`: answers from a folder of this machine, which peers can fetch, too."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Final

from aitorrent_shards.models.folder import read_model
from aitorrent_shards.models.tokenizer import ModelTokenizer
from tests.support.cli_runs import command, run
from tests.support.nodes import DaemonFactory, wait_for
from tests.support.seeding.daemons import seeding_daemon
from tests.support.shards.models import make_model
from tests.support.shards.shards_nodes import reference_ids

PROMPT: Final = "What lies in a folder?"
NEW: Final = 6
OFF: Final = {name: {"enabled": False} for name in ("ollama", "openai", "discovery", "nat")}


async def test_model_of_this_machine_answers_with_layers_that_a_peer_fetched_from_it(
    tmp_path: Path, daemon_factory: DaemonFactory
) -> None:
    folder = make_model(tmp_path / "models" / "toy", layers=4, shards=2)
    here = await seeding_daemon(daemon_factory, plugins=OFF)
    # The command resolves the path: the daemon runs elsewhere.
    ran = await asyncio.create_subprocess_exec(
        *command(here, "model", "add", "toy", "./toy", "--layers", "0-2", "--dtype", "float32"),
        cwd=folder.parent,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(ran.communicate(), 120)
    assert (ran.returncode, out.decode()) == (0, "model toy is ready\n"), err.decode()
    code, text, _ = await run(here, "model", "list", "--json")
    (row,) = json.loads(text)["models"]
    assert (code, row["path"], row["state"]) == (0, str(folder), "ready")
    # A peer fetches the other half by the digest, once the folder is shared.
    code, _, err_text = await run(here, "share", str(folder))
    assert code == 0, err_text
    there = await seeding_daemon(daemon_factory, here, plugins=OFF)
    wanted = {"name": "toy", "source": row["digest"], "layers": "2-4", "dtype": "float32"}
    added = await there.call("shards.add_model", wanted, timeout_s=120)
    assert (added["state"], added["digest"]) == ("ready", row["digest"])
    prompt = ModelTokenizer(read_model(folder), model="toy").encode(PROMPT, [], (), raw=True)

    async def covered() -> bool:
        return bool((await here.call("shards.models"))["models"][0]["covered"])

    await wait_for(covered, 60, every_s=0.2)
    request = {
        "model": "toy",
        "prompt": PROMPT,
        "raw": True,
        "params": {"temperature": 0, "max_tokens": NEW},
    }
    async with await here.client(120) as client:
        ids: list[int] = []
        async for item in client.stream("inference.generate", request):
            ids += item.get("token_ids", [])
    assert ids == reference_ids(folder, prompt, NEW)
    # Removed, it is forgotten; its files are the user's.
    code, _, _ = await run(here, "model", "remove", "toy")
    assert code == 0 and (folder / "config.json").is_file()
    assert read_model(folder).size_bytes > 0
