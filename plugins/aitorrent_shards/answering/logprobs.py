"""Exact log-probabilities of the chosen tokens, from the last stage's candidates. No I/O.

They are those of the model: the softmax of the unedited logits, as OpenAI, vLLM and llama.cpp
report them by default. The log-sum-exp that comes with candidates is that at the temperature of the
answer, so at another temperature than 1 the last stage is asked for the other one.
"""

from __future__ import annotations

from collections.abc import Callable

from aitorrent_shards.protocol.messages import Candidates, Want
from aitorrentd.api import ProtocolError
from aitorrentd.api.models.logprobs import TokenLogprob

_EXCESS = 1e-3
"As in the sampler: float32 rounding of a sum over a large vocabulary stays far below."


class Scorer:
    """Scores the tokens of one answer; `raw` gives the bytes of a token."""

    def __init__(self, top: int, temperature: float, raw: Callable[[int], bytes]) -> None:
        self.top = top
        self._is_plain = temperature in (0.0, 1.0)
        self._raw = raw

    def lacks(self, token: int, chosen: Candidates, vocab: int) -> Want | None:
        """What to request besides the candidates that `token` was chosen from."""
        if token not in chosen.ids:
            return Want(0, 1.0)
        enough = self._is_plain and len(chosen.ids) >= min(self.top, vocab)
        return None if enough else Want(min(max(self.top, 1), vocab), 1.0)

    def score(self, token: int, chosen: Candidates, plain: Candidates) -> TokenLogprob:
        """The log-probability of `token`; `plain` has the log-sum-exp at temperature 1.

        Raises:
            ProtocolError: the log-sum-exp contradicts the logits.
        """
        source = chosen if token in chosen.ids else plain
        logit = source.logits[source.ids.index(token)]
        if max(logit, plain.logits[0]) - plain.lse > _EXCESS:
            raise ProtocolError("a candidate's probability is above 1")
        best = zip(plain.ids[: self.top], plain.logits, strict=False)
        top = tuple(self._entry(ident, x - plain.lse) for ident, x in best)
        return self._entry(token, logit - plain.lse, top)

    def _entry(
        self, token: int, logprob: float, top: tuple[TokenLogprob, ...] = ()
    ) -> TokenLogprob:
        raw = self._raw(token)
        return TokenLogprob(raw.decode("utf-8", "replace"), min(logprob, 0.0), token, raw, top)
