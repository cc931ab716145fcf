"""The gateway over a backend that needs no time, beside bare Starlette, LiteLLM and llama-server.

    python -m benchmarks.gateway [--rivals PYTHON] [--rounds 5] [--out FILE]

Each server is a process of its own, and so is the client, which only counts bytes. Measured are 50
streams at once, tokens per second and per CPU-second of the server, without and with usage (with
it while a scraper reads the metrics once a second); the time of a whole answer of one token; the
time to the first token of one stream, and of 50 that begin together and then have a token every
20 ms. Overheads are over bare Starlette in the same round. PYTHON has LiteLLM's proxy, which
relays to that Starlette, and xllamacpp with gguf, whose model is tiny and random:

    python3 -m venv rivals && rivals/bin/pip install 'litellm[proxy]' xllamacpp gguf
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, cast

import uvloop

from benchmarks.daemon import cpu_s
from benchmarks.report import ROOT, finish, spread

STREAMS: Final = 50
TOKENS: Final = 1000
"Of a stream; peers get fewer, as they are slower."
PACED: Final = 20
CALLS: Final = 200
"Whole answers, and streams one after the other, in a round."
READY_S: Final = 120.0
MARK: Final = b'"content":"'
"Before every text, in the bytes of all servers; the role of the first event has one, too."
STREAM_END: Final = b"\r\n0\r\n\r\n"
"The last chunk of a body (RFC 9112, section 7.1)."
LLAMA: Final = ROOT / "tests" / "support" / "clients" / "python" / "random_llama.py"


@dataclass
class Server:
    """One server, and what was measured."""

    process: subprocess.Popen[str]
    address: str
    tokens: int = TOKENS
    calls: int = CALLS
    rounds: int = 1 << 30
    "How many it takes part in: slow peers do not keep the machine for longer."
    found: dict[str, list[float]] = field(default_factory=dict)

    def note(self, name: str, value: float) -> None:
        """Keep one figure of a round."""
        self.found.setdefault(name, []).append(value)


def body(**fields: Any) -> bytes:
    """A request."""
    text = json.dumps(
        {"model": "m", "messages": [{"role": "user", "content": "x"}], "temperature": 0} | fields
    ).encode()
    return (
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json"
        b"\r\nAuthorization: Bearer none\r\nContent-Length: %d\r\n\r\n%b" % (len(text), text)
    )


class Client(asyncio.Protocol):
    """One connection: sends a request, and counts what comes until the answer's end."""

    def __init__(self, end: bytes) -> None:
        self._end = end
        self.received = bytearray()
        self.first_s = 0.0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection is open."""
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """A part of the answer."""
        self.received += data
        if not self.first_s and self.received.count(MARK, 0, 4096) > 1:
            self.first_s = time.perf_counter()
        if self._end in self.received[-256:] and not self.done.done():
            self.done.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection ended."""
        if not self.done.done():
            self.done.set_exception(RuntimeError(f"cut off: {bytes(self.received[-300:])!r}"))

    async def ask(self, raw: bytes) -> float:
        """Seconds until the whole answer was there."""
        self.received.clear()
        self.first_s = 0.0
        self.done = asyncio.get_running_loop().create_future()
        began = time.perf_counter()
        self.transport.write(raw)
        await self.done
        if not self.received.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(f"refused: {bytes(self.received[:500])!r}")
        return time.perf_counter() - began


async def connected(server: Server, end: bytes) -> Client:
    """A new connection; `end` are the last bytes of an answer."""
    host, port = server.address.rsplit(":", 1)
    _, client = await asyncio.get_running_loop().create_connection(
        lambda: Client(end), host, int(port)
    )
    return client


async def streams(server: Server, name: str, **fields: Any) -> None:
    """Fifty streams at once: tokens per second, and per CPU-second of the server."""
    clients = [await connected(server, STREAM_END) for _ in range(STREAMS)]
    if server.tokens != TOKENS:
        fields["max_tokens"] = server.tokens
    raw = body(stream=True, **fields)
    cpu, began = cpu_s(server.process.pid), time.perf_counter()
    await asyncio.gather(*(client.ask(raw) for client in clients))
    took, used = time.perf_counter() - began, cpu_s(server.process.pid) - cpu
    count = sum(client.received.count(MARK) - 1 for client in clients)
    if server.tokens == TOKENS and count < STREAMS * TOKENS:
        raise RuntimeError(f"{count} tokens came, not {STREAMS * TOKENS}")
    server.note(f"{name}_tokens_per_s", count / took)
    server.note(f"{name}_tokens_per_cpu_s", count / max(used, 0.01))
    for client in clients:
        client.transport.close()


async def scraping(server: Server) -> None:
    """Read the metrics every second."""
    raw = b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
    host, port = server.address.rsplit(":", 1)
    while True:
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(raw)
        if b"aitorrent_generations_running" not in await reader.read():
            raise RuntimeError("no metrics")
        writer.close()
        await asyncio.sleep(1.0)


async def latencies(server: Server) -> None:
    """Whole answers and first tokens, one after the other, then the first tokens of fifty."""
    whole = await connected(server, b"}")
    raw = body(max_tokens=1)
    took = [await whole.ask(raw) for _ in range(server.calls)]
    server.note("whole_ms", statistics.median(took) * 1e3)
    raw = body(stream=True, max_tokens=2)
    firsts = []
    for _ in range(server.calls):
        one = await connected(server, STREAM_END)  # llama-server closes it after a stream
        began = time.perf_counter()
        await one.ask(raw)
        firsts.append(one.first_s - began)
        one.transport.close()
    server.note("first_token_ms", statistics.median(firsts) * 1e3)
    clients = [await connected(server, STREAM_END) for _ in range(STREAMS)]
    raw, began = body(stream=True, max_tokens=PACED), time.perf_counter()
    await asyncio.gather(*(client.ask(raw) for client in clients))
    firsts = [client.first_s - began for client in clients]
    server.note("first_token_of_50_ms_median", statistics.median(firsts) * 1e3)
    server.note("first_token_of_50_ms_worst", max(firsts) * 1e3)
    for client in (whole, *clients):
        client.transport.close()


async def measured(servers: dict[str, Server], rounds: int) -> None:
    """All rounds; the servers take turns."""
    for number in range(rounds + 1):
        for name, server in servers.items():
            if number > server.rounds:
                continue
            await latencies(server)
            await streams(server, "streams")
            if name == "aitorrentd":
                scraper = asyncio.create_task(scraping(server))
                await streams(server, "with_usage", stream_options={"include_usage": True})
                scraper.cancel()
            if number == 0:
                server.found.clear()  # everything is warm now


@contextmanager
def started(command: Sequence[str], **options: Any) -> Iterator[subprocess.Popen[str]]:
    """A process that runs while the block does."""
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, **options
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def address_of(process: subprocess.Popen[str]) -> str:
    """What a server printed about itself."""
    assert process.stdout is not None
    return process.stdout.readline().strip().removeprefix("http://")


def own(stack: ExitStack, kind: str) -> Server:
    """A server of `gateway_servers.py`."""
    command = [sys.executable, "-m", "benchmarks.gateway_servers", kind, str(TOKENS)]
    process = stack.enter_context(started(command))
    return Server(process, address_of(process))


def llama(stack: ExitStack, python: str, directory: Path) -> Server:
    """llama-server's code, by xllamacpp, with four slots."""
    log = stack.enter_context((directory / "llama.log").open("wb"))
    command = [python, str(LLAMA), str(directory / "random.gguf")]
    process = stack.enter_context(started(command, stderr=log))
    return Server(process, address_of(process), tokens=200, calls=50, rounds=2)


def litellm(stack: ExitStack, python: str, directory: Path, upstream: str) -> Server:
    """LiteLLM's proxy in front of `upstream`."""
    config = directory / "litellm.yaml"
    params = {"model": "openai/m", "api_base": f"http://{upstream}/v1", "api_key": "none"}
    text = {
        "model_list": [{"model_name": "m", "litellm_params": params}],
        "general_settings": {"dangerously_permit_weak_or_unset_master_key": True},
    }
    config.write_text(json.dumps(text))
    log = stack.enter_context((directory / "litellm.log").open("wb"))
    port = 20_000 + os.getpid() % 20_000
    command = [str(Path(python).with_name("litellm")), "--config", str(config)]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    process = stack.enter_context(started(command, stderr=log))
    address, until = f"127.0.0.1:{port}", time.monotonic() + READY_S
    while time.monotonic() < until:
        try:
            uvloop.run(probe(address))
        except OSError:
            time.sleep(0.5)
        else:
            return Server(process, address, tokens=100, calls=50, rounds=2)
    raise RuntimeError(f"LiteLLM did not start: {(directory / 'litellm.log').read_text()[-2000:]}")


async def probe(address: str) -> None:
    """Whether anything listens."""
    host, port = address.rsplit(":", 1)
    _, writer = await asyncio.open_connection(host, int(port))
    writer.close()


def compared(servers: dict[str, Server]) -> dict[str, Any]:
    """The figures, and what each server adds to bare Starlette in the same rounds."""
    figures: dict[str, Any] = {}
    bare = servers["starlette"].found
    for name, server in servers.items():
        found: dict[str, Any] = {key: spread(values) for key, values in server.found.items()}
        if name != "starlette":
            for key in ("whole_ms", "first_token_ms"):
                pairs = zip(server.found[key], bare[key], strict=False)
                found[f"{key}_over_starlette"] = spread([ours - base for ours, base in pairs])
        figures[name] = found
    speed = "streams_tokens_per_s"
    mine = statistics.median(servers["aitorrentd"].found[speed])
    figures["streams_ratio_to"] = {
        name: round(mine / statistics.median(server.found[speed]), 2)
        for name, server in servers.items()
        if name != "aitorrentd"
    }
    return figures


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rivals", metavar="PYTHON", help="that has LiteLLM and xllamacpp")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    with ExitStack() as stack, tempfile.TemporaryDirectory() as directory:
        servers = {"aitorrentd": own(stack, "node"), "starlette": own(stack, "starlette")}
        if args.rivals:
            home = Path(directory)
            upstream = servers["starlette"].address
            servers["litellm"] = litellm(stack, args.rivals, home, upstream)
            servers["llama-server"] = llama(stack, args.rivals, home)
        uvloop.run(measured(servers, args.rounds))
        finish({"streams": STREAMS, "tokens": TOKENS} | compared(servers), args.out)


if __name__ == "__main__":
    main()
