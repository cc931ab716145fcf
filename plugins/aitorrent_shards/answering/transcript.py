"""The transcript of an answer: its prompt, the tokens decided so far, how they are sent. No I/O.

Together with the seed it fixes the answer: committed tokens are facts that no later event changes.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

from aitorrent_shards.answering.sampler import Sampling
from aitorrent_shards.hops.sender import HopMessage
from aitorrent_shards.protocol.messages import Want
from aitorrent_shards.routing.planner import prefill_chunks
from aitorrentd.api import InvalidParams

DEFAULT_MAX_TOKENS = 256


@dataclass(slots=True)
class Transcript:
    """Prompt, choices so far, and the rules by which the next ones are made."""

    prompt: tuple[int, ...]
    sampling: Sampling
    max_tokens: int
    stop_ids: frozenset[int]
    vocab: int
    committed: list[int] = field(default_factory=list)
    "New tokens, the end token included."

    @property
    def max_positions(self) -> int:
        """Positions that every stage must have room for."""
        return len(self.prompt) + self.max_tokens

    def prefill(self, *, chunk: int) -> list[HopMessage]:
        """The prompt as hop messages; only the last one wants candidates."""
        messages, pos = [], 0
        for n in prefill_chunks(len(self.prompt), chunk=chunk):
            last = pos + n == len(self.prompt)
            want = self.sampling.want(self.vocab) if last else None
            messages.append(ids_message(pos, self.prompt[pos : pos + n], want))
            pos += n
        return messages

    def step(self) -> HopMessage:
        """The newest token as a hop message."""
        pos = len(self.prompt) + len(self.committed) - 1
        return ids_message(pos, self.committed[-1:], self.sampling.want(self.vocab))

    def commit(self, token: int) -> str:
        """Note a decided token; returns why the answer ends here, or an empty text."""
        self.committed.append(token)
        if token in self.stop_ids:
            return "stop"
        return "length" if len(self.committed) >= self.max_tokens else ""


def ids_message(pos: int, ids: Sequence[int], want: Want | None) -> HopMessage:
    """Token ids for the first stage: u32, little-endian."""
    header: dict[str, object] = {"p": pos, "n": len(ids)}
    if want is not None:
        header["w"] = (want.k, want.temperature)
    return HopMessage(pos, len(ids), header, struct.pack(f"<{len(ids)}I", *ids))


def room_for(prompt: int, max_tokens: int | None, context: int | None, *, model: str) -> int:
    """How many new tokens an answer may have.

    Raises:
        InvalidParams: prompt and new tokens do not fit the model's context together.
    """
    if context is None:
        return max_tokens or DEFAULT_MAX_TOKENS
    if prompt >= context:
        raise InvalidParams(
            f"the prompt has {prompt} tokens and {model} takes {context}, the answer included; "
            "shorten the prompt",
            prompt_tokens=prompt,
            context=context,
        )
    wanted = 1 if max_tokens is None else max_tokens
    if prompt + wanted > context:
        raise InvalidParams(
            f"the prompt has {prompt} tokens, which with max_tokens {wanted} exceeds the context "
            f"of {context} tokens of {model}; shorten the prompt or lower max_tokens",
            prompt_tokens=prompt,
            max_tokens=wanted,
            context=context,
        )
    return min(max_tokens or DEFAULT_MAX_TOKENS, context - prompt)
