"""The web page of the catalogue, rendered on the server: models, and the files of one model."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from functools import wraps
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlencode

import jinja2
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from aitorrent_tracker.catalogue.pages.tree import rows_of
from aitorrent_tracker.catalogue.rest.errors import status_of
from aitorrent_tracker.catalogue.rest.reading import query, whole
from aitorrent_tracker.catalogue.rest.showing import Shower
from aitorrent_tracker.catalogue.service import Catalogue
from aitorrent_tracker.catalogue.sql.searching import Search
from aitorrentd.api import AitorrentError, NotFound, bytes_text, short

PAGE_MODELS: Final = 25
MAX_PAGES: Final = 1000
MAX_FILES: Final = 1000
"Of one repository on its page."
_COUNTED: Final = 5000
"Files whose seeders are looked up for a list of models."
_HERE: Final = Path(__file__).parent
_STATIC: Final = {
    "catalogue.css": "text/css",
    "catalogue.js": "text/javascript",
    "icon.svg": "image/svg+xml",
}
_Handler = Callable[["Pages", Request], Awaitable[Response]]


def _shown_as_page(handler: _Handler) -> _Handler:
    """Errors become pages: people read them."""

    @wraps(handler)
    async def handle(self: Pages, request: Request) -> Response:
        try:
            return await handler(self, request)
        except AitorrentError as e:
            return await self.render("error.html", status_of(e), message=e.message)

    return handle


class Pages:
    """The handlers of the pages."""

    def __init__(self, catalogue: Catalogue, shower: Shower) -> None:
        self._catalogue = catalogue
        self._shower = shower
        self._static = {name: (_HERE / "static" / name).read_bytes() for name in _STATIC}
        self._templates = jinja2.Environment(
            loader=jinja2.FileSystemLoader(_HERE / "templates"),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.filters |= {"size": bytes_text, "day": _day, "short": short}

    def routes(self) -> list[Route]:
        """All of them."""
        return [
            Route("/", self.models),
            Route("/models/{repo_id:path}", self.model),
            Route("/static/{name}", self.static),
        ]

    async def render(self, template: str, status: int = 200, **values: Any) -> Response:
        """A page of the catalogue."""
        title = self._catalogue.config.title
        values = {"title": title, "text": "", "heading": "", **values}
        # A long page takes longer than announces should wait.
        text = await asyncio.to_thread(self._templates.get_template(template).render, values)
        return HTMLResponse(
            text,
            status,
            headers={"Cache-Control": "no-cache"},
        )

    @_shown_as_page
    async def models(self, request: Request) -> Response:
        """Repositories with a file that matches `q`."""
        asked = query(request, ("q", "page"))
        text, page = asked.get("q", "").strip(), whole(asked, "page", 1, 1, MAX_PAGES)
        store = self._catalogue.store
        found, total = await store.models(
            Search(text=text), offset=(page - 1) * PAGE_MODELS, limit=PAGE_MODELS
        )
        hashes = await store.hashes_of([model.repo_id for model in found], limit=_COUNTED)
        rows = [
            {
                **model._asdict(),
                "url": _model_url(model.repo_id),
                "seeds": _availability(self._shower.seeds(hashes[model.repo_id])),
            }
            for model in found
        ]
        pages = min(MAX_PAGES, -(-total // PAGE_MODELS))
        return await self.render(
            "models.html",
            heading="",
            rows=rows,
            text=text,
            total=total,
            page=page,
            pages=pages,
            previous=_page_url(text, page - 1) if page > 1 else "",
            following=_page_url(text, page + 1) if page < pages else "",
        )

    @_shown_as_page
    async def model(self, request: Request) -> Response:
        """The files of one repository, in the newest revision or the one that is asked for."""
        repo_id = request.path_params["repo_id"]
        asked = query(request, ("revision",))
        if "\0" in repo_id:
            raise NotFound("there is no such model")
        entries = await self._catalogue.store.files(repo_id, limit=MAX_FILES)
        revisions = list(dict.fromkeys(entry.commit_hash for entry in entries))
        revision = asked.get("revision") or (revisions[0] if revisions else "")
        files = [entry for entry in entries if entry.commit_hash == revision]
        if not files:
            raise NotFound("no file of this model, or of this revision, is published here")
        return await self.render(
            "model.html",
            heading=repo_id,
            repo_id=repo_id,
            revision=revision,
            revisions=[
                {"commit": each, "url": f"{_model_url(repo_id)}?revision={each}"}
                for each in revisions
            ],
            command=f"aitorrentctl download catalogue://{repo_id}@{revision}",
            rows=rows_of(files, self._shower, self._shower.announced(request)),
            size=sum(entry.size for entry in files),
            files=sum(entry.file_count for entry in files),
            seeds=_availability([self._shower.counts(entry).seeds for entry in files]),
            is_gated=any(entry.gated for entry in files),
            is_cut=len(entries) == MAX_FILES,
        )

    async def static(self, request: Request) -> Response:
        """Style sheet, script and icon."""
        name = request.path_params["name"]
        if name not in _STATIC:
            raise NotFound("there is no such file")
        return Response(
            self._static[name],
            media_type=_STATIC[name],
            headers={"Cache-Control": "max-age=300"},
        )


def _availability(seeds: Sequence[int]) -> dict[str, int]:
    """Seeders of the file that has the most, and how many files have none."""
    return {"most": max(seeds, default=0), "lacking": sum(not each for each in seeds)}


def _model_url(repo_id: str) -> str:
    return f"/models/{quote(repo_id)}"


def _page_url(text: str, page: int) -> str:
    asked = {"q": text} if text else {}
    return "/?" + urlencode({**asked, "page": page})


def _day(at: int) -> str:
    try:
        return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d")
    except (ValueError, OverflowError, OSError):
        return ""
