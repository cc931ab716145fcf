"""Metrics as a scraper reads them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final

from aitorrentd.api.monitoring.exposition import text_of
from aitorrentd.node import Node
from tests.support.clients.raw_http import exchange, request

SAMPLE: Final = re.compile(r'([a-zA-Z_:][a-zA-Z0-9_:]*)(\{(?:[^"}]|"(?:[^"\\]|\\.)*")*\})? (\S+)')


@dataclass
class Scrape:
    """One page of metrics."""

    text: str
    values: dict[str, float] = field(default_factory=dict)
    "By name and labels, as written."

    def __post_init__(self) -> None:
        for line in self.text.splitlines():
            if not line.startswith("#"):
                found = SAMPLE.fullmatch(line)
                assert found, f"not a sample: {line!r}"
                name = found[1] + (found[2] or "")
                assert name not in self.values, f"twice: {name}"
                self.values[name] = float(found[3])

    def of(self, name: str) -> dict[str, float]:
        """The series of one name, by their labels as written."""
        return {
            key.removeprefix(name): value
            for key, value in self.values.items()
            if key.partition("{")[0] == name
        }


async def scraped(address: str, **headers: str) -> Scrape:
    """The metrics of a server now."""
    answer = await exchange(address, request("GET", "/metrics", headers))
    assert answer.status == 200, answer.body
    return Scrape(answer.body.decode())


def measured(node: Node) -> Scrape:
    """The metrics of a node in this process now."""
    return Scrape(text_of(node.kernel.metrics()))


def has_no_session(node: Node) -> bool:
    """Whether no answer, of this node or a peer, uses the layers of a node in this process."""
    now = measured(node).values
    return not (now['aitorrent_kv_positions{state="reserved"}'] or now["aitorrent_stage_sessions"])
