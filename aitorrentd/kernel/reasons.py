"""The reason for a failure, in one line for people."""

from __future__ import annotations

from typing import Final

from aitorrentd.api.plugin import SkipPlugin
from aitorrentd.errors import AitorrentError

MAX_CHARS: Final = 500


def leaves(error: BaseException) -> list[BaseException]:
    """The errors inside exception groups, or the error itself."""
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in leaves(inner)]
    return [error]


def is_explained(error: BaseException) -> bool:
    """Whether the errors' messages suffice, so that a traceback in the log would only be noise."""
    return all(isinstance(leaf, AitorrentError) for leaf in leaves(error))


def reason(error: BaseException) -> str:
    """The first error of a group and the number of others, on one line of bounded length."""
    first, *more = leaves(error)
    text = " ".join(_text(first).split())[:MAX_CHARS]
    if not isinstance(first, (AitorrentError, SkipPlugin)) or not text:
        text = f"{type(first).__name__}: {text}" if text else type(first).__name__
    return f"{text} (and {len(more)} more)" if more else text


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:
        # a plugin's own exception class may fail to format itself
        return "no description"
