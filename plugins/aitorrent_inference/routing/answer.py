"""An answer in progress: what came of it, how long it took, and why it is empty if it is."""

from __future__ import annotations

from dataclasses import dataclass, field

from aitorrent_inference.metrics import NO_BACKEND
from aitorrent_inference.routing.race import speaks
from aitorrentd.api import Chunk
from aitorrentd.api.models.tools import ToolCall
from aitorrentd.api.monitoring.metrics import Distribution


@dataclass(slots=True)
class Answer:
    """State of an answer in progress, for its summary."""

    model: str = ""
    backend: str = ""
    backend_label: str = NO_BACKEND
    "The backend in metrics."
    gaps: Distribution | None = None
    "Takes the times between its tokens, in seconds."
    asked_s: float = 0.0
    began_s: float = 0.0
    first_token_s: float | None = None
    "Time of the first token, on the answer's clock."
    latest_s: float = 0.0
    "Time of the latest token, on the same clock."
    tokens: int = 0
    "Tokens so far, at least: some backends send several as one."
    last: Chunk | None = None
    "The chunk that ended it."
    failures: list[str] = field(default_factory=list)
    "Candidates that failed, with reasons."
    text_chars: int = 0
    thinking_chars: int = 0
    calls: tuple[ToolCall, ...] = ()
    "The model's calls of tools."

    def take(self, chunk: Chunk, now_s: float) -> None:
        """Count a chunk that arrives at `now_s` on the answer's clock."""
        if not speaks(chunk):
            return
        if self.first_token_s is None:
            self.first_token_s = now_s
        self.text_chars += len(chunk.text)
        self.thinking_chars += len(chunk.thinking)
        if chunk.tool_calls:
            self.calls += chunk.tool_calls
        if chunk.done and not (chunk.text or chunk.thinking or chunk.token_ids or chunk.tool_calls):
            return
        tokens = len(chunk.token_ids) or 1
        if self.tokens and self.gaps is not None:
            self.gaps.observe((now_s - self.latest_s) / tokens, tokens)
        self.tokens += tokens
        self.latest_s = now_s

    def timings(self) -> dict[str, float]:
        """What the last chunk's `extra` says of the answer's time here, in seconds."""
        found = {"queue_s": self.began_s - self.asked_s}
        if self.tokens and self.first_token_s is not None:
            found["first_token_s"] = self.first_token_s - self.began_s
            if self.tokens > 1:
                found["rest_s"] = self.latest_s - self.first_token_s
        return found

    @property
    def note(self) -> str:
        """Why the answer is empty; an empty string if it is not."""
        if self.last is None or self.text_chars or self.calls:
            return ""
        hidden = whole(self.last.extra.get("reasoning_tokens"))
        # Some servers do not count the thinking as part of the answer.
        tokens = max(self.last.completion_tokens, hidden)
        count = f"{tokens} token{'' if tokens == 1 else 's'}"
        is_cut = self.last.reason == "length"
        if not self.thinking_chars and not hidden:
            if is_cut:
                after = f" after {count}" if tokens else ""
                return f"no answer: the token limit came{after} before any text; raise max_tokens"
            received = f"{count} received, none with text" if tokens else "no text received"
            return f"no answer: {received}"
        spent = f"all {count} went" if tokens else "all tokens went"
        if self.thinking_chars and is_cut:
            return f"no answer: {spent} into thinking; raise max_tokens, or ask for the thinking"
        if self.thinking_chars:
            return "no answer: the model ended after thinking; ask for the thinking to see it"
        remedy = "; raise max_tokens" if is_cut else ""
        return f"no answer: {spent} into thinking, which the server does not send{remedy}"


def whole(value: object) -> int:
    """A count of a backend; 0 if it is none."""
    return value if isinstance(value, int) else 0
