"""What the plugin says when nothing can answer."""

from __future__ import annotations

from typing import Final

from aitorrent_inference.catalogue import Catalogue
from aitorrent_inference.router import Router
from aitorrentd.api import Check, CheckResult, HealthWarning

_REMEDY: Final = "Start Ollama, configure plugins.openai or plugins.shards, or connect to a peer."


def can_answer(router: Router) -> Check:
    """The doctor check that some model can be answered."""

    async def run() -> CheckResult:
        models = await router.models()
        if not models:
            return CheckResult("warn", _why(router.catalogue), _REMEDY)
        names = sorted({view.name for view in models})
        return CheckResult("ok", f"{', '.join(names[:8])} can be answered")

    return Check("models", "some model can be answered", run)


def warnings(catalogue: Catalogue) -> list[HealthWarning]:
    """A warning while nothing here or on connected peers can answer, by what is known already."""
    if any(s.ok and s.models for s in catalogue.states.values()) or catalogue.peer_models():
        return []
    return [HealthWarning("no_backend", f"{_why(catalogue)}. {_REMEDY}")]


def _why(catalogue: Catalogue) -> str:
    states = catalogue.states.values()
    reasons = "; ".join(f"{s.name}: {s.detail}" for s in states) or "no backend is running"
    return f"no model can be answered: {reasons}"
