"""JSON bodies of requests, from strangers. No I/O."""

from __future__ import annotations

import json
import math
from collections import Counter
from typing import Any, Final, NoReturn

from aitorrentd.api import InvalidParams

MAX_DEPTH: Final = 64
"Of lists and objects in each other."


def json_object(body: bytes) -> dict[str, Any]:
    """The object in a request's body.

    Raises:
        InvalidParams: it is no JSON object, or one that readers understand differently (a key
        twice, NaN, deep nesting).
    """
    try:
        value = json.loads(
            body, object_pairs_hook=_once, parse_constant=_no_number, parse_float=_finite
        )
    except RecursionError:
        raise InvalidParams(f"the body nests more than {MAX_DEPTH} levels") from None
    except UnicodeDecodeError:
        raise InvalidParams("the body is not UTF-8") from None
    except json.JSONDecodeError as e:
        raise InvalidParams(
            f"the body is not valid JSON: {e.msg} at line {e.lineno}, column {e.colno}"
        ) from None
    except ValueError:  # a number of more digits than Python converts
        raise InvalidParams("the body has a number that is too long") from None
    if not isinstance(value, dict):
        raise InvalidParams("the body is not a JSON object")
    if _is_deep(value):
        raise InvalidParams(f"the body nests more than {MAX_DEPTH} levels")
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise InvalidParams(f"the body has the key {twice[:60]!r} twice")
    return found


def _no_number(name: str) -> NoReturn:
    raise InvalidParams(f"the body has {name}, which is not JSON")


def _finite(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):  # which no JSON that is written again could hold
        raise InvalidParams(f"the body has the number {digits[:20]}, which is too large")
    return value


def _is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(MAX_DEPTH):
        below: list[Any] = []
        for each in level:
            if isinstance(each, dict):
                below += each.values()
            elif isinstance(each, list):
                below += each
        level = [each for each in below if isinstance(each, dict | list)]
        if not level:
            return False
    return True
