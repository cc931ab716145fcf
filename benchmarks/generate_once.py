"""The competitor of `decode.py`: transformers' generate() in one process, one thread, on request.

Reads lines of JSON ({"ids": [...], "new": n}) and answers each with the tokens and the times.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any, cast

import torch
from transformers import AutoModelForCausalLM, LogitsProcessor, LogitsProcessorList


class Clock(LogitsProcessor):  # type: ignore[misc, unused-ignore]
    """Records when each token's logits are ready; changes nothing."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """The logits, unchanged."""
        self.times.append(time.perf_counter())
        return scores


def main() -> None:
    """Load the model in float32 and answer requests."""
    torch.set_num_threads(1)
    model = cast(Any, AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32))
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        ids = torch.tensor([asked["ids"]])
        clock = Clock()
        began = time.perf_counter()
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=asked["new"],
            do_sample=False,
            pad_token_id=0,
            logits_processor=LogitsProcessorList([clock]),
        )
        new = out[0, ids.shape[1] :].tolist()
        answer = {
            "tokens": new,
            "first_s": clock.times[0] - began,
            "decode_s": clock.times[-1] - clock.times[0],
        }
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
