"""Images in a conversation: as base64, as a data URL (RFC 2397), or as a URL. No I/O."""

from __future__ import annotations

import binascii
from base64 import b64decode
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Final

from pydantic import AfterValidator

_SIGNATURES: Final = (
    (b"\x89PNG", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF8", "image/gif"),
    (b"BM", "image/bmp"),
)
_HEAD_CHARS: Final = 64


@dataclass(frozen=True, slots=True)
class Picture:
    """One image."""

    url: str
    "A data URL, or a URL that the server fetches."
    base64: str | None
    "Its bytes, or None when only a URL is known."

    @classmethod
    def of(cls, text: str) -> Picture:
        """The image that `text`, already validated, stands for."""
        if text.startswith(("http://", "https://")):
            return cls(text, None)
        if text.startswith("data:"):
            return cls(text, text.partition(",")[2])
        return cls(f"data:{_kind_of(text)};base64,{text}", text)


def _kind_of(text: str) -> str:
    head = b64decode(text[:_HEAD_CHARS])
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "image/webp"
    return next((kind for start, kind in _SIGNATURES if head.startswith(start)), "image/png")


def _checked(text: str) -> str:
    if text.startswith(("http://", "https://")):
        return text
    head, is_data, body = text.partition(",") if text.startswith("data:") else ("", "", text)
    if text.startswith("data:") and not (is_data and head.endswith(";base64")):
        raise ValueError("the data URL of an image must be base64")
    try:
        b64decode(body, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("neither base64, nor a data URL, nor an http URL") from None
    if not body:
        raise ValueError("an empty image")
    return text


Image = Annotated[str, AfterValidator(_checked)]
"An image as text: base64, `data:image/png;base64,…` or a URL."

_TEXTS: Final = ("text", "input_text", "output_text")
_IMAGES: Final = ("image_url", "input_image", "image")


def joined_parts(parts: Iterable[Any]) -> tuple[str, list[str]]:
    """(text, images) of a content given in parts.

    Raises:
        ValueError: a part is neither text nor image.
    """
    text, images = "", []
    for part in parts:
        if isinstance(part, str):
            text += part
            continue
        kind = part.get("type", "text") if isinstance(part, dict) else None
        if kind in _TEXTS and isinstance(part.get("text"), str):
            text += part["text"]
        elif kind in _IMAGES:
            images.append(_image_of(part))
        elif kind in _TEXTS:
            raise ValueError("a part of type text without a text")
        elif kind is None:
            raise ValueError("a part that is neither a text nor an object with a type")
        else:
            raise ValueError(
                f"a part of type {str(kind)[:32]!r}; parts are of type text or image_url"
            )
    return text, images


def _image_of(part: dict[str, Any]) -> str:
    found = part.get("image_url", part.get("image"))
    if isinstance(found, dict):
        found = found.get("url")
    if not isinstance(found, str):
        raise ValueError("an image part without a url")
    return found
