"""Compares a link's records with TLS 1.3, all under uvloop on loopback, in the same run.

In each round, a link and two TLS connections carry the same bytes from one process to another, in
64 KiB pieces. Measured are bytes per CPU-second of both ends together (user and system, from the
first byte to the acknowledgement) and megabytes per second of wall time. Then 1 KiB messages go
back and forth. `tls` is TLS as most programs use it, through asyncio's streams; `tls-protocol` is
the fastest TLS under uvloop, with the same kind of receiver (BufferedProtocol) as the link.
`masked` is the link inside a WebSocket; its sender masks, as the dialer does. `plain` is TCP
without encryption, with writes and reads as large as the link's: together with the cost of
AES-256-GCM alone, measured in each round, it gives the `ceiling` of any encrypted channel in this
setup.

    python benchmarks/records.py --out benchmarks/results/records.json
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import importlib.metadata
import json
import os
import resource
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Protocol, cast

import cryptography
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

ROOT: Final = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "plugins")]

from aitorrent_transport.links.dial import dial  # noqa: E402
from aitorrent_transport.links.link import BATCH_BYTES, Link  # noqa: E402
from aitorrent_transport.links.listener import Listener  # noqa: E402
from aitorrent_transport.secure.certificate import Credentials  # noqa: E402
from aitorrentd.runtime.identity import Identity  # noqa: E402
from benchmarks.report import machine  # noqa: E402

PIECE_BYTES: Final = 64 * 1024
MESSAGE_BYTES: Final = 1024
RECEIVE_BUFFER_BYTES: Final = 256 * 1024
KINDS: Final = ("link", "masked", "tls", "tls-protocol", "plain")
MB: Final = 1e6


def credentials() -> Credentials:
    """New keys."""
    return Credentials(Identity.generate(), "benchmark", "records/1")


class Pipe(Protocol):
    """The interface that the measurement drives: a link or a TLS connection."""

    on_bytes: Callable[[int], None]

    def send(self, piece: bytes) -> None:
        """Queue a piece."""

    async def drain(self) -> None:
        """Wait while the write buffer is full."""

    def close(self) -> None:
        """Close it."""


class LinkPipe:
    """A link as a pipe."""

    def __init__(self, link: Link) -> None:
        self.on_bytes: Callable[[int], None] = lambda n: None
        self._link = link
        self._drained = asyncio.Event()
        link.on_record = lambda view: self.on_bytes(len(view))
        link.on_writable = self._drained.set
        link.start()

    def send(self, piece: bytes) -> None:
        """One record."""
        self._link.send(piece)

    async def drain(self) -> None:
        """As in the link."""
        while not self._link.writable:
            self._drained.clear()
            await self._drained.wait()

    def close(self) -> None:
        """Close at once."""
        self._link.abort()


class TlsPipe(asyncio.BufferedProtocol):
    """A TLS connection as a pipe."""

    def __init__(self, on_open: Callable[[TlsPipe], None] = lambda pipe: None) -> None:
        self.on_bytes: Callable[[int], None] = lambda n: None
        self._writable = asyncio.Event()
        self._writable.set()
        self._on_open = on_open
        self._buffer = memoryview(bytearray(RECEIVE_BUFFER_BYTES))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Handshake done."""
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=256 * 1024, low=64 * 1024)
        self._on_open(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        """The buffer for plaintext."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Plaintext arrived."""
        self.on_bytes(nbytes)

    def pause_writing(self) -> None:
        """The write buffer is full."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """The write buffer drained."""
        self._writable.set()

    def send(self, piece: bytes) -> None:
        """Queue a piece."""
        self._transport.write(piece)

    async def drain(self) -> None:
        """As in the transport."""
        if not self._writable.is_set():
            await self._writable.wait()

    def close(self) -> None:
        """Close at once."""
        self._transport.abort()


class PlainPipe(TlsPipe):
    """A connection without TLS, whose pieces are written together as the link's are."""

    def __init__(self, on_open: Callable[[TlsPipe], None] = lambda pipe: None) -> None:
        super().__init__(on_open)
        self._pieces: list[bytes] = []

    def send(self, piece: bytes) -> None:
        """Queue a piece."""
        if len(piece) < PIECE_BYTES:
            self._transport.write(piece)
            return
        self._pieces.append(piece)
        if len(self._pieces) * PIECE_BYTES >= BATCH_BYTES:
            self._transport.writelines(self._pieces)
            self._pieces.clear()


class StreamPipe:
    """A TLS connection through asyncio's streams as a pipe."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.on_bytes: Callable[[int], None] = lambda n: None
        self._writer = writer
        self._reader = reader
        self._task = asyncio.ensure_future(self.read())

    async def read(self) -> None:
        """Serve until the end."""
        while piece := await self._reader.read(RECEIVE_BUFFER_BYTES):
            self.on_bytes(len(piece))

    def send(self, piece: bytes) -> None:
        """Queue a piece."""
        self._writer.write(piece)

    async def drain(self) -> None:
        """As in the writer."""
        await self._writer.drain()

    def close(self) -> None:
        """Close at once."""
        self._task.cancel()
        self._writer.transport.abort()


def self_signed(folder: Path) -> None:
    """A P-256 certificate for localhost and its key in one PEM file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name)
    builder = builder.public_key(key.public_key()).serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1))
    signed = builder.sign(key, hashes.SHA256())
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    (folder / "tls.pem").write_bytes(private + signed.public_bytes(serialization.Encoding.PEM))


def cpu_s() -> float:
    """User and system CPU time of this process."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


async def serve(kind: str, total: int, messages: int, pem: str) -> None:
    """The receiving process: take `total` bytes, acknowledge, then echo messages."""
    done = asyncio.Event()
    port = 0

    def on_pipe(pipe: Pipe) -> None:
        got = 0
        begun = 0.0

        def on_bytes(n: int) -> None:
            nonlocal got, begun
            if not got:
                begun = cpu_s()
            got += n
            if got == total:
                print(json.dumps({"cpu_s": cpu_s() - begun}), flush=True)
                pipe.send(b"done")
            elif got > total:
                for _ in range((got - total) // MESSAGE_BYTES - (got - n - total) // MESSAGE_BYTES):
                    pipe.send(bytes(MESSAGE_BYTES))
                if got == total + messages * MESSAGE_BYTES:
                    done.set()

        pipe.on_bytes = on_bytes

    if kind in ("link", "masked"):
        listener = Listener(credentials(), lambda link: on_pipe(LinkPipe(link)))
        _, port = await listener.listen("127.0.0.1", 0)
    else:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_cert_chain(pem)
        if kind == "tls":
            server = await asyncio.start_server(
                lambda reader, writer: on_pipe(StreamPipe(reader, writer)),
                "127.0.0.1",
                0,
                ssl=context,
            )
        else:
            make, wrapped = (PlainPipe, None) if kind == "plain" else (TlsPipe, context)
            loop = asyncio.get_running_loop()
            server = await loop.create_server(lambda: make(on_pipe), "127.0.0.1", 0, ssl=wrapped)
        port = server.sockets[0].getsockname()[1]
    print(port, flush=True)
    async with asyncio.timeout(300):
        await done.wait()
    await asyncio.sleep(0.2)  # the last answer is still in transit


async def connect(kind: str, port: int) -> Pipe:
    """The sending side's pipe."""
    if kind in ("link", "masked"):
        return LinkPipe(await dial("127.0.0.1", port, credentials(), masked=kind == "masked"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if kind == "tls":
        return StreamPipe(*await asyncio.open_connection("127.0.0.1", port, ssl=context))
    loop = asyncio.get_running_loop()
    make, wrapped = (PlainPipe, None) if kind == "plain" else (TlsPipe, context)
    _, pipe = await loop.create_connection(make, "127.0.0.1", port, ssl=wrapped)
    return pipe


def cipher_mb_per_cpu_s(total: int) -> float:
    """AES-256-GCM by OpenSSL: megabytes encrypted and decrypted per CPU-second."""
    aead, nonce = AESGCM(os.urandom(32)), bytes(12)
    piece, opened = os.urandom(PIECE_BYTES), bytearray(PIECE_BYTES)
    sealed = bytearray(PIECE_BYTES + 16)
    begun = cpu_s()
    for _ in range(total // PIECE_BYTES):
        aead.encrypt_into(nonce, piece, b"", sealed)
        aead.decrypt_into(nonce, sealed, b"", opened)
    return total / MB / (cpu_s() - begun)


async def measure(kind: str, total: int, messages: int, pem: str) -> dict[str, float]:
    """One round of one kind."""
    command = [sys.executable, __file__, "--serve", kind, str(total), str(messages), pem]
    child = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
    assert child.stdout is not None
    port = int(await asyncio.wait_for(child.stdout.readline(), 30))
    pipe = await connect(kind, port)
    piece = os.urandom(PIECE_BYTES)
    changed = asyncio.Event()
    answered = 0

    def on_bytes(n: int) -> None:
        nonlocal answered
        answered += n
        changed.set()

    pipe.on_bytes = on_bytes
    begun, begun_cpu = time.perf_counter(), cpu_s()
    async with asyncio.timeout(300):
        for _ in range(total // PIECE_BYTES):
            pipe.send(piece)
            await pipe.drain()
        while answered < 4:
            changed.clear()
            await changed.wait()
    took_s, took_cpu_s = time.perf_counter() - begun, cpu_s() - begun_cpu
    theirs = json.loads(await asyncio.wait_for(child.stdout.readline(), 30))["cpu_s"]
    message = bytes(MESSAGE_BYTES)
    trips = []
    async with asyncio.timeout(300):
        for _ in range(messages):
            answered = 0
            sent = time.perf_counter()
            pipe.send(message)
            while answered < MESSAGE_BYTES:
                changed.clear()
                await changed.wait()
            trips.append(time.perf_counter() - sent)
    pipe.close()
    await asyncio.wait_for(child.wait(), 30)
    return {
        "mb_per_cpu_s": total / MB / (took_cpu_s + theirs),
        "mb_per_s": total / MB / took_s,
        "round_trip_us": statistics.median(trips) * 1e6,
        "round_trip_p99_us": statistics.quantiles(trips, n=100)[98] * 1e6,
    }


async def run(rounds: int, total: int, messages: int) -> dict[str, Any]:
    """All rounds, link and TLS in turn; medians and the ratio."""
    results: dict[str, list[dict[str, float]]] = {kind: [] for kind in KINDS}
    ciphers = []
    with tempfile.TemporaryDirectory() as folder:
        self_signed(Path(folder))
        for i in range(rounds):
            for kind, rows in results.items():
                row = await measure(kind, total, messages, str(Path(folder) / "tls.pem"))
                rows.append(row)
                shown = "  ".join(f"{k} {v:8.1f}" for k, v in row.items())
                print(f"round {i + 1}  {kind:12}  {shown}", file=sys.stderr)
            ciphers.append(cipher_mb_per_cpu_s(total))
    medians = {
        kind: {k: statistics.median(row[k] for row in rows) for k in rows[0]}
        for kind, rows in results.items()
    }
    ratios = {
        kind: {
            k: statistics.median(
                a[k] / b[k] for a, b in zip(results["link"], results[kind], strict=True)
            )
            for k in ("mb_per_cpu_s", "mb_per_s", "round_trip_us")
        }
        for kind in KINDS[1:]
    }
    cipher = statistics.median(ciphers)
    ceiling = 1 / (1 / cipher + 1 / medians["plain"]["mb_per_cpu_s"])
    return {
        "median": medians,
        "link_over": ratios,
        "cipher_mb_per_cpu_s": cipher,
        "ceiling_mb_per_cpu_s": ceiling,
        "rounds": results,
    }


def libraries() -> dict[str, str]:
    """The versions of the software involved."""
    return {
        "uvloop": importlib.metadata.version("uvloop"),
        "cryptography": cryptography.__version__,
        "openssl": ssl.OPENSSL_VERSION,
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--mib", type=int, default=512, help="bytes per round, in MiB")
    parser.add_argument("--messages", type=int, default=2000, help="round trips of 1 KiB")
    parser.add_argument("--out", type=Path, help="write JSON here")
    parser.add_argument("--serve", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        kind, total, messages, pem = options.serve
        uvloop.run(serve(kind, int(total), int(messages), pem))
        return
    where = machine() | libraries()
    found = uvloop.run(run(options.rounds, options.mib * 2**20, options.messages))
    head = "".join(f"{kind:>14}" for kind in KINDS)
    print(f"{'':22}{head}" + "".join(f"{f'link/{kind}':>19}" for kind in KINDS[1:]))
    for key, label in (
        ("mb_per_cpu_s", "MB per CPU-second"),
        ("mb_per_s", "MB/s"),
        ("round_trip_us", "1 KiB round trip, us"),
    ):
        cells = "".join(f"{found['median'][kind][key]:14.1f}" for kind in KINDS)
        shown = "".join(f"{found['link_over'][kind][key]:19.2f}" for kind in KINDS[1:])
        print(f"{label:22}{cells}{shown}")
    print(f"AES-256-GCM there and back, MB per CPU-second {found['cipher_mb_per_cpu_s']:9.1f}")
    print(f"ceiling: that and plain TCP, MB per CPU-second {found['ceiling_mb_per_cpu_s']:8.1f}")
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps({"machine": where, **found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
