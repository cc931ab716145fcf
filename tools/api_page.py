"""The reference page of the plugin API: hooks, events, errors, services, and every public name.

Names and their texts come from the source of each module, because a constant's docstring exists
nowhere else.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, Final, TypeVar

from aitorrentd import api, errors
from aitorrentd.api import PluginInfo, ServiceKey, events, hooks
from tools.markdown import rows

T = TypeVar("T")
ROOMS: Final = {
    "aitorrentd.api": "Plugins and their node",
    "aitorrentd.api.network": "Network",
    "aitorrentd.api.faces": "HTTP servers",
    "aitorrentd.api.monitoring": "Metrics",
    "aitorrentd.api.models": "Models",
    "aitorrentd.api.relays": "Relays to model servers",
}
"The folders of the API, with a title for each."
LISTED_ABOVE: Final = ("aitorrentd.api.events", "aitorrentd.errors")
"Modules whose classes have a table of their own."


@dataclass(frozen=True)
class Name:
    """A public name that a module defines."""

    name: str
    call: str
    "As it is written: `whole(source, name, low, high)`, `Tasks`."
    text: str
    "The first paragraph of its docstring, on one line; empty if it has none."
    service: str = ""
    "What a ServiceKey's service is, such as `Registry[Dialer]`; empty for other names."


def first_paragraph(docstring: str | None) -> str:
    """The first paragraph of a docstring, on one line."""
    return " ".join(inspect.cleandoc(docstring or "").split("\n\n")[0].split())


def _text_after(body: list[ast.stmt], i: int) -> str:
    following = body[i + 1] if i + 1 < len(body) else None
    if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
        return first_paragraph(str(following.value.value))
    return ""


def _is_type_variable(value: ast.expr | None) -> bool:
    return isinstance(value, ast.Call) and ast.unparse(value.func) == "TypeVar"


def _service(value: ast.expr | None) -> str:
    if isinstance(value, ast.Call) and isinstance(value.func, ast.Subscript):
        return (
            ast.unparse(value.func.slice) if ast.unparse(value.func.value) == "ServiceKey" else ""
        )
    return ""


def names(module: str) -> list[Name]:
    """The public names that a module defines, in its order; no imports and no type variables."""
    body = ast.parse(inspect.getsource(importlib.import_module(module))).body
    found = []
    for i, node in enumerate(body):
        if isinstance(node, ast.ClassDef):
            found.append(Name(node.name, node.name, first_paragraph(ast.get_docstring(node))))
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            every = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            call = f"{node.name}({', '.join(arg.arg for arg in every)})"
            found.append(Name(node.name, call, first_paragraph(ast.get_docstring(node))))
        elif isinstance(node, ast.Assign | ast.AnnAssign) and not _is_type_variable(node.value):
            target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
            if isinstance(target, ast.Name):
                text, service = _text_after(body, i), _service(node.value)
                found.append(Name(target.id, target.id, text, service))
    return [one for one in found if not one.name.startswith("_")]


def modules() -> list[str]:
    """The modules of `aitorrentd.api`, without its folders."""
    walked = pkgutil.walk_packages(api.__path__, f"{api.__name__}.")
    return [one.name for one in walked if not one.ispkg]


def exported_from_elsewhere() -> dict[str, list[str]]:
    """Names in `aitorrentd.api` that are defined outside it, by module; errors not included."""
    found: dict[str, list[str]] = {}
    for name in api.__all__:
        home = getattr(getattr(api, name), "__module__", "")
        if home.startswith("aitorrentd.") and not home.startswith("aitorrentd.api"):
            found.setdefault(home, []).append(name)
    return found


def declared(module: Any, *, base: type[T]) -> list[type[T]]:
    """Public subclasses of `base` that a module defines, in its order."""
    found = [v for v in vars(module).values() if isinstance(v, type) and issubclass(v, base)]
    return [v for v in found if v.__module__ == module.__name__ and v is not base]


def page(infos: Mapping[str, PluginInfo]) -> Iterator[str]:
    """The page; `infos` are the manifests of the built-in plugins, by name."""
    yield "# Plugin API\n\nEverything that a plugin may import: [hooks](#hooks), "
    yield "[events](#events), [errors](#errors), [services](#services), and [every name](#names) "
    yield "of `aitorrentd.api` and its modules. See [writing a plugin](../plugins.md#writing-one)."
    yield "\n\n## Hooks\n\n"
    for name, function in vars(hooks).items():
        if name.startswith("aitorrent_"):
            yield f"### {name}{inspect.signature(function)}\n\n{inspect.getdoc(function)}\n\n"
    yield f"## Events\n\n{_events()}\n## Errors\n\n{_errors()}\n"
    yield "## Services\n\nA plugin that names a key in `requires` or `wants` of its `PluginInfo` "
    yield "gets the service with `ctx.service(KEY)`. A `Registry` takes entries from plugins.\n\n"
    yield _services(infos)
    yield "\n## Names\n\nNames marked with * are exported by `aitorrentd.api`, too; import them "
    yield "from there.\n"
    for room, title in ROOMS.items():
        yield f"\n### {title}\n"
        for module in modules():
            if module.rpartition(".")[0] == room:
                yield from _module(module, names(module))
        if room == api.__name__:
            for module, chosen in exported_from_elsewhere().items():
                yield from _module(module, [n for n in names(module) if n.name in chosen])


def _events() -> str:
    lines = [
        (
            f"`{e.topic}`",
            f"`{e.__name__}({', '.join(f.name for f in fields(e))})`",
            first_paragraph(inspect.getdoc(e)),
        )
        for e in declared(events, base=events.Event)
    ]
    return rows(("topic", "event", "meaning"), lines)


def _errors() -> str:
    lines = [
        (f"`{e.code}`", f"`{e.__name__}`", first_paragraph(inspect.getdoc(e)))
        for e in declared(errors, base=errors.AitorrentError)
    ]
    return rows(("code", "class", "meaning"), lines)


def _services(infos: Mapping[str, PluginInfo]) -> str:
    lines = []
    for module in modules():
        for one in names(module):
            if one.service:
                key = getattr(importlib.import_module(module), one.name)
                lines.append(_service_line(key, one, infos))
    return rows(("key", "name", "type", "provided by", "since", "meaning"), lines)


def _service_line(
    key: ServiceKey[Any], one: Name, infos: Mapping[str, PluginInfo]
) -> tuple[str, ...]:
    by = ", ".join(name for name, info in infos.items() if key in info.provides)
    return (f"`{one.name}`", f"`{key.name}`", f"`{one.service}`", by, key.since, one.text)


def _module(module: str, defined: list[Name]) -> Iterator[str]:
    special = [hook for hook in defined if hook.name.startswith("aitorrent_")]
    shown = [n for n in defined if n not in special and not n.service]
    if module in LISTED_ABOVE:
        tabled = [
            *declared(events, base=events.Event),
            *declared(errors, base=errors.AitorrentError),
        ]
        shown = [n for n in shown if n.name not in {kind.__name__ for kind in tabled}]
    if not shown:
        return
    about = first_paragraph(importlib.import_module(module).__doc__)
    yield f"\n#### {module}\n\n{about}\n\n"
    lines = [(f"`{n.call}`{' *' * (n.name in api.__all__)}", n.text) for n in shown]
    yield rows(("name", "meaning"), lines)
