"""What the answers of this node are measured by."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from aitorrentd.api import GenerationEnded
from aitorrentd.api.monitoring.families import ANSWER_S, OTHER, counter, gauge, histogram
from aitorrentd.api.monitoring.metrics import Distribution, Histogram, Metric

GENERATIONS: Final = counter(
    "aitorrent_generations_total",
    "Answers that ended: stop, length, tool_calls, cancelled or error; busy if none began because "
    "there was no place.",
    "backend",
    "reason",
    max_series=128,
)
RUNNING: Final = gauge("aitorrent_generations_running", "Answers that are being produced.")
QUEUED: Final = gauge(
    "aitorrent_generations_queued", "Requests that wait for a model to load, or for others to end."
)
QUEUE: Final = histogram(
    "aitorrent_queue_seconds", "From a request to the start of its answer.", buckets=ANSWER_S
)
FIRST_TOKEN: Final = histogram(
    "aitorrent_time_to_first_token_seconds",
    "From the start of an answer to its first output.",
    "backend",
    buckets=ANSWER_S,
    max_series=32,
)
INTER_TOKEN: Final = histogram(
    "aitorrent_inter_token_seconds",
    "Between two tokens of an answer, after the first.",
    "backend",
    max_series=32,
)
WHOLE: Final = histogram(
    "aitorrent_generation_seconds",
    "From the start of an answer to its end.",
    "backend",
    buckets=ANSWER_S,
    max_series=32,
)
PROMPT: Final = counter(
    "aitorrent_prompt_tokens_total",
    "Tokens of prompts, by model; those of peers' models are other.",
    "model",
    max_series=32,
)
CACHED: Final = counter(
    "aitorrent_prompt_tokens_cached_total", "Tokens of prompts that a cache spared."
)
COMPLETION: Final = counter(
    "aitorrent_completion_tokens_total",
    "Tokens of answers, by model; those of peers' models are other.",
    "model",
    max_series=32,
)
FAMILIES: Final = (
    GENERATIONS,
    RUNNING,
    QUEUED,
    QUEUE,
    FIRST_TOKEN,
    INTER_TOKEN,
    WHOLE,
    PROMPT,
    CACHED,
    COMPLETION,
)

PEER: Final = "peer"
"The label of every backend that is a peer: a peer id is never a label."
NO_BACKEND: Final = "none"
"The label of a request that nothing could answer."


class GenerationMetrics:
    """The metrics of one router."""

    def __init__(self) -> None:
        self.running = self.queued = 0
        self._ended = Metric(GENERATIONS)
        self._queue = Histogram(QUEUE)
        self._first_token = Histogram(FIRST_TOKEN)
        self._inter_token = Histogram(INTER_TOKEN)
        self._whole = Histogram(WHOLE)
        self._prompt, self._cached = Metric(PROMPT), Metric(CACHED)
        self._completion = Metric(COMPLETION)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count a request that waits."""
        self.queued += 1
        try:
            yield
        finally:
            self.queued -= 1

    @contextmanager
    def answering(self) -> Iterator[None]:
        """Count an answer that is produced."""
        self.running += 1
        try:
            yield
        finally:
            self.running -= 1

    def gaps(self, backend: str) -> Distribution:
        """The times between tokens of a backend, in seconds."""
        return self._inter_token.at(backend)

    def ended(self, event: GenerationEnded, backend: str) -> None:
        """An answer ended; `backend` is its label."""
        self._ended.at(backend, event.reason).add()
        if backend == NO_BACKEND:
            return
        self._queue.at().observe(event.queue_s)
        self._whole.at(backend).observe(event.took_s)
        if event.first_token_s is not None:
            self._first_token.at(backend).observe(event.first_token_s)
        # Only what is here: anybody may name any model, and peers name theirs as they like.
        model = OTHER if backend == PEER else event.model
        self._prompt.at(model).add(event.prompt_tokens)
        self._completion.at(model).add(event.completion_tokens)
        self._cached.at().add(event.cached_tokens)

    def read(self) -> Iterator[Metric]:
        """The metrics now."""
        yield self._ended
        yield Metric.of(RUNNING, self.running)
        yield Metric.of(QUEUED, self.queued)
        yield from (self._queue, self._first_token, self._inter_token, self._whole)
        yield from (self._prompt, self._cached, self._completion)
