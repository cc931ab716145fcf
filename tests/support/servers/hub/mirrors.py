"""Mirrors of a fake Hub, and programs that use them as users do."""

from __future__ import annotations

import asyncio
import atexit
import inspect
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, cast

from aitorrentd.api import CallContext, Role
from aitorrentd.methods.source import Methods
from aitorrentd.node import Node
from tests.support.servers.hub.fake_hub import FakeHub

TOKEN = "hf_SecretTokenOfATest0123456789"


_OTHERS = (
    *("transport", "discovery", "nat", "dht", "inference", "ollama", "openai", "shards"),
    *("tracker", "seeding", "catalogue"),
)


def mirror_config(hub: FakeHub, *, beside: tuple[str, ...] = (), **settings: Any) -> dict[str, Any]:
    """The configuration of a node with a mirror of `hub` on a free port, and the plugins
    `beside`."""
    known = {point.name for point in entry_points(group="aitorrentd.plugins")}
    off = {name: {"enabled": False} for name in _OTHERS if name in known and name not in beside}
    own = {"enabled": True, "upstream": hub.url, "port": 0, **settings}
    return {"plugins": {**off, "hub": own}}


async def called(node: Node, name: str, **params: Any) -> Any:
    """What a control method returns, as a map."""
    method = Methods(node).method(name)[1]
    reply = method.handler(cast(CallContext, _Call()), method.params(**params))
    result: Any = await reply if inspect.isawaitable(reply) else reply
    return result.model_dump()


class _Call:
    role = Role.ADMIN
    trace = "test"

    def progress(self, text: str, **facts: Any) -> None:
        """Nobody looks."""


async def mirror_of(node: Node) -> str:
    """The URL of a node's mirror."""
    return f"http://{(await called(node, 'hub.status'))['listening'][0]}"


def _new_home() -> Path:
    home = tempfile.mkdtemp(prefix="ait-hf-")
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    return Path(home)


@dataclass
class Program:
    """A Python program that uses huggingface_hub."""

    endpoint: str
    home: Path = field(default_factory=_new_home)
    python: str = sys.executable
    env: dict[str, str] = field(default_factory=dict)

    def environment(self) -> Mapping[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "AITORRENT"))}
        return {
            **kept,
            "HF_ENDPOINT": self.endpoint,
            "HF_HOME": str(self.home),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_UPDATE_CHECK": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",
            "TOKENIZERS_PARALLELISM": "false",
            **self.env,
        }

    async def run(self, code: str, *, timeout_s: float = 60) -> str:
        """What it prints; fails with its traceback."""
        status, text = await self.ran([self.python, "-c", code], timeout_s=timeout_s)
        assert status == 0, text
        return text.strip()

    async def fails(self, code: str) -> str:
        """What it prints, and how it fails."""
        status, text = await self.ran([self.python, "-c", code])
        assert status != 0, text
        return text

    async def ran(self, command: list[str], *, timeout_s: float = 60) -> tuple[int, str]:
        process = await asyncio.create_subprocess_exec(
            *command,
            env=self.environment(),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            out, _ = await asyncio.wait_for(process.communicate(), timeout_s)
        except TimeoutError:
            process.kill()
            await process.wait()
            raise AssertionError(f"{command} did not end within {timeout_s:g} s") from None
        return process.returncode or 0, out.decode(errors="replace")

    async def snapshot(self, repo: str = "org/model", **arguments: Any) -> dict[str, bytes]:
        """The files that `snapshot_download` fetches."""
        given = "".join(f", {name}={value!r}" for name, value in arguments.items())
        path = await self.run(
            f"import huggingface_hub as h; print(h.snapshot_download({repo!r}{given}))"
        )
        return files_in(Path(path.splitlines()[-1]))


def files_in(folder: Path) -> dict[str, bytes]:
    found = (p for p in folder.rglob("*") if p.is_file() and ".cache" not in p.parts)
    return {str(p.relative_to(folder)): p.read_bytes() for p in found}
