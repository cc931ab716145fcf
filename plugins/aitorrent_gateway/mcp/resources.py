"""Resources: the node's state under addresses of its own, as JSON. No I/O."""

from __future__ import annotations

import re
from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import unquote

JSON: Final = "application/json"
_MOST_URI_CHARS: Final = 1024


@dataclass(frozen=True, slots=True)
class Resource:
    """What a control method tells, as a resource."""

    uri: str
    "With `{part}` for a template."
    name: str
    description: str
    method: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    takes: str = ""
    "Of a template: the argument that gets the part."
    rows: tuple[str, ...] = ()
    "Of a template that takes nothing: the lists whose rows have the part as their `name`."

    def listed(self) -> dict[str, Any]:
        """As the lists show it."""
        key = "uriTemplate" if "{" in self.uri else "uri"
        return {
            key: self.uri,
            "name": self.name,
            "description": self.description,
            "mimeType": JSON,
        }


RESOURCES: Final = (
    Resource("aitorrent://status", "status", "The node at a glance.", "node.status"),
    Resource("aitorrent://peers", "peers", "Connected peers.", "transport.peers"),
    Resource(
        "aitorrent://models",
        "models",
        "Models that can answer now, and those that cannot yet.",
        "inference.models",
    ),
    Resource("aitorrent://logs", "logs", "The last 200 log records.", "node.logs", {"lines": 200}),
    Resource("aitorrent://config", "config", "The configuration, without secrets.", "config.show"),
)
TEMPLATES: Final = (
    Resource(
        "aitorrent://peer/{id}",
        "peer",
        "How a peer is connected, and why.",
        "transport.why",
        takes="peer",
    ),
    Resource(
        "aitorrent://model/{name}",
        "model",
        "One model: who has it, or what it lacks.",
        "inference.models",
        rows=("models", "pending"),
    ),
)


def find(uri: str, allowed: Container[str]) -> tuple[Resource, str] | None:
    """The resource at an address, if its method is among `allowed`, and the part of a template."""
    if len(uri) > _MOST_URI_CHARS:
        return None
    for resource in (*RESOURCES, *TEMPLATES):
        head, brace, _ = resource.uri.partition("{")
        if resource.method not in allowed:
            continue
        if not brace and uri == head:
            return resource, ""
        if brace and uri.startswith(head) and re.fullmatch(r"[^?#]+", uri[len(head) :]):
            return resource, unquote(uri[len(head) :])
    return None
