"""The text and the bytes of single tokens. No I/O."""

from __future__ import annotations

import json
import re
from typing import Any, Final

from tokenizers import Tokenizer

_BYTE_TOKEN: Final = re.compile(r"<0x([0-9A-F]{2})>")


def _byte_characters() -> dict[str, int]:
    """The characters that stand for bytes in byte-level BPE (GPT-2, `bytes_to_unicode`)."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in plain]
    shifted = {chr(256 + n): b for n, b in enumerate(others)}
    return {chr(b): b for b in plain} | shifted


_BYTE_OF: Final = _byte_characters()


class TokenTexts:
    """Reads tokens one by one, which a detokenizer cannot: a token may be half a character."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._added = {i: t.content for i, t in tokenizer.get_added_tokens_decoder().items()}
        stated = tokenizer.decoder.__getstate__() if tokenizer.decoder is not None else b"{}"
        kinds = set(_kinds(json.loads(stated)))
        self._is_byte_level = "ByteLevel" in kinds
        self._has_byte_tokens = "ByteFallback" in kinds
        self._has_marked_spaces = bool(kinds & {"Metaspace", "Replace"})

    def raw(self, token: int) -> bytes:
        """The bytes that a token adds to a text; empty for an id without a token."""
        if token in self._added:
            return self._added[token].encode()
        text = self._tokenizer.id_to_token(token) or ""
        if self._is_byte_level and all(c in _BYTE_OF for c in text):
            return bytes(_BYTE_OF[c] for c in text)
        if self._has_byte_tokens and (found := _BYTE_TOKEN.fullmatch(text)):
            return bytes.fromhex(found[1])
        return (text.replace("\u2581", " ") if self._has_marked_spaces else text).encode()


def _kinds(decoder: dict[str, Any]) -> list[str]:
    inner = decoder.get("decoders") or ()
    return [str(decoder.get("type")), *(kind for each in inner for kind in _kinds(each))]
