"""HTTP routes of plugins: what may be declared, and paths that two plugins want."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from aitorrentd.api import PluginInfo, hookimpl
from aitorrentd.api.faces.routes import HttpRoute, Scope
from aitorrentd.kernel.found import PluginSource
from tests.support.kernel_plugins import kernel, made, states


def serving(name: str, *routes: Any) -> PluginSource:
    """A plugin that declares these routes."""
    hooks = {
        "aitorrent_info": hookimpl(lambda self: PluginInfo(name, "serves routes")),
        "aitorrent_routes": hookimpl(lambda self, ctx: routes),
    }
    return PluginSource.of(type("Serving", (), hooks), name=name)


def a_route(path: str = "/a", methods: tuple[str, ...] = ("GET",), **changes: Any) -> HttpRoute:
    async def answer(request: Any) -> Any:
        return None

    return HttpRoute(path, frozenset(methods), answer, Scope.PUBLIC, "answers", **changes)


@pytest.mark.parametrize(
    ("routes", "detail"),
    [
        ((a_route("a"),), "path 'a' is not of the form /a/{name}/b"),
        ((a_route("/{rest:path}/b"),), "path '/{rest:path}/b' is not of the form"),
        ((a_route("/a//b"),), "path '/a//b' is not of the form"),
        ((a_route("/a", ("BREW",)),), "methods of /a are not among DELETE, GET"),
        ((a_route("/a", max_body=-1),), "max_body of /a is not from 0 to"),
        ((a_route("/a", slots=0),), "slots of /a is below 1"),
        ((a_route("/a"), a_route("/a")), "route GET /a is declared twice"),
        (("/a",), "aitorrent_routes lists a str, not a HttpRoute"),
    ],
)
async def test_route_that_cannot_be_served_breaks_its_plugin(
    tmp_path: Path, routes: tuple[Any, ...], detail: str
) -> None:
    async with kernel(tmp_path, serving("bad", *routes), made("good")) as node:
        assert states(node)["good"] == "running"
        assert states(node)["bad"] == "broken"
        assert node.row("bad").detail.startswith(detail)
        assert node.routes() == ()


@pytest.mark.parametrize(
    ("first", "second", "clash"),
    [
        (a_route("/v1/models"), a_route("/v1/models"), True),
        (a_route("/v1/models"), a_route("/v1/models", ("POST",)), False),
        (a_route("/v1/{name}"), a_route("/v1/models"), True),
        (a_route("/v1/{name}"), a_route("/v2/models"), False),
        (a_route("/v1/{name}"), a_route("/v1/models/x"), False),
        (a_route("/v1/{rest:path}"), a_route("/v1/models/x"), True),
        (a_route("/"), a_route("/v1"), False),
    ],
)
async def test_path_that_another_plugin_serves_is_an_error_that_names_both(
    tmp_path: Path, first: HttpRoute, second: HttpRoute, clash: bool
) -> None:
    async with kernel(tmp_path, serving("one", first), serving("two", second)) as node:
        rows = {row.name: (row.state, row.detail) for row in node.rows()}
        told = f"route {second.path} is already served by plugin one as {first.path}"
        assert rows["two"] == (("broken", told) if clash else ("running", ""))
        assert [name for name, _ in node.routes()] == (["one"] if clash else ["one", "two"])
