"""The options that `ask` and `chat` share."""

from __future__ import annotations

from typing import Annotated, Final

import typer

SAMPLING: Final = "Sampling options"

Model = Annotated[
    str, typer.Option("--model", "-m", help="Model to ask (default: the node's).", metavar="NAME")
]
System = Annotated[str, typer.Option(help="System prompt.", metavar="TEXT")]
Temperature = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=100,
        help="Sampling temperature; 0 = always the most likely token.",
        rich_help_panel=SAMPLING,
    ),
]
TopP = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=1,
        help="Sample from the most likely tokens up to this total probability.",
        rich_help_panel=SAMPLING,
    ),
]
TopK = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Sample from this many most likely tokens; 0 = all.",
        metavar="COUNT",
        rich_help_panel=SAMPLING,
    ),
]
MinP = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=1,
        help="Sample only from tokens at least this fraction as likely as the likeliest.",
        rich_help_panel=SAMPLING,
    ),
]
RepeatPenalty = Annotated[
    float | None,
    typer.Option(
        min=0.01,
        max=100,
        help="Penalise tokens that already occurred, also in the prompt; 1 = off.",
        rich_help_panel=SAMPLING,
    ),
]
PresencePenalty = Annotated[
    float | None,
    typer.Option(
        min=-2,
        max=2,
        help="Penalise tokens that the answer already has; 0 = off.",
        rich_help_panel=SAMPLING,
    ),
]
FrequencyPenalty = Annotated[
    float | None,
    typer.Option(
        min=-2,
        max=2,
        help="Penalise tokens by their count in the answer; 0 = off.",
        rich_help_panel=SAMPLING,
    ),
]
NumCtx = Annotated[
    int | None,
    typer.Option(min=1, help="Context length in tokens that Ollama uses.", metavar="COUNT"),
]
Seed = Annotated[
    int | None,
    typer.Option(
        min=0, help="Random seed; the same seed gives the same answer.", rich_help_panel=SAMPLING
    ),
]
MaxTokens = Annotated[
    int | None,
    typer.Option(
        min=-1, help="Maximum number of new tokens; -1 = the rest of the context.", metavar="COUNT"
    ),
]
Stop = Annotated[
    list[str] | None, typer.Option(help="Stop before this text; repeatable.", metavar="TEXT")
]
Format = Annotated[
    str,
    typer.Option(
        help="Answer in JSON: `json` for any object, or a file with a JSON Schema.",
        metavar="json|FILE",
    ),
]
Backend = Annotated[
    str, typer.Option(help="Use only this backend, or peer:PEERID.", metavar="NAME")
]

Wait = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=86_400,
        help="How long to wait for a model that is loading or lacks layers; 0 = do not wait."
        " Without this option, only a loading model is waited for, up to 120 s.",
        metavar="SECONDS",
    ),
]
Thinking = Annotated[
    bool,
    typer.Option("--thinking", help="Show on stderr what the model thinks before it answers."),
]
