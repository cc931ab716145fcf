"""Libraries of other authors, in a namespace without an internet, over a model of three nodes."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from tests.support.clients import javascript_programs, python_programs
from tests.support.clients.raw_http import exchange, request
from tests.support.scraping import Scrape
from tests.support.shards.models import EOS_ID
from tests.support.shards.split_daemons import URL, Split

ASKING: Final = Path(__file__).parents[3] / "support" / "clients" / "asking"
LAST: Final = {
    "openai_sdk.py": "errors",
    "openai_sdk.mjs": "right",
    "anthropic_sdk.py": "errors",
    "anthropic_sdk.mjs": "right",
    "ollama_sdk.py": "errors",
    "ollama_sdk.mjs": "right",
    "langchain_sdk.py": "right",
    "litellm_sdk.py": "right",
    "mcp_sdk.py": "2026-07-28",
}
"What each program prints last."


async def asked_by(split: Split, name: str, directory: Path) -> str:
    """What a program prints that asks the first node."""
    path = ASKING / name
    env = {"PATH": os.environ["PATH"], "HOME": str(directory)}
    if path.suffix == ".mjs":
        home = await asyncio.to_thread(javascript_programs.packages)
        (directory / "node_modules").symlink_to(home / "node_modules")
        (directory / name).write_text(path.read_text())
        command = [javascript_programs.node(), str(directory / name)]
    else:
        command = [sys.executable, "-P", str(path)]
        if name.startswith(("langchain", "litellm")):
            environ = await asyncio.to_thread(python_programs.environment)
            env["PYTHONPATH"] = environ["PYTHONPATH"]
    return await split.run(*command, URL, cwd=directory, env=env, wait_s=200)


async def counted(split: Split, path: str) -> dict[int, float]:
    """How often the first node has answered on a path so far, by status."""
    page = await exchange(split.address, request("GET", "/metrics"))
    rows = Scrape(page.body.decode()).of("aitorrent_http_requests_total")
    return {
        int(labels.partition('code="')[2][:3]): value
        for labels, value in rows.items()
        if f'route="{path}"' in labels
    }


@pytest.mark.parametrize("name", LAST)
async def test_program_gets_right_answers(split: Split, tmp_path: Path, name: str) -> None:
    path = "/v1/chat/completions"
    before = await counted(split, path)
    out = await asked_by(split, name, tmp_path)
    assert out.split()[-1] == LAST[name]
    if name == "openai_sdk.py":  # its client repeats by itself what may succeed later
        after = await counted(split, path)
        new = {code: after[code] - before.get(code, 0) for code in (400, 404, 503)}
        assert new == {400: 2, 404: 1, 503: 1}


BUSY: Final = """
import sys
from openai import OpenAI, RateLimitError
with OpenAI(base_url=sys.argv[1] + "/v1", api_key="none", max_retries=2) as client:
    try:
        client.chat.completions.create(model="m", messages=[{"role": "user", "content": "a"}])
    except RateLimitError as error:
        print(error.code, error.response.headers["retry-after"])
"""


async def test_node_without_a_free_slot_is_asked_again(split: Split, tmp_path: Path) -> None:
    """The client repeats its request twice before it gives up."""
    path = "/v1/chat/completions"
    long: dict[str, Any] = {"model": "m", "stream": True, "max_tokens": 2000}
    long |= {"messages": [{"role": "user", "content": "a"}], "logit_bias": {str(EOS_ID): -100}}
    before = await counted(split, path)
    async with (
        httpx.AsyncClient(base_url=f"http://{split.address}", trust_env=False) as client,
        client.stream("POST", path, json=long) as first,
        client.stream("POST", path, json=long) as second,
    ):
        running = [answer.aiter_lines() for answer in (first, second)]
        for lines in running:
            await anext(lines)
        env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
        out = await split.run(sys.executable, "-P", "-c", BUSY, URL, cwd=tmp_path, env=env)
    assert out.split()[0] == "busy"
    after = await counted(split, path)
    assert after[429] - before.get(429, 0) == 3


def test_each_program_is_run() -> None:
    assert {path.name for path in ASKING.iterdir() if path.suffix != ".pyc"} - {
        "__pycache__"
    } == LAST.keys()
