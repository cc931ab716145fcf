"""The reference page of metrics, from the families that the node and its plugins declare."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

from aitorrentd.api.monitoring.families import Family
from aitorrentd.kernel import measuring as kernel
from aitorrentd.kernel.found import installed
from aitorrentd.runtime import measuring as node
from tools.markdown import rows


def families() -> dict[str, tuple[Family, ...]]:
    """The families by who measures them: the node, then the built-in plugins by name."""
    found: dict[str, tuple[Family, ...]] = {"node": (*node.FAMILIES, *kernel.FAMILIES)}
    mine = [source for source in installed().sources if source.tier == "builtin"]
    for source in sorted(mine, key=lambda one: one.name):
        info: Any = cast(Any, source.load())().aitorrent_info()
        if info.metrics:
            found[source.name] = info.metrics
    return found


def page() -> Iterator[str]:
    """The page."""
    yield "# Metrics\n\nWhat `/metrics` and `aitorrentctl metrics` show; see "
    yield "[monitoring](../monitoring.md). A family has at most so many series: what exceeds that "
    yield "is counted with the label value `other`.\n"
    for who, listed in families().items():
        title = "Of the node" if who == "node" else f"Of the plugin {who}"
        yield f"\n## {title}\n\n"
        yield rows(
            ("name", "type", "labels", "series", "meaning"),
            [
                (
                    f"`{f.name}`",
                    f.kind,
                    ", ".join(f.labels),
                    str(f.max_series if f.labels else 1),
                    f.help,
                )
                for f in listed
            ],
        )
