"""Write `docs/reference/` from the code: `python -m tools.reference [--check]`.

Commands, settings, control methods, HTTP paths, metrics and the plugin API, each from its
definition, so that no page can contradict the program. The Grafana dashboard comes from the same
table of metrics.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, cast

from pydantic import BaseModel

from aitorrent_http import openapi
from aitorrentd import Node
from aitorrentd.api.faces.routes import HttpRoute
from aitorrentd.cli.main import main as aitorrentctl
from aitorrentd.config.model import Settings
from aitorrentd.methods.source import Methods
from tools import api_page, dashboard, metrics_page
from tools.manual.pages import TOOL_EXITS
from tools.markdown import rows

ROOT: Final = Path(__file__).parents[1]
PAGES: Final = ROOT / "docs" / "reference"
GOLDEN: Final = ROOT / "tests" / "golden" / "rpc.json"
OPENAPI: Final = ROOT / "tests" / "golden" / "openapi.json"
NOTE: Final = "<!-- Written by tools/reference.py (make docs); edit the code instead. -->\n\n"


def shape(schema: dict[str, Any]) -> str:
    """A JSON Schema type in a few words."""
    if "anyOf" in schema:
        return " or ".join(shape(option) for option in schema["anyOf"])
    if "$ref" in schema:
        return str(schema["$ref"]).rsplit("/", 1)[-1]
    if "enum" in schema:
        return " or ".join(json.dumps(value) for value in schema["enum"])
    if "const" in schema:
        return json.dumps(schema["const"])
    kind = str(schema.get("type", "any"))
    if "prefixItems" in schema:
        return f"[{', '.join(map(shape, schema['prefixItems']))}]"
    if kind == "array":
        return f"list of {shape(schema.get('items', {}))}"
    if kind == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"map of {shape(schema['additionalProperties'])}"
    low = schema.get("minimum", schema.get("exclusiveMinimum"))
    high = schema.get("maximum", schema.get("exclusiveMaximum"))
    if low is not None or high is not None:
        kind += f" {'' if low is None else low}…{'' if high is None else high}"
    return kind


def properties(schema: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    """Name, type, default and description of each property."""
    required = schema.get("required", [])
    found = []
    for name, one in schema.get("properties", {}).items():
        default = "required" if name in required else f"`{json.dumps(one.get('default'))}`"
        found.append((f"`{name}`", shape(one), default, str(one.get("description", ""))))
    return found


def tables(schema: dict[str, Any], title: str) -> str:
    """The properties of a model and of its nested models; `title` heads the first column."""
    parts = []
    if listed := properties(schema):
        parts.append(rows((title, "type", "default", "meaning"), listed))
    for name, below in schema.get("$defs", {}).items():
        if listed := properties(below):
            text = str(below.get("description", "")).strip().split("\n\n")[0]
            table = rows(("key", "type", "default", "meaning"), listed)
            parts.append(f"**{name}**: {text}\n\n{table}")
    return "\n".join(parts)


def described(model: type[BaseModel]) -> str:
    """A model and its nested models as tables."""
    return tables(model.model_json_schema(), "key")


def command_line(*words: str) -> str:
    """The output of a command line."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        code = aitorrentctl([*words, "--help"])
    if code:
        raise RuntimeError(f"aitorrentctl {' '.join(words)} --help ended with {code}")
    return out.getvalue()


def commands_in(help_text: str) -> list[str]:
    """The names below `Commands:` in a help text."""
    listed = help_text.partition("Commands:\n")[2].partition("\n\n")[0]
    lines = [line for line in listed.splitlines() if line.startswith("  ") and line[2] != " "]
    return [line.split()[0] for line in lines]


def commands() -> Iterator[str]:
    """The page of commands."""
    yield "# Commands of aitorrentctl\n\n"
    todo: list[tuple[str, ...]] = [()]
    while todo:
        words = todo.pop(0)
        text = command_line(*words)
        yield f"## {' '.join(('aitorrentctl', *words))}\n\n```text\n{text.rstrip()}\n```\n\n"
        todo = [*[(*words, name) for name in commands_in(text)], *todo]
    yield "## Exit codes\n\n"
    yield rows(("code", "meaning"), [(str(int(c)), text) for c, text in TOOL_EXITS.items()])


def settings(infos: dict[str, Any]) -> Iterator[str]:
    """The page of settings."""
    yield "# Settings\n\nIn `/etc/aitorrent.yaml` and `/etc/aitorrent.yaml.d/*.yaml`, or below "
    yield "`$XDG_CONFIG_HOME/aitorrent/` for a user. `aitorrentctl config check` finds mistakes; "
    yield "`aitorrentctl config set KEY VALUE` writes a drop-in.\n\n"
    yield described(Settings)
    for name, info in sorted(infos.items()):
        yield f"\n## plugins.{name}\n\n{info.summary}\n\n{described(info.config)}"


def methods(found: list[dict[str, Any]]) -> Iterator[str]:
    """The page of control methods."""
    yield "# Control methods\n\nCalled by `aitorrentctl call METHOD key=value`, or by any program "
    yield "over the Unix socket. `rpc.describe` returns their JSON Schemas.\n"
    for one in found:
        stream = ", a stream" if one["stream"] else ""
        yield f"\n## {one['name']}\n\n{one['summary']} Role: {one['role']}{stream}. "
        yield f"Since {one['since']}.\n"
        for what, title in (("params", "parameter"), ("result", "result")):
            if shown := tables(one[what], title):
                yield f"\n{shown}"


def http_paths(routes: list[tuple[str, HttpRoute]]) -> Iterator[str]:
    """The page of HTTP paths."""
    yield "# HTTP paths\n\nWhat the [HTTP server](../http.md) answers, by plugin, and the role "
    yield "that a caller needs. A running node shows the same at `/` and, as OpenAPI 3.1, at "
    yield "`/openapi.json`.\n"
    for plugin in sorted({name for name, _ in routes}):
        yield f"\n## Of the plugin {plugin}\n\n"
        mine = sorted(
            (r for name, r in routes if name == plugin and r.listed), key=lambda route: route.path
        )
        yield rows(
            ("path", "methods", "role", "meaning"),
            [
                (f"`{r.template}`", ", ".join(sorted(r.methods)), r.scope.value, r.summary)
                for r in mine
            ],
        )


async def gather() -> tuple[dict[str, Any], list[dict[str, Any]], list[tuple[str, HttpRoute]]]:
    """The manifests of the built-in plugins, the description of every method, and every route."""
    from aitorrentd.kernel.found import installed

    servers = [{"name": "example", "url": "http://127.0.0.1:9/v1"}]
    tracker = {"enabled": True, "listen": "127.0.0.1", "port": 0}
    config = {
        "plugins": {
            "http": {"port": 0},
            "openai": {"servers": servers},
            "ollama": {"url": "http://127.0.0.1:9"},
            "tracker": tracker,
        }
    }
    async with Node.temporary(config) as node:
        source = Methods(node)
        _, describe = source.method("rpc.describe")
        listed: Any = describe.handler(None, describe.params())  # type: ignore[arg-type]
        mine = [source for source in installed().sources if source.tier == "builtin"]
        infos = {one.name: cast(Any, one.load())().aitorrent_info() for one in mine}
        found = [m for m in listed["methods"] if m["plugin"] in {*infos, "core"}]
        routes = [(plugin, route) for plugin, route in node.kernel.routes() if plugin in infos]
    return infos, found, routes


def pages() -> dict[Path, str]:
    """Every file that this program writes."""
    os.environ["COLUMNS"] = "96"
    os.environ.pop("AITORRENT_SOCKET", None)
    infos, found, routes = asyncio.run(gather())
    texts = {
        PAGES / "commands.md": "".join(commands()),
        PAGES / "settings.md": "".join(settings(infos)),
        PAGES / "methods.md": "".join(methods(found)),
        PAGES / "paths.md": "".join(http_paths(routes)),
        PAGES / "api.md": "".join(api_page.page(infos)),
        PAGES / "metrics.md": "".join(metrics_page.page()),
    }
    out = {path: NOTE + text for path, text in texts.items()}
    out[GOLDEN] = json.dumps(found, indent=1, sort_keys=True) + "\n"
    out[OPENAPI] = json.dumps(openapi.document(routes, "0"), indent=1) + "\n"
    out[dashboard.FILE] = dashboard.text()
    return out


def main() -> int:
    """Write the pages, or with --check list the stale ones."""
    stale = [p for p, text in pages().items() if not p.exists() or p.read_text() != text]
    if "--check" in sys.argv[1:]:
        for path in stale:
            print(f"{path.relative_to(ROOT)} does not match the code; run: make docs")
        return 1 if stale else 0
    PAGES.mkdir(parents=True, exist_ok=True)
    for path, text in pages().items():
        path.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
