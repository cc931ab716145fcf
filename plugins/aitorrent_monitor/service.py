"""The monitor's routes. Starlette is imported with the first request."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from aitorrent_monitor.readiness import Check, Readiness, loop_lag_s
from aitorrentd.api import PluginContext, Role
from aitorrentd.api.faces.asgi import App
from aitorrentd.api.faces.routes import HttpRoute, Scope
from aitorrentd.api.monitoring import exposition

if TYPE_CHECKING:
    from starlette.requests import Request

ALIVE_S: Final = 1.0
"An event loop that takes longer for one round is not alive."
_GET: Final = frozenset({"GET"})


class Monitor:
    """Answers for one node."""

    def __init__(self, ctx: PluginContext) -> None:
        self._ctx = ctx
        self._readiness = Readiness(ctx)

    def routes(self) -> list[HttpRoute]:
        """What the HTTP server mounts."""
        public = Scope.PUBLIC
        return [
            HttpRoute(
                "/metrics", _GET, self._metrics, Scope.READ, "Metrics for Prometheus.", slots=4
            ),
            HttpRoute("/livez", _GET, self._livez, public, "200 unless only a restart would help."),
            HttpRoute("/readyz", _GET, self._readyz, public, "200 while the node takes work."),
            HttpRoute("/health", _GET, self._health, public, "The state of the node, for people."),
        ]

    async def _metrics(self, request: Request) -> App:
        from starlette.responses import Response

        is_open = exposition.wants_open_metrics(request.headers.get("accept", ""))
        text = exposition.text_of(self._ctx.metrics(), open_metrics=is_open)
        kind = exposition.OPEN_METRICS if is_open else exposition.TEXT
        return Response(text.encode(), headers={"content-type": kind})

    async def _livez(self, request: Request) -> App:
        lag_s = await loop_lag_s()
        check = Check("loop", lag_s <= ALIVE_S, f"the event loop answered after {lag_s:.3f} s")
        return _answer(request, [check])

    async def _readyz(self, request: Request) -> App:
        return _answer(request, await self._readiness.checks())

    async def _health(self, request: Request) -> App:
        checks = await self._readiness.checks()
        if Scope.READ not in request.scope["aitorrent.scopes"]:
            return _answer(request, checks)
        status = await self._ctx.control.caller(Role.READ).call("node.status")
        shown = ("version", "id", "name", "uptime_s", "state", "draining", "peers", "reach")
        summary = {key: status[key] for key in shown}
        summary |= {"plugins": status["plugins"], "warnings": status["warnings"]}
        return _answer(request, checks, summary)


def _answer(request: Request, checks: list[Check], more: dict[str, Any] | None = None) -> App:
    """200 if all is well, else 503; the checks are shown to those who may read the node."""
    from starlette.responses import JSONResponse

    is_well = all(check.is_ok for check in checks)
    body: dict[str, Any] = {"status": "ok" if is_well else "unavailable"}
    if Scope.READ in request.scope["aitorrent.scopes"]:
        body |= more or {}
        body["checks"] = {check.name: {"ok": check.is_ok, "text": check.text} for check in checks}
    return JSONResponse(body, 200 if is_well else 503)
