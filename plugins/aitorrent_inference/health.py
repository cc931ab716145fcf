"""Health reports when nothing can answer a prompt."""

from __future__ import annotations

from typing import Final

from aitorrent_inference.catalogue import Catalogue
from aitorrent_inference.routing.router import Router
from aitorrentd.api import Check, CheckResult, HealthWarning

_REMEDY: Final = (
    "Add one (aitorrentctl model add), start Ollama, configure plugins.openai or plugins.shards, or"
    " connect to a peer that has one."
)


def can_answer(router: Router) -> Check:
    """The doctor check that a model is available."""

    async def run() -> CheckResult:
        models = await router.models()
        if not models and (coming := _loading(router.catalogue)):
            remedy = f"Wait for it: aitorrentctl wait --model {coming[0]}"
            return CheckResult("warn", _not_yet(coming), remedy)
        if not models:
            return CheckResult("warn", _why(router.catalogue), _REMEDY)
        names = sorted({view.name for view in models})
        return CheckResult("ok", f"available: {', '.join(names[:8])}")

    return Check("models", "a model is available", run)


def warnings(catalogue: Catalogue) -> list[HealthWarning]:
    """A warning while nothing here or on connected peers can answer, from current knowledge."""
    if any(s.ok and s.models for s in catalogue.states.values()) or catalogue.peer_models():
        return []
    if coming := _loading(catalogue):
        return [HealthWarning("loading", _not_yet(coming), "info")]
    return [HealthWarning("no_backend", f"{_why(catalogue)}. {_REMEDY}")]


def _loading(catalogue: Catalogue) -> list[str]:
    """Models that become ready without intervention."""
    return sorted({p.name for p in catalogue.pending() if p.state == "loading"})


def _not_yet(names: list[str]) -> str:
    return f"no model is ready yet; loading: {', '.join(names[:8])}"


def _why(catalogue: Catalogue) -> str:
    states = catalogue.states.values()
    reasons = "; ".join(f"{s.name}: {s.detail}" for s in states) or "no backend is running"
    return f"no model is available: {reasons}"
