"""How the fake Hub answers one request."""

from __future__ import annotations

import gzip
import json
import os
import re
import time
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

from tests.support.servers.hub.repos import File, Repo

if TYPE_CHECKING:
    from tests.support.servers.hub.fake_hub import FakeHub

_API = re.compile(r"/api/(?P<kind>models|datasets|spaces)/(?P<repo>[^/]+/[^/]+)(?P<rest>/.*)?")
_RESOLVE = re.compile(
    r"/(?P<repo>(?:datasets/|spaces/)?[^/]+/[^/]+)/resolve/(?P<rev>[^/]+)/(?P<path>.+)"
)
_CACHED = re.compile(
    r"/api/resolve-cache/(?P<kind>\w+)/(?P<repo>[^/]+/[^/]+)/(?P<rev>[^/]+)/(?P<path>.+)"
)
_PART = 16 * 1024


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Any

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are recorded instead."""

    @property
    def hub(self) -> FakeHub:
        hub: FakeHub = self.server.hub
        return hub

    @property
    def token(self) -> str:
        return (self.headers.get("Authorization") or "").removeprefix("Bearer ")

    def do_GET(self) -> None:
        from tests.support.servers.hub.fake_hub import Seen

        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.hub.seen.append(Seen(self.server.name, self.command, self.path, headers))
        parts = urlsplit(self.path)
        if self.server.name == "cdn":
            self._cdn(unquote(parts.path))
        elif self.hub.failing:
            status, wait = self.hub.failing.pop(0)
            self._send(status, {"error": "try later"}, {"Retry-After": wait} if wait else {})
        else:
            self._hub(parts.path, parse_qs(parts.query), body)

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET

    def _hub(self, raw: str, query: dict[str, list[str]], body: bytes) -> None:
        if match := _CACHED.fullmatch(unquote(raw)):
            self._resolve(match["repo"], match["rev"], match["path"], is_final=True)
        elif match := _RESOLVE.fullmatch(raw):
            repo, revision, path = (unquote(match[name]) for name in ("repo", "rev", "path"))
            if repo in self.hub.renamed:
                new = self.hub.renamed[repo]
                self._send(307, {}, {"Location": self.path.replace(repo, new, 1)})
            else:
                self._resolve(repo, revision, path)
        elif match := _API.fullmatch(raw):
            prefix = "" if match["kind"] == "models" else f"{match['kind']}/"
            self._api(prefix + match["repo"], unquote(match["rest"] or ""), query, body)
        elif raw == "/api/whoami-v2":
            self._send(200 if self.token else 401, {"name": "somebody", "token": bool(self.token)})
        elif raw == "/echo":
            self._send(200, {"method": self.command, "body": body.decode(), "query": query})
        else:
            self._send(404, {"error": "Sorry, we can't find the page you are looking for."})

    def _found(self, name: str, *, is_file: bool) -> Repo | None:
        """A repository that the caller may read; otherwise the refusal is sent."""
        repo = self.hub.repos.get(name)
        if repo is None or (repo.private and not repo.readable_by(self.token)):
            status = 404 if self.token else 401
            self._refuse(status, "RepoNotFound", "Repository not found")
        elif is_file and not repo.readable_by(self.token):
            status = 403 if self.token else 401
            self._refuse(status, "GatedRepo", f"Access to model {name} is restricted.")
        else:
            return repo
        return None

    def _api(self, name: str, rest: str, query: dict[str, list[str]], body: bytes) -> None:
        repo = self._found(name, is_file=False)
        if repo is None:
            return
        what, _, revision = rest.lstrip("/").partition("/")
        if what in ("", "revision"):
            commit = repo.commit_of(revision or "main")
            if commit is None:
                self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            else:
                self._send(200, self.hub.described(repo, commit))
            return
        revision, _, folder = revision.partition("/")
        commit = repo.commit_of(revision)
        if commit is None:
            self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        elif what == "tree":
            entries = [self.hub.entry(p, f) for p, f in repo.commits[commit].items()]
            entries = [e for e in entries if e["path"].startswith(folder)]
            self._page(entries, query)
        elif what == "paths-info":
            paths = json.loads(body)["paths"]
            files = repo.commits[commit]
            self._send(200, [self.hub.entry(p, files[p]) for p in paths if p in files])
        elif what == "xet-read-token":
            self._send(200, {"accessToken": "t", "exp": 2**31, "casUrl": self.hub.cdn_url})
        else:
            self._send(404, {"error": "no such route"})

    def _page(self, entries: list[dict[str, Any]], query: dict[str, list[str]]) -> None:
        start = int(query.get("cursor", ["0"])[0])
        stop = start + self.hub.page if self.hub.page else len(entries)
        headers = {}
        if stop < len(entries):
            path = self.path.partition("?")[0]
            headers["Link"] = f'<{self.hub.url}{path}?cursor={stop}>; rel="next"'
        self._send(200, entries[start:stop], headers)

    def _resolve(self, name: str, revision: str, path: str, *, is_final: bool = False) -> None:
        repo = self._found(name, is_file=True)
        if repo is None:
            return
        commit = repo.commit_of(revision)
        if commit is None:
            self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            return
        file = repo.commits[commit].get(path)
        if file is None:
            extra = {"X-Repo-Commit": commit}
            self._refuse(404, "EntryNotFound", "Entry not found", extra)
            return
        size = str(self.hub.declared.get(path, file.size))
        headers = {"X-Repo-Commit": commit, "ETag": f'"{file.etag}"', "Accept-Ranges": "bytes"}
        if file.is_lfs:
            headers |= {"X-Linked-Etag": f'"{file.sha256}"', "X-Linked-Size": size}
            if self.hub.xet:
                route = f"{self.hub.url}/api/models/{name}/xet-read-token/{commit}"
                headers |= {"X-Xet-Hash": file.sha256[::-1], "X-Xet-Refresh-Route": route}
                headers["Link"] = f'<{route}>; rel="xet-auth"'
            if self.hub.cdn:
                place = f"{self.hub.cdn_url}/{quote(name)}/{commit}/{quote(path)}?Signature=s3cret"
                self._send(302, {}, headers | {"Location": place})
                return
        elif self.hub.resolve_cache and not is_final:
            place = f"/api/resolve-cache/models/{name}/{commit}/{quote(path)}?etag=x"
            self._send(307, {}, headers | {"Location": place})
            return
        elif is_final and self.hub.loses_commit:
            del headers["X-Repo-Commit"]
        self._body(file, headers, size)

    def _cdn(self, path: str) -> None:
        if self.headers.get("Authorization"):
            self.hub.tokens.add(self.token)
            self._send(400, {"error": "Only one auth mechanism allowed"})
            return
        for repo in self.hub.repos.values():
            prefix = f"/{repo.name}/"
            if path.startswith(prefix):
                commit, _, name = path.removeprefix(prefix).partition("/")
                file = repo.commits[commit][name]
                # A CDN has an ETag of its own.
                size = str(self.hub.declared.get(name, file.size))
                self._body(file, {"ETag": '"c0ffee-1"', "Accept-Ranges": "bytes"}, size)
                return
        self._send(404, {})

    def _body(self, file: File, headers: dict[str, str], size: str) -> None:
        start, stop = 0, file.size
        wanted = "" if self.hub.ignores_ranges else self.headers.get("Range") or ""
        if match := re.fullmatch(r"bytes=(\d+)-(\d*)", wanted):
            start = int(match[1])
            stop = min(int(match[2]) + 1, file.size) if match[2] else file.size
            start -= start % self.hub.aligns if self.hub.aligns else 0
            if start >= file.size:
                self._send(416, {}, {"Content-Range": f"bytes */{file.size}"})
                return
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{file.size}"
        is_head = self.command == "HEAD"
        if self.hub.compresses and not file.is_lfs and "gzip" in self.headers["Accept-Encoding"]:
            self._compressed(file, headers)
            return
        self.send_response(206 if "Content-Range" in headers else 200)
        headers["Content-Type"] = "application/octet-stream"
        headers["Content-Length"] = size if is_head else str(stop - start)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if not is_head:
            self._bytes(file, start, stop)

    def _compressed(self, file: File, headers: dict[str, str]) -> None:
        self.close_connection = True
        self.send_response(200)
        for name, value in (headers | {"Content-Encoding": "gzip", "Connection": "close"}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(gzip.compress(file.content))

    def _bytes(self, file: File, start: int, stop: int) -> None:
        hub = self.hub
        content = file.content[start:stop]
        if hub.take("corrupt" if file.is_lfs else "corrupt_small"):
            content = os.urandom(len(content))
        ends_early = hub.take("truncated")
        stalls = not ends_early and hub.take("stalls")
        if ends_early or stalls:
            content = content[: len(content) // 2]
        for at in range(0, len(content), _PART):
            part = content[at : at + _PART]
            self.wfile.write(part)
            if hub.bytes_per_s:
                time.sleep(len(part) / hub.bytes_per_s)
        if stalls:
            self.wfile.flush()
            self.connection.settimeout(60)
            self.connection.recv(1)
        if ends_early or stalls:
            self.close_connection = True

    def _refuse(
        self, status: int, code: str, message: str, extra: dict[str, str] | None = None
    ) -> None:
        told = {"X-Error-Code": code, "X-Error-Message": message}
        self._send(status, {"error": message}, told | (extra or {}))

    def _send(self, status: int, value: Any, headers: dict[str, str] | None = None) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        for name, text in (headers or {}).items():
            self.send_header(name, text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
