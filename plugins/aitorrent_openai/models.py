"""The models that a server lists: which answer prompts, and how they are shown. No I/O."""

from __future__ import annotations

import re
from typing import Any, Final

from aitorrentd.api import ModelView
from aitorrentd.api.fields import whole_or

# Name parts of models that turn text into something other than an answer.
_NO_CHAT_NAME: Final = re.compile(
    r"(^|[-_/.:\s])(embed|embedding|embeddings|rerank|reranker|whisper|tts|dall-e|moderation)"
    r"([-_/.:\s]|$)"
)
_NO_CHAT_KINDS: Final = frozenset(
    ("embedding", "embeddings", "rerank", "reranker", "moderation", "image", "audio")
)


def can_chat(row: dict[str, Any]) -> bool:
    """Whether a listed model may answer prompts, judged by its entry, else by its name."""
    kind = row.get("type") or row.get("task") or row.get("model_type")
    if isinstance(kind, str) and kind.lower() in _NO_CHAT_KINDS:
        return False
    able = row.get("capabilities")
    if isinstance(able, dict) and able.get("completion_chat") is False:
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


def rows_of(listed: object) -> list[dict[str, Any]] | None:
    """The models in a `/models` response, each with its `id`; None if it is not a model list.

    The format is `{"data": [...]}`; some servers send `models` instead, a bare list, or names.
    """
    if isinstance(listed, dict):
        listed = next((listed[k] for k in ("data", "models") if k in listed), False)
        if listed is None:  # an empty list from a server in Go
            return []
    if not isinstance(listed, list):
        return None
    rows = []
    for row in listed:
        if isinstance(row, str):
            rows.append({"id": row})
        elif isinstance(row, dict):
            names = (row.get(key) for key in ("id", "name", "model"))
            ident = next((name for name in names if isinstance(name, str) and name), None)
            if ident is not None:
                rows.append({**row, "id": ident})
    return rows


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
        size_bytes=whole_or(meta, "size", None),
        context_length=next((n for at, k in lengths if (n := whole_or(at, k, 0))), None),
        detail=f"by {owner}" if isinstance(owner, str) and owner else "",
    )
