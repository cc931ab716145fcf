"""A model's tokenizer: encodes text and conversations, knows the end tokens and defaults.

Reads tokenizer.json, tokenizer_config.json, chat_template.jinja, generation_config.json and
config.json as `transformers` does. No torch. Loading and encoding are blocking.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from tokenizers import Tokenizer

from aitorrent_shards.models.chat_template import ChatTemplate
from aitorrent_shards.models.detokenizer import Detokenizer
from aitorrent_shards.models.folder import CONFIG, ModelFiles, read_optional_json
from aitorrent_shards.models.generation_config import read_generation
from aitorrent_shards.models.special_tokens import read_special_tokens
from aitorrentd.api import InvalidParams

THREAD_ABOVE_CHARS: Final = 2_000
"Longer prompts are encoded in a thread."
_MAX_TEMPLATE_BYTES: Final = 2**20


class ModelTokenizer:
    """Converts text to ids and back."""

    def __init__(self, files: ModelFiles, *, model: str) -> None:
        """Load everything; blocking.

        Raises:
            InvalidParams: a file is damaged, or needs an unsupported feature.
        """
        path = files.path
        try:
            self._tokenizer: Tokenizer = Tokenizer.from_file(str(path / "tokenizer.json"))
        except Exception as e:
            if type(e) is not Exception:  # the Rust library raises plain Exception
                raise
            raise InvalidParams(f"{path / 'tokenizer.json'} is damaged: {e}") from None
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        settings = read_optional_json(path / "tokenizer_config.json")
        self._model, self._vocab = model, files.vocab
        special = read_special_tokens(path, settings)
        special.complete(self._tokenizer)
        self._bos = self._id(special.names.get("bos_token"))
        self._eos = self._id(special.names.get("eos_token"))
        self._add_bos = settings.get("add_bos_token")
        template = _template_text(path, settings)
        self._template = ChatTemplate(template, special.names, model=model) if template else None
        generation = path / "generation_config.json"
        # Without that file, such settings may be in config.json.
        stated = read_optional_json(generation)
        self.generation = read_generation(
            stated or files.settings, str(generation if stated else path / CONFIG)
        )
        if "eos_token_id" in stated or not stated:
            self._ends = self.generation.end_ids
        else:
            self._ends = frozenset(_ids(files.settings.get("eos_token_id")))

    @property
    def end_ids(self) -> frozenset[int]:
        """Tokens that end an answer, including the end-of-turn token of chat models."""
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
        """The initial ids: `context`, then a prompt or a conversation.

        A prompt is a user turn if the model has a chat template, and plain text if it has none or
        the prompt is `raw`.

        Raises:
            InvalidParams: messages without a chat template, unknown ids in `context`, or nothing.
        """
        if any(not 0 <= i < self._vocab for i in context):
            raise InvalidParams(f"context has ids outside the vocabulary of {self._vocab}")
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
            raise InvalidParams(
                f"the tokenizer of {self._model} has ids that are outside the model's vocabulary"
            )
        whole = (*context, *ids)
        if not whole:
            raise InvalidParams("the prompt is empty; say something")
        return whole

    def _encode(self, text: str, *, special: bool) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=special).ids
        return ids

    def _with_bos(self, ids: list[int]) -> list[int]:
        """Some tokenizer.json files leave BOS to add_bos_token in tokenizer_config.json."""
        if self._add_bos is True and self._bos is not None and ids[:1] != [self._bos]:
            return [self._bos, *ids]
        return ids

    def _id(self, token: str | None) -> int | None:
        found: int | None = None if token is None else self._tokenizer.token_to_id(token)
        return found


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
