"""`keep_alive`: how long a model stays in memory, as Ollama's clients write it. No I/O.

A number is seconds. A text is a duration of Go ("5m", "1h30m"); many programs also send a number as
text, which Ollama refuses and this server reads as seconds.
"""

from __future__ import annotations

import math
import re
from typing import Any, Final

from aitorrent_gateway.core.fields import wrong

FOREVER_S: Final = 100 * 365 * 86_400.0
"What is longer counts as for ever."
_UNITS_S: Final = {
    "ns": 1e-9,
    "us": 1e-6,
    "µs": 1e-6,
    "μs": 1e-6,
    "ms": 1e-3,
    "s": 1.0,
    "m": 60.0,
    "h": 3600.0,
}
_NUMBER: Final = r"\d{1,18}(?:\.\d{0,18})?|\.\d{1,18}"
_PART: Final = re.compile(rf"({_NUMBER})(ns|us|µs|μs|ms|s|m|h)", re.ASCII)
_DURATION: Final = re.compile(
    rf"([+-]?)((?:(?:{_NUMBER})(?:ns|us|µs|μs|ms|s|m|h)){{1,8}}|{_NUMBER})", re.ASCII
)


def keep_s(value: Any) -> float | None:
    """Seconds that a model stays in memory after its last use; infinity = it stays; None = the
    client does not say.

    Raises:
        InvalidParams: it is no duration.
    """
    if value is None or value == "":
        return None
    seconds = math.nan
    if type(value) in (int, float):
        seconds = min(value, FOREVER_S + 1)
    elif isinstance(value, str) and (found := _DURATION.fullmatch(value.strip()[:200])):
        parts = _PART.findall(found[2])
        seconds = sum(float(n) * _UNITS_S[unit] for n, unit in parts) if parts else float(found[2])
        seconds *= -1 if found[1] == "-" else 1
    if math.isnan(seconds):
        raise wrong("keep_alive", 'is neither seconds nor a duration such as "5m"')
    return math.inf if seconds < 0 or seconds > FOREVER_S else float(seconds)
