"""What the HTTP server measures: requests by route and status. A path is never a label."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from aitorrentd.api.monitoring.families import ANSWER_S, counter, histogram
from aitorrentd.api.monitoring.metrics import Histogram, Metric

REQUESTS: Final = counter(
    "aitorrent_http_requests_total",
    "HTTP requests that were answered or cut off, by the template of their route; none if no route"
    " has the path, or if they were refused before it was known.",
    "route",
    "code",
    max_series=512,
)
SECONDS: Final = histogram(
    "aitorrent_http_seconds",
    "From a request to the end of its answer.",
    "route",
    buckets=ANSWER_S,
    max_series=128,
)
FAMILIES: Final = (REQUESTS, SECONDS)
NO_ROUTE: Final = "none"


class HttpMetrics:
    """The metrics of one server."""

    def __init__(self) -> None:
        self._requests, self._seconds = Metric(REQUESTS), Histogram(SECONDS)

    def answered(self, route: str, status: int, took_s: float) -> None:
        """A request ended; status 499 if its client left before an answer began."""
        self._requests.at(route, str(status)).add()
        self._seconds.at(route).observe(took_s)

    def refused(self, status: int) -> None:
        """A request was refused before its route was known: too slow, too large, or no HTTP."""
        self._requests.at(NO_ROUTE, str(status)).add()

    def read(self) -> Iterator[Metric]:
        """The metrics now."""
        yield from (self._requests, self._seconds)
