"""The models that a server lists: which answer prompts, and how they are shown. No I/O."""

from __future__ import annotations

import re
from typing import Any, Final

from aitorrentd.api import ModelView
from aitorrentd.api.fields import count_of

# Name parts of models that turn text into something other than an answer.
_NO_CHAT_NAME: Final = re.compile(
    r"(^|[-_/.:\s])(embed|embedding|embeddings|embedder|rerank|reranker|whisper|tts|dall-e|moderation"
    r"|transcribe|stable-diffusion|sdxl|flux)([-_/.:\s]|$)"
)
_NO_CHAT_KINDS: Final = frozenset(
    (
        "embed",
        "embedding",
        "embeddings",
        "text-embedding",
        "text-embeddings",
        "feature-extraction",
        "rerank",
        "reranker",
        "moderation",
        "image",
        "image-generation",
        "text-to-image",
        "audio",
        "speech",
        "text-to-speech",
        "transcription",
        "transcribe",
        "automatic-speech-recognition",
    )
)


def can_chat(row: dict[str, Any]) -> bool:
    """Whether a listed model may answer prompts, judged by its entry, else by its name."""
    kind = row.get("type") or row.get("task") or row.get("model_type")
    able = row.get("capabilities")
    if isinstance(able, dict):
        if able.get("completion_chat") is False or able.get("chat") is False:
            return False
        kind = kind or able.get("type")
    if isinstance(kind, str) and kind.lower() in _NO_CHAT_KINDS:
        return False
    if isinstance(able, list) and able:
        return not _NO_CHAT_KINDS.issuperset(str(a).lower() for a in able)
    shape = row.get("architecture")
    made = shape.get("output_modalities") if isinstance(shape, dict) else None
    if isinstance(made, list) and made:
        return "text" in made
    if isinstance(kind, str):
        return True
    return _NO_CHAT_NAME.search(str(row["id"]).lower()) is None


_EMBED_KINDS: Final = frozenset(k for k in _NO_CHAT_KINDS if k.startswith(("embed", "text-embed")))
_EMBED_NAME: Final = re.compile(r"(^|[-_/.:\s])(embed|embedding|embeddings|embedder)([-_/.:\s]|$)")


def can_embed(row: dict[str, Any]) -> bool:
    """Whether a listed model is made to turn texts into vectors, judged as in `can_chat`."""
    able = row.get("capabilities")
    kinds = [row.get("type"), row.get("task"), row.get("model_type")]
    kinds += able if isinstance(able, list) else []
    kinds += [able.get("type")] if isinstance(able, dict) else []
    said = {kind.lower() for kind in kinds if isinstance(kind, str)} - {"model"}
    if said & (_EMBED_KINDS | {"feature-extraction"}):
        return True
    return not said and _EMBED_NAME.search(str(row["id"]).lower()) is not None


_LISTS: Final = ("data", "models")


def rows_of(listed: object) -> list[dict[str, Any]] | None:
    """The models in a `/models` response, each with its `id`; None if it is not a model list.

    The format is `{"data": [...]}`; some servers send `models` instead, a bare list, names, or a
    map by id. An id that is listed twice counts once.
    """
    if isinstance(listed, dict):
        listed = next((listed[key] for key in _LISTS if key in listed), False)
        if isinstance(listed, dict):
            listed = next((listed[key] for key in _LISTS if key in listed), listed)
        if listed is None:  # an empty list from a server in Go
            return []
        if isinstance(listed, dict) and all(isinstance(row, dict) for row in listed.values()):
            listed = [{"id": name, **row} for name, row in listed.items()]
    if not isinstance(listed, list):
        return None
    rows: dict[str, dict[str, Any]] = {}
    for row in listed:
        if isinstance(row, str) and row:
            rows.setdefault(row, {"id": row})
        elif isinstance(row, dict):
            names = (row.get(key) for key in ("id", "name", "model"))
            ident = next((name for name in names if isinstance(name, str) and name), None)
            if ident is not None:
                rows.setdefault(ident, {**row, "id": ident})
    return list(rows.values())


_LENGTHS: Final = ("max_model_len", "context_length", "context_window", "max_context_length")


def view(row: dict[str, Any], backend: str) -> ModelView:
    """The view of a model from `/models`; `max_model_len` is from vLLM, `meta` from llama.cpp, with
    the context in use (`n_ctx`) and the trained one."""
    meta = row.get("meta")
    meta = meta if isinstance(meta, dict) else {}
    lengths = [*((row, k) for k in _LENGTHS), (meta, "n_ctx"), (meta, "n_ctx_train")]
    owner = row.get("owned_by")
    return ModelView(
        name=row["id"],
        backend=backend,
        size_bytes=count_of(meta.get("size")) or None,
        context_length=next((n for at, k in lengths if (n := count_of(at.get(k)))), None),
        detail=f"by {owner}" if isinstance(owner, str) and owner else "",
    )
