"""Three daemons that hold a third of a model each, for programs that can reach nothing but them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.support.clients.sealed import PORT, sealed
from tests.support.nodes import Daemon, DaemonFactory, wait_for
from tests.support.shards.agent_model import agent_model
from tests.support.shards.models import Spec, make_model

URL: Final = f"http://127.0.0.1:{PORT}"
"Of the first daemon, for programs in a namespace."
CALL: Final = {"name": "look", "arguments": {"at": "Bern"}}
ANSWER: Final = "It is sunny there."
"What the model `m` says after it was told what its call found."
CONTEXT: Final = 2048
"Of the model `m`, in tokens: agents begin with more."
READY_S: Final = 120.0
_THIRDS: Final = ("0-1", "1-2", "2-3")


@dataclass(frozen=True)
class Split:
    """The daemons, and where programs find the first."""

    daemons: tuple[Daemon, ...]
    socket: Path
    address: str

    async def run(
        self, *command: str, cwd: Path, env: Mapping[str, str] | None = None, wait_s: float = 60
    ) -> str:
        """What a program prints that can reach nothing but the first daemon; it has to succeed."""
        status, out, err = await sealed(
            command, self.socket, cwd=cwd, env=env or {"PATH": "/usr/bin:/bin"}, wait_s=wait_s
        )
        assert status == 0, f"{out}\n{err}"
        return out


def _settings(directory: Path, n: int, **plugins: Any) -> dict[str, Any]:
    """Each daemon has a third of `m`, and the first one has a third of `gap`."""
    models = [
        {
            "name": name,
            "path": str(directory / name),
            "layers": _THIRDS[n],
            "kv_budget": "64MiB",
        }
        for name in (("m", "gap") if n == 0 else ("m",))
    ]
    off = {name: {"enabled": False} for name in ("ollama", "openai")}
    return {"plugins": {**off, "shards": {"models": models}, **plugins}}


@asynccontextmanager
async def split_daemons(
    directory: Path, first: Mapping[str, Any], second: Mapping[str, Any]
) -> AsyncIterator[Split]:
    """The daemons, with settings for plugins of the first and the second."""
    calls = json.dumps(CALL)
    agent_model(directory / "m", call=calls, answer=ANSWER, context=CONTEXT, is_free=True)
    make_model(directory / "gap", Spec(layers=3))
    socket = directory / "http.sock"
    http = {"enabled": True, "port": 0, "unix_socket": str(socket)}
    factory = DaemonFactory()
    daemons: list[Daemon] = []
    try:
        for n, more in enumerate(({"http": http, **first}, second, {})):
            daemons.append(await factory(_settings(directory, n, **more), ready=False))
        for n, daemon in enumerate(daemons):
            await daemon.ready(READY_S)
            address = (await daemon.call("transport.addresses"))["addresses"][0]
            for other in daemons[:n]:
                await other.call("transport.connect", {"address": address})

        async def answers() -> bool:
            found = (await daemons[0].call("inference.models"))["models"]
            return "m" in {row["name"] for row in found}

        await wait_for(answers, READY_S, every_s=0.1)
        address = (await daemons[0].call("http.status"))["listening"][0]
        yield Split(tuple(daemons), socket, address)
    finally:
        errors = await factory.close()
    assert not errors, "a daemon logged errors:\n" + "\n".join(errors)
