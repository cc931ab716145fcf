"""`hf://org/name`: the files of a model, as the Hub lists them."""

from __future__ import annotations

import json
from typing import Any, Final
from urllib.parse import quote

from aitorrent_hub.upstream.asking import Hub
from aitorrent_hub.upstream.described import Place, target_of
from aitorrentd.api import Denied, InvalidParams, NotFound, ProtocolError, Unavailable
from aitorrentd.api.fields import text, whole
from aitorrentd.api.models.file_names import check_commit, check_path, check_repo
from aitorrentd.api.models.weights import ModelFiles, SmallFile, WantedFile, WebSource, is_sha256

MAX_FILES: Final = 20_000
_MAX_BYTES: Final = 32 * 2**20
_MAX_SIZE: Final = 2**50


class HubNames:
    """Names of the scheme `hf`. Only what anybody may read: no token is sent."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    async def resolve(self, name: str, revision: str = "") -> ModelFiles:
        """The files of `name` (`org/name`), at its newest commit or at `revision`.

        Raises:
            InvalidParams: malformed. NotFound: no such model or revision. Denied: it is gated or
            private. Unavailable, TimedOut: the Hub cannot be asked. ProtocolError: its answer.
        """
        try:
            check_repo(name)
        except ValueError as e:
            raise InvalidParams(f"hf://{name} {e}") from None
        wanted = quote(revision or "main", safe="")
        described, _ = await self._json(f"/api/models/{name}/revision/{wanted}", name, revision)
        if not isinstance(described, dict):
            raise ProtocolError(f"the Hub does not describe {name} as an object")
        if described.get("gated") not in (False, None) or described.get("private"):
            raise Denied(f"{name} is gated or private; download it with huggingface_hub")
        try:
            commit = check_commit(text(described, "sha", 40))
        except ValueError as e:
            raise ProtocolError(f"the commit of {name} {e}") from None
        files: list[tuple[str, WantedFile | SmallFile]] = []
        target = f"/api/models/{name}/tree/{commit}?recursive=true&expand=false"
        while target:
            entries, target = await self._json(target, name, revision)
            if not isinstance(entries, list) or len(files) + len(entries) > MAX_FILES:
                raise ProtocolError(f"the Hub does not list the files of {name}")
            files += [
                self._file(entry, name, commit)
                for entry in entries
                if isinstance(entry, dict) and entry.get("type") == "file"
            ]
        return ModelFiles(name, commit, tuple(files))

    def _file(
        self, entry: dict[str, Any], repo: str, commit: str
    ) -> tuple[str, WantedFile | SmallFile]:
        try:
            path = check_path(text(entry, "path", 1024))
        except ValueError as e:
            raise ProtocolError(f"a path in {repo} {e}") from None
        source = WebSource(self._hub.origin + target_of(Place(repo, commit, path)))
        lfs = entry.get("lfs")
        if isinstance(lfs, dict):
            digest = text(lfs, "oid", 64)
            if not is_sha256(digest):
                raise ProtocolError(f"{path} in {repo} has no SHA-256")
            size = whole(lfs, "size", 0, _MAX_SIZE)
            return path, WantedFile(digest, size, path, (source,))
        size = whole(entry, "size", 0, _MAX_SIZE)
        return path, SmallFile(text(entry, "oid", 40), size, path, (source,))

    async def _json(self, target: str, name: str, revision: str) -> tuple[Any, str]:
        """A document, and the path of its next page."""
        client = await self._hub.client()
        headers = [("accept-encoding", "identity"), ("user-agent", "aitorrentd")]
        async with client.opened("GET", target, headers, follow="here") as answer:
            body = await answer.body(_MAX_BYTES)
            told = {key.lower(): value for key, value in answer.headers}
        if answer.status == 404 or told.get("x-error-code") == "RevisionNotFound":
            at = f" at revision {revision}" if revision else ""
            raise NotFound(f"the Hub has no model {name}{at}")
        if answer.status in (401, 403):
            raise Denied(f"{name} is gated, private, or does not exist")
        if answer.status >= 400 or body is None:
            raise Unavailable(f"the Hub answers with status {answer.status} about {name}")
        try:
            return json.loads(body), self._next(told.get("link", ""))
        except (ValueError, RecursionError):
            raise ProtocolError(f"what the Hub says about {name} is not JSON") from None

    def _next(self, link: str) -> str:
        place, _, rel = link.partition(">")
        url = place.lstrip(" <")
        if 'rel="next"' not in rel or not url.startswith(f"{self._hub.origin}/"):
            return ""
        return url.removeprefix(self._hub.origin)
