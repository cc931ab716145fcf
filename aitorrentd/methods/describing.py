"""`rpc.*`: the control API's description of itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any

from pydantic import BaseModel

from aitorrentd.api.plugin import CallContext, Method, NoParams
from aitorrentd.methods import shapes

_PONG = {"pong": True}


@lru_cache(maxsize=1024)
def _schema(model: type[BaseModel]) -> dict[str, Any]:
    return model.model_json_schema()


def _view(plugin: str, method: Method, *, schemas: bool) -> dict[str, Any]:
    view: dict[str, Any] = {
        "name": method.name,
        "summary": method.summary,
        "plugin": plugin,
        "role": method.role.name.lower(),
        "stream": method.stream,
        "since": method.since,
    }
    if schemas:
        view |= {"params": _schema(method.params), "result": _schema(method.result)}
    return view


def views(owned: Iterable[tuple[str, Method]], *, schemas: bool) -> list[dict[str, Any]]:
    """Methods and their owners as `rpc.list` shows them, by name."""
    by_name = sorted(owned, key=lambda each: each[1].name)
    return [_view(plugin, method, schemas=schemas) for plugin, method in by_name]


def rpc_methods(owned_methods: Callable[[], list[tuple[str, Method]]]) -> list[Method]:
    """The methods about methods; `owned_methods` lists all of them, each with its owner."""

    def ping(call: CallContext, params: NoParams) -> dict[str, Any]:
        return _PONG

    def listed(params: shapes.Prefix, *, schemas: bool) -> dict[str, Any]:
        chosen = [each for each in owned_methods() if each[1].name.startswith(params.prefix)]
        return {"methods": views(chosen, schemas=schemas)}

    def list_(call: CallContext, params: shapes.Prefix) -> dict[str, Any]:
        return listed(params, schemas=False)

    def describe(call: CallContext, params: shapes.Prefix) -> dict[str, Any]:
        return listed(params, schemas=True)

    return [
        Method("rpc.ping", ping, "Answer immediately.", result=shapes.Pong),
        Method(
            "rpc.list",
            list_,
            "List the methods of the control API.",
            params=shapes.Prefix,
            result=shapes.MethodList,
        ),
        Method(
            "rpc.describe",
            describe,
            "Describe methods with the JSON Schema of their parameters and results.",
            params=shapes.Prefix,
            result=shapes.MethodList,
        ),
    ]
