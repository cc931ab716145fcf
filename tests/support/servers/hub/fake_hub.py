"""A fake Hugging Face Hub on loopback, written from its documented protocol, with its failures.

    with FakeHub() as hub:
        repo = hub.add("org/model", {"config.json": b"{}", "model.safetensors": weights()})
        hub.corrupt = 1          # the next body of a large file has the right length only

Large files come from a second server, the CDN, unless `cdn` is False. Both record every request.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

from tests.support.nodes import free_port
from tests.support.servers.hub.handler import Handler
from tests.support.servers.hub.repos import File, Repo


@dataclass(frozen=True)
class Seen:
    """A request."""

    server: str
    "hub or cdn."
    method: str
    path: str
    headers: Mapping[str, str]
    "With lower-case names."


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, hub: FakeHub, name: str, port: int) -> None:
        self.hub, self.name = hub, name
        self.has_tls = hub.tls is not None and name in hub.secured
        self.connections: list[socket.socket] = []
        super().__init__(("127.0.0.1", port), Handler)
        if hub.tls is not None and self.has_tls:
            self.socket = hub.tls.wrap_socket(self.socket, server_side=True)

    def process_request(self, request: Any, client_address: Any) -> None:
        self.connections.append(request)
        super().process_request(request, client_address)

    def cut(self) -> None:
        """End all connections."""
        for connection in self.connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that go away are no errors of a test."""


@dataclass
class FakeHub:
    cdn: bool = True
    "Large files are redirected to the CDN (302)."
    resolve_cache: bool = False
    "Small files are redirected to a path of the same host (307), as the Hub does since 2025."
    loses_commit: bool = False
    "After that redirect, the answer does not say the commit."
    xet: bool = False
    "Large files have Xet metadata."
    corrupt: int = 0
    "So many bodies of large files are wrong, with the right length."
    corrupt_small: int = 0
    "The same for small files."
    truncated: int = 0
    "So many bodies end early."
    stalls: int = 0
    "So many bodies stop after their first half, until the client leaves."
    bytes_per_s: float = 0
    "Speed of bodies; 0 = no limit."
    failing: list[tuple[int, str]] = field(default_factory=list)
    "Status and Retry-After of the next answers of the hub."
    declared: dict[str, int] = field(default_factory=dict)
    "Sizes that HEAD and tree declare for a path, whatever the file has."
    compresses: bool = False
    "Small files are compressed for clients that accept gzip, without a length."
    aligns: int = 0
    "Parts begin at multiples of so many bytes, whatever was asked for."
    ignores_ranges: bool = False
    "Every body is whole, with 200."
    page: int = 0
    "Entries on a page of a tree; 0 = all."
    tls: ssl.SSLContext | None = None
    secured: tuple[str, ...] = ("hub", "cdn")
    "Servers that speak TLS if `tls` is set."
    renamed: dict[str, str] = field(default_factory=dict)
    "Old names of repositories, which redirect (307)."

    def __post_init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.seen: list[Seen] = []
        self.tokens: set[str] = set()
        "Every token that reached the CDN."
        self.lock = threading.Lock()
        self._servers: dict[str, _Server] = {}
        self._ports = {"hub": free_port(), "cdn": free_port()}

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Listen, on the same ports as before."""
        for name in self._ports:
            server = _Server(self, name, self._ports[name])
            self._servers[name] = server
            threading.Thread(
                target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
            ).start()

    def stop(self) -> None:
        """Refuse connections, as a host that is down."""
        for server in self._servers.values():
            server.shutdown()
            server.server_close()
            server.cut()
        self._servers.clear()

    @property
    def url(self) -> str:
        return self._url("hub")

    @property
    def cdn_url(self) -> str:
        return self._url("cdn")

    def _url(self, name: str) -> str:
        scheme = "https" if self.tls is not None and name in self.secured else "http"
        return f"{scheme}://127.0.0.1:{self._ports[name]}"

    def add(
        self,
        name: str,
        files: Mapping[str, bytes],
        *,
        private: bool = False,
        gated: bool = False,
        readers: tuple[str, ...] = (),
    ) -> Repo:
        """A repository with one commit on `main`."""
        repo = Repo(name, private=private, gated=gated, readers=set(readers))
        repo.commit(files)
        self.repos[name] = repo
        return repo

    def take(self, what: str) -> bool:
        """Use up one of a counted failure; whether there was one."""
        with self.lock:
            left: int = getattr(self, what)
            setattr(self, what, max(0, left - 1))
        return left > 0

    def bodies(self, path: str) -> list[Seen]:
        """The GET requests for a file's body, at the hub without the CDN, or at the CDN."""
        of_cdn = [s for s in self.seen if s.method == "GET" and s.server == "cdn"]
        of_hub = [s for s in self.seen if s.method == "GET" and s.server == "hub"]
        end = "/" + path
        at_cdn = [s for s in of_cdn if s.path.partition("?")[0].endswith(end)]
        return at_cdn or [s for s in of_hub if s.path.partition("?")[0].endswith(end)]

    def asked(self, text: str) -> int:
        """How many requests had `text` in their path."""
        return sum(text in seen.path for seen in self.seen)

    def entry(self, path: str, file: File) -> dict[str, Any]:
        """A file in a tree."""
        size = self.declared.get(path, file.size)
        entry: dict[str, Any] = {"type": "file", "oid": file.git_sha1, "size": size, "path": path}
        if file.is_lfs:
            entry["lfs"] = {"oid": file.sha256, "size": size, "pointerSize": 134}
            if self.xet:
                entry["xetHash"] = file.sha256[::-1]
        return entry

    def described(self, repo: Repo, commit: str) -> dict[str, Any]:
        """What `/api/models/{repo}` says."""
        bare = repo.name.removeprefix("datasets/").removeprefix("spaces/")
        return {
            "_id": "0" * 24,
            "id": bare,
            "modelId": bare,
            "sha": commit,
            "private": repo.private,
            "gated": "manual" if repo.gated else False,
            "disabled": False,
            "downloads": 0,
            "likes": 0,
            "tags": [],
            "createdAt": "2026-01-01T00:00:00.000Z",
            "lastModified": "2026-01-01T00:00:00.000Z",
            "siblings": [{"rfilename": path} for path in repo.commits[commit]],
        }
