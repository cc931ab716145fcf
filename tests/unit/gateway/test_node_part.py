"""What only this server says of an answer: layers, hops and speeds."""

from __future__ import annotations

from typing import Any

import pytest

from aitorrent_gateway.openai.totals import node_part
from aitorrentd.api import Chunk, StageView

SPLIT = (StageView("a", 0, 2), StageView("b", 2, 4))
TIMES = {"queue_s": 0.25, "first_token_s": 0.5, "rest_s": 2.0}


@pytest.mark.parametrize(
    ("stages", "extra", "expected"),
    [
        ((), {}, {"stages": []}),
        (
            SPLIT,
            {**TIMES, "hop_us": 820.4, "tokens_per_s": 10.0, "cached_tokens": 20},
            {
                "stages": [[0, 2], [2, 4]],
                "hops": 3,
                "hop_ms": 0.82,
                "queue_ms": 250.0,
                "first_token_ms": 500.0,
                "prefill_tok_s": 160.0,
                "decode_tok_s": 10.0,
            },
        ),
        (
            (),
            TIMES,
            {
                "stages": [],
                "queue_ms": 250.0,
                "first_token_ms": 500.0,
                "prefill_tok_s": 200.0,
                "decode_tok_s": 2.0,
            },
        ),
        (  # what was loaded was not read
            (),
            {**TIMES, "load_duration": 250_000_000},
            {
                "stages": [],
                "queue_ms": 250.0,
                "first_token_ms": 500.0,
                "prefill_tok_s": 400.0,
                "decode_tok_s": 2.0,
            },
        ),
        ((), {"hop_us": "fast", "tokens_per_s": float("nan")}, {"stages": []}),
    ],
    ids=["nothing", "split", "one server", "loaded", "nonsense"],
)
def test_part_of_the_node(
    stages: tuple[StageView, ...], extra: dict[str, Any], expected: dict[str, Any]
) -> None:
    last = Chunk(
        "",
        done=True,
        reason="stop",
        prompt_tokens=100,
        completion_tokens=5,
        stages=stages,
        extra=extra,
    )
    assert node_part(last) == expected
