"""The page at `/`: what runs here, and what can be called."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response

from aitorrentd.api.context import Caller
from aitorrentd.api.faces.routes import HttpRoute, Scope

_RUNNING: Final = "aitorrentd is running"
_CSP: Final = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"
_STYLE: Final = (
    ":root{color-scheme:light dark}"
    "body{font:16px system-ui;max-width:60em;margin:2em auto;padding:0 1em}"
    "table{border-collapse:collapse;width:100%}td,th{text-align:left;padding:.2em .6em .2em 0;"
    "overflow-wrap:anywhere;vertical-align:top}"
    # On a phone, each row is a paragraph.
    "@media(max-width:40em){tr{display:block;margin:0 0 .7em}td{display:block;padding:0}"
    "tr:has(th){display:none}td:first-child{font-weight:600}}"
)


async def answer(
    request: Request,
    routes: Callable[[], tuple[tuple[str, HttpRoute], ...]],
    caller: Callable[[], Caller],
) -> Response:
    """HTML, JSON or one line, whichever the client prefers. The state of plugins is shown to
    those who may read."""
    scopes: frozenset[Scope] = request.scope["aitorrent.scopes"]
    accept = request.headers.get("accept", "")
    if "text/html" not in accept and "application/json" not in accept:
        # Ollama's clients look for its own words where its API is.
        speaks_ollama = any(route.path == "/api/generate" for _, route in routes())
        return PlainTextResponse("Ollama is running" if speaks_ollama else _RUNNING + "\n")
    shown = [
        {"path": route.template, "methods": sorted(route.methods), "summary": route.summary}
        for _, route in routes()
        if route.scope in scopes and route.listed
    ]
    plugins: list[dict[str, Any]] = []
    if Scope.READ in scopes:
        listed = await caller().call("plugin.list")
        plugins = [
            {key: row[key] for key in ("name", "state", "summary")} for row in listed["plugins"]
        ]
    if "text/html" not in accept:
        return JSONResponse(
            {"message": _RUNNING, "routes": shown} | ({"plugins": plugins} if plugins else {})
        )
    return HTMLResponse(_html(shown, plugins), headers={"content-security-policy": _CSP})


def _html(routes: list[dict[str, Any]], plugins: list[dict[str, Any]]) -> str:
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8><title>aitorrentd</title>",
        '<meta name=viewport content="width=device-width,initial-scale=1">',
        f"<style>{_STYLE}</style><h1>{_RUNNING}</h1><h2>Paths</h2>",
        _table(
            ("Path", "Methods", "What it does"),
            [(_link(r), escape(", ".join(r["methods"])), escape(r["summary"])) for r in routes],
        ),
    ]
    if plugins:
        rows = [tuple(escape(p[key]) for key in ("name", "state", "summary")) for p in plugins]
        parts += ["<h2>Plugins</h2>", _table(("Plugin", "State", "What it does"), rows)]
    return "".join(parts) + "</html>"


def _link(route: dict[str, Any]) -> str:
    """The path as HTML, as a link if a click can call it."""
    path = escape(route["path"])
    can_click = "GET" in route["methods"] and "{" not in path
    return f'<a href="{path}">{path}</a>' if can_click else path


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """A table; its cells are HTML."""
    top = "".join(f"<th>{escape(text)}</th>" for text in head)
    body = "".join("<tr>" + "".join(f"<td>{text}</td>" for text in row) + "</tr>" for row in rows)
    return f"<table><tr>{top}</tr>{body}</table>"
