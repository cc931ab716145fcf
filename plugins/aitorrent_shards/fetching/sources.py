"""What a model is added from: a name such as `hf://org/name@revision`, or a model's digest."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from aitorrentd.api.models.weights import is_sha256

_NAME: Final = re.compile(r"([a-z][a-z0-9+-]{0,31}):(?://)?([^\s@]{1,512})(?:@([^\s@]{1,256}))?")


@dataclass(frozen=True, slots=True)
class Source:
    """A parsed source; `scheme` is empty for a digest."""

    scheme: str
    name: str
    revision: str = ""

    @property
    def is_digest(self) -> bool:
        """Whether the name is a model's digest, which peers resolve."""
        return not self.scheme

    @property
    def shown(self) -> str:
        """As people write it; a digest by its first digits."""
        if self.is_digest:
            return self.name[:12]
        return f"{self.scheme}://{self.name}" + (f"@{self.revision}" if self.revision else "")


def parse_source(text: str) -> Source:
    """The source that people wrote.

    Raises:
        ValueError: another text.
    """
    if is_sha256(text.lower()):
        return Source("", text.lower())
    match = _NAME.fullmatch(text)
    if match is None or not match[2].strip("/"):
        raise ValueError(
            f"{text!r} is not a source of a model; write hf://ORG/NAME, hf://ORG/NAME@REVISION,"
            " or the 64 hexadecimal digits of a model's digest"
        )
    return Source(match[1], match[2].strip("/"), match[3] or "")
