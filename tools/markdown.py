"""Markdown for the generated pages."""

from __future__ import annotations

from collections.abc import Sequence


def rows(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table."""
    safe = [[cell.replace("|", "\\|").replace("\n", " ") for cell in line] for line in lines]
    body = [f"| {' | '.join(line)} |" for line in safe]
    return "\n".join([f"| {' | '.join(header)} |", "|" + "---|" * len(header), *body]) + "\n"
