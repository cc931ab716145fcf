"""A model's tokenizer: text and conversations to ids, which ids end an answer, defaults.

Reads tokenizer.json, tokenizer_config.json, chat_template.jinja, generation_config.json and
config.json as `transformers` does. No torch. Loading and encoding are blocking.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tokenizers import Tokenizer

from aitorrent_shards.models.chat_template import ChatTemplate
from aitorrent_shards.models.detokenizer import Detokenizer
from aitorrent_shards.models.folder import ModelFiles, read_json
from aitorrentd.api import InvalidParams, NotFound

THREAD_ABOVE_CHARS: Final = 2_000
"Longer prompts are encoded in a thread."
_ROLES: Final = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token")
_MAX_TEMPLATE_BYTES: Final = 2**20


@dataclass(frozen=True, slots=True)
class SamplingDefaults:
    """What the model's makers recommend, from generation_config.json."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0


class ModelTokenizer:
    """Text in, ids out, and back."""

    def __init__(self, files: ModelFiles, *, model: str) -> None:
        """Load everything; blocking.

        Raises:
            InvalidParams: a file is damaged.
        """
        path = files.path
        try:
            self._tokenizer: Tokenizer = Tokenizer.from_file(str(path / "tokenizer.json"))
        except Exception as e:
            if type(e) is not Exception:  # the Rust library raises the bare class
                raise
            raise InvalidParams(f"{path / 'tokenizer.json'} is damaged: {e}") from None
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        settings = _optional(path / "tokenizer_config.json")
        generation = _optional(path / "generation_config.json")
        self._model, self._vocab = model, files.vocab
        tokens = {role: t for role in _ROLES if (t := _token_text(settings.get(role)))}
        self._bos = self._id(tokens.get("bos_token"))
        self._eos = self._id(tokens.get("eos_token"))
        self._add_bos = settings.get("add_bos_token")
        template = _template_text(path, settings)
        self._template = ChatTemplate(template, tokens, model=model) if template else None
        ends = generation.get("eos_token_id", files.settings.get("eos_token_id"))
        self._ends = frozenset(_ids(ends))
        self.defaults = _defaults(generation)

    @property
    def end_ids(self) -> frozenset[int]:
        """Tokens that end an answer; the end of a turn too, where there are turns."""
        if self._template is not None and self._eos is not None:
            return self._ends | {self._eos}
        return self._ends

    def detokenizer(self, before: Sequence[int]) -> Detokenizer:
        """Turns the tokens after `before` into text."""
        return Detokenizer(self._tokenizer, before)

    def encode(
        self,
        prompt: str | None,
        messages: Sequence[Mapping[str, str]] = (),
        context: Sequence[int] = (),
        *,
        raw: bool = False,
    ) -> tuple[int, ...]:
        """The ids to start from: `context` first, then a prompt or a conversation.

        A prompt is a user's turn where the model has a chat template, and the text itself where it
        has none or the prompt is `raw`.

        Raises:
            InvalidParams: messages without a chat template, unknown ids in `context`, or nothing.
        """
        if any(not 0 <= i < self._vocab for i in context):
            raise InvalidParams(f"context has ids outside of the vocabulary of {self._vocab}")
        if prompt is not None and self._template is not None and not raw:
            messages = [{"role": "user", "content": prompt}]
        if messages:
            if self._template is None:
                raise InvalidParams(
                    f"{self._model} has no chat template; ask with a prompt instead of messages"
                )
            ids = self._encode(self._template.render(messages), special=False)
        else:
            ids = self._with_bos(self._encode(prompt or "", special=True))
        if context and ids[:1] == [self._bos]:
            ids = ids[1:]
        if any(i >= self._vocab for i in ids):
            raise InvalidParams(f"the tokenizer of {self._model} has ids that the model lacks")
        whole = (*context, *ids)
        if not whole:
            raise InvalidParams("the prompt is empty; say something")
        return whole

    def _encode(self, text: str, *, special: bool) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=special).ids
        return ids

    def _with_bos(self, ids: list[int]) -> list[int]:
        """Some tokenizer.json leave the first token to add_bos_token of tokenizer_config.json."""
        if self._add_bos is True and self._bos is not None and ids[:1] != [self._bos]:
            return [self._bos, *ids]
        return ids

    def _id(self, token: str | None) -> int | None:
        found: int | None = None if token is None else self._tokenizer.token_to_id(token)
        return found


def _optional(path: Path) -> dict[str, Any]:
    try:
        return read_json(path)
    except NotFound:
        return {}


def _token_text(value: object) -> str:
    """A special token is a text, or a map with its text under `content`."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else ""


def _template_text(path: Path, settings: Mapping[str, Any]) -> str:
    file = path / "chat_template.jinja"
    if file.is_file():
        try:
            if file.stat().st_size <= _MAX_TEMPLATE_BYTES:
                return file.read_text("utf-8")
        except (OSError, ValueError) as e:
            raise InvalidParams(f"{file} cannot be read: {e}") from None
        raise InvalidParams(f"{file} is larger than {_MAX_TEMPLATE_BYTES} bytes")
    value = settings.get("chat_template")
    if isinstance(value, list):
        named = {t.get("name"): t.get("template") for t in value if isinstance(t, dict)}
        value = named.get("default")
    return value if isinstance(value, str) else ""


def _ids(value: object) -> list[int]:
    values = value if isinstance(value, list) else [value]
    return [v for v in values if type(v) is int]


def _defaults(generation: Mapping[str, Any]) -> SamplingDefaults:
    if generation.get("do_sample") is not True:
        return SamplingDefaults()

    def number(key: str, default: float, low: float, high: float) -> float:
        value = generation.get(key)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return default
        return float(value) if low <= value <= high else default

    return SamplingDefaults(
        temperature=number("temperature", 1.0, 0.0, 100.0),
        top_k=int(number("top_k", 50, 0, 2**31)),
        top_p=number("top_p", 1.0, 1e-6, 1.0),
    )
