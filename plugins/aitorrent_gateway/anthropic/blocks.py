"""Single content blocks of Anthropic's messages, as text and images. No I/O."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from aitorrent_gateway.core.fields import is_inside, text_of, wrong

_MEDIA: Final = frozenset({"image/gif", "image/jpeg", "image/png", "image/webp"})
Block = Mapping[str, Any]
"A content block of a request."


@dataclass(frozen=True, slots=True)
class Said:
    """What a block says to the model."""

    text: str = ""
    images: tuple[str, ...] = ()
    "Data URLs."


def blocks_of(where: str, content: object) -> list[Block]:
    """The blocks of a content, which may also be a text.

    Raises:
        InvalidParams: it is neither.
    """
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if not isinstance(content, list):
        raise wrong(where, "must be a string or a list of content blocks")
    for index, block in enumerate(content):
        if not isinstance(block, dict) or not isinstance(block.get("type"), str):
            raise wrong(f"{where}[{index}]", "must be a content block with a type")
    return content


def said(where: str, block: Block) -> Said | None:
    """What a block of text, an image or a document says; None for a block of another type.

    Raises:
        InvalidParams: a part of it is missing, is not in the request, or is no text.
    """
    reader = _READERS.get(block["type"])
    return None if reader is None else reader(where, block)


def joined(where: str, content: object) -> Said:
    """What a content says that must not have blocks of other types.

    Raises:
        InvalidParams: as `said`, or a block is of another type.
    """
    texts, images = [], list[str]()
    for index, block in enumerate(blocks_of(where, content)):
        found = said(f"{where}[{index}]", block)
        if found is None:
            raise unknown_type(f"{where}[{index}]", block)
        texts.append(found.text)
        images += found.images
    return Said("".join(texts), tuple(images))


def unknown_type(where: str, block: Block) -> Exception:
    """The error about a block that must not be at this place."""
    return wrong(where, f"has the type {block['type'][:40]!r}, which is not supported here")


def _text(where: str, block: Block) -> Said:
    return Said(text_of(f"{where}.text", block.get("text")))


def _image(where: str, block: Block) -> Said:
    source = _source(where, block)
    kind = source.get("type")
    if kind == "base64":
        media = source.get("media_type")
        if media not in _MEDIA:
            raise wrong(f"{where}.source.media_type", f"must be one of {', '.join(sorted(_MEDIA))}")
        return Said(
            images=(f"data:{media};base64,{text_of(f'{where}.source.data', source.get('data'))}",)
        )
    if kind == "url" and is_inside(url := source.get("url")):
        return Said(images=(url,))
    if kind == "url":
        raise wrong(f"{where}.source.type", "must be base64; the server fetches no URLs")
    raise wrong(f"{where}.source", "must be of the type base64; send the image in the request")


def _document(where: str, block: Block) -> Said:
    source = _source(where, block)
    kind = source.get("type")
    if kind == "text":
        inner = Said(text_of(f"{where}.source.data", source.get("data")))
    elif kind == "content":
        inner = joined(f"{where}.source.content", source.get("content"))
    else:
        raise wrong(f"{where}.source", "must be of the type text; send the text of the document")
    heads = [block[key] for key in ("title", "context") if isinstance(block.get(key), str)]
    return Said("\n".join([*heads, inner.text]), inner.images)


def _search_result(where: str, block: Block) -> Said:
    heads = [block[key] for key in ("title", "source") if isinstance(block.get(key), str)]
    inner = joined(f"{where}.content", block.get("content"))
    return Said("\n".join([*heads, inner.text]), inner.images)


def _tool_reference(where: str, block: Block) -> Said:
    return Said(
        f"The tool {text_of(f'{where}.tool_name', block.get('tool_name'))} is available now."
    )


def _compaction(where: str, block: Block) -> Said:
    """A summary that stands for earlier turns."""
    content = block.get("content")
    return Said(content if isinstance(content, str) else "")


def _source(where: str, block: Block) -> Mapping[str, Any]:
    source = block.get("source")
    if not isinstance(source, dict):
        raise wrong(f"{where}.source", "must be an object")
    return source


_READERS: Final[dict[str, Callable[[str, Block], Said]]] = {
    "text": _text,
    "image": _image,
    "document": _document,
    "search_result": _search_result,
    "tool_reference": _tool_reference,
    "compaction": _compaction,
}
