"""Why a request is not served; the text goes to the client (BEP 3, `failure reason`)."""

from __future__ import annotations


class Refused(Exception):
    """A request that is not served.

    `kind` names the reason in statistics. `text` has no part of the request: it may hold a key.
    """

    def __init__(self, kind: str, text: str, *, retry_min: int | None = None) -> None:
        super().__init__(text)
        self.kind = kind
        self.text = text
        self.retry_min = retry_min
        "Minutes after which the same request may be served (BEP 31); None if it says nothing."
