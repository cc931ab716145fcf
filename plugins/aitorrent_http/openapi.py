"""The OpenAPI document of a server, from the routes that plugins declare. No I/O.

Source: spec.openapis.org/oas/v3.1.0. Bodies of requests, answers and errors have the schemas that
routes give.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final

from aitorrentd.api.faces.routes import HttpRoute, Scope

_PART: Final = re.compile(r"\{([a-z_]+)\}")
_BODIES: Final = frozenset({"POST", "PUT", "PATCH"})
_OPENAI_ERROR: Final[dict[str, Any]] = {
    "description": "An error.",
    "content": {
        "application/json": {
            "schema": {
                "type": "object",
                "required": ["error"],
                "properties": {
                    "error": {
                        "type": "object",
                        "required": ["message", "type", "param", "code"],
                        "properties": {
                            "message": {"type": "string"},
                            "type": {"type": "string"},
                            "param": {"type": ["string", "null"]},
                            "code": {"type": "string"},
                        },
                    }
                },
            }
        }
    },
}
_TOKEN: Final = "A token of aitorrentctl token new; programs on the same machine may need none."


def document(
    routes: Iterable[tuple[str, HttpRoute]], version: str, url: str = "/"
) -> dict[str, Any]:
    """The document; `routes` have the names of their plugins, `version` is that of the program.
    `url` is the address of the server; `/` = where the document is."""
    paths: dict[str, dict[str, Any]] = {}
    plugins: list[str] = []
    listed = [(plugin, route) for plugin, route in routes if route.listed]
    for plugin, route in sorted(listed, key=lambda one: one[1].path):
        if plugin not in plugins:
            plugins.append(plugin)
        for method in sorted(route.methods):
            paths.setdefault(route.template, {})[method.lower()] = _operation(plugin, route, method)
    return {
        "openapi": "3.1.0",
        "info": {"title": "aitorrentd", "version": version},
        "servers": [{"url": url}],
        "tags": [{"name": name} for name in sorted(plugins)],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "description": _TOKEN},
                "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            }
        },
    }


def _body(route: HttpRoute) -> dict[str, Any]:
    return {"type": "object"} if route.body is None else dict(route.body())


def _error(route: HttpRoute) -> dict[str, Any]:
    if route.error_body is None:
        return _OPENAI_ERROR
    schema = {"type": "object"} if route.error_schema is None else dict(route.error_schema())
    return {
        "description": "An error, in the shape that the clients of this API read.",
        "content": {"application/json": {"schema": schema}},
    }


def _answer(route: HttpRoute) -> dict[str, Any]:
    answer: dict[str, Any] = {"description": "The answer."}
    if route.answers is not None:
        made = route.answers()
        answer["content"] = {media: {"schema": dict(schema)} for media, schema in made.items()}
    return answer


def _operation(plugin: str, route: HttpRoute, method: str) -> dict[str, Any]:
    names = _PART.findall(route.template)
    words = re.findall(r"[A-Za-z0-9]+", route.template) or ["root"]
    found: dict[str, Any] = {
        "operationId": "_".join([method.lower(), *words]),
        "summary": route.summary,
        "tags": [plugin],
        "responses": {"200": _answer(route), "default": _error(route)},
        "x-aitorrent-role": route.scope.value,
    }
    if names:
        found["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
            for name in names
        ]
    if method in _BODIES:
        found["requestBody"] = {"content": {"application/json": {"schema": _body(route)}}}
        found["x-aitorrent-max-body"] = route.max_body
    if route.scope is not Scope.PUBLIC:
        found["security"] = [{"bearer": []}, {"key": []}, {}]
    return found
