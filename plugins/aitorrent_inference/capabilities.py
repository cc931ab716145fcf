"""`ait:cap:<model>` and `ait:embed:<model>` records: which node answers with which model, and which
makes vectors with it. No I/O."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from aitorrentd.api import ModelView, PeerId, Record, called

PREFIX: Final = "ait:cap:"
EMBED_PREFIX: Final = "ait:embed:"


class Capability(BaseModel):
    """A node's description of a model that it serves."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    v: int = Field(1, ge=1, le=1)
    model: str = Field("", max_length=256, description="the node's own name for the model")
    size_bytes: int | None = Field(None, ge=0, lt=2**63)
    family: str = Field("", max_length=64)
    context_length: int | None = Field(None, ge=1, lt=2**31)


def record_key(model: str, prefix: str = PREFIX) -> str:
    """The directory key of a model."""
    return prefix + model


def offered(
    views: Sequence[ModelView],
    *,
    announce: bool | tuple[str, ...],
    aliases: Mapping[str, str],
) -> dict[str, ModelView]:
    """The models that peers may use, by requested name, including aliases; none whose layers left
    this node's memory.

    `announce` is true for all, false for none, or the list of allowed names. The first view of a
    name wins; an alias exists as long as its model does.
    """
    by_name: dict[str, ModelView] = {}
    for view in views:
        if not view.is_resting:
            by_name.setdefault(view.name, view)
    for alias, model in aliases.items():
        known = match(model, by_name)
        if known is not None:
            by_name.setdefault(alias, known)
    if announce is True:
        return by_name
    allowed = announce or ()
    return {name: view for name, view in by_name.items() if name in allowed}


def match(model: str, by_name: Mapping[str, ModelView]) -> ModelView | None:
    """The view called `model`; as in Ollama, a name without a tag means `:latest`."""
    view = by_name.get(model)
    if view is None and ":" not in model:
        view = by_name.get(f"{model}:latest")
    return view


def record_value(view: ModelView) -> dict[str, Any]:
    """The record value that this node publishes for a model."""
    value = Capability(
        model=view.name,
        size_bytes=view.size_bytes,
        family=view.family[:64],
        context_length=view.context_length,
    )
    return value.model_dump(exclude_none=True)


def read_record(record: Record, name_of: Callable[[PeerId], str] | None = None) -> ModelView | None:
    """The model in an untrusted record, or None if the record is not a valid one.

    `name_of` returns the name that a peer claims.
    """
    prefix = next((p for p in (PREFIX, EMBED_PREFIX) if record.key.startswith(p)), None)
    name = record.key.removeprefix(prefix or "")
    if prefix is None or not 1 <= len(name) <= 256 or not name.isprintable():
        return None
    try:
        value = Capability.model_validate(dict(record.value))
    except ValidationError:
        return None
    return ModelView(
        name=name,
        backend=f"peer:{record.peer}",
        size_bytes=value.size_bytes,
        family=value.family if value.family.isprintable() else "",
        context_length=value.context_length,
        detail=f"by {called(record.peer, name_of(record.peer) if name_of else '')}",
    )
