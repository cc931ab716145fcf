"""`config.*`: what is configured, and changing it."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from aitorrentd.api.plugin import CallContext, Method, NoParams, Role
from aitorrentd.config import Config, WrongSettings
from aitorrentd.config.documents import key_text, parse, parse_key
from aitorrentd.config.layers import KeyPath
from aitorrentd.config.load import looked_up
from aitorrentd.config.plugin_tables import all_problems
from aitorrentd.errors import ConfigError, NotFound
from aitorrentd.methods import shapes
from aitorrentd.methods.observing import plugin_config
from aitorrentd.runtime.reload import change_setting

if TYPE_CHECKING:
    from aitorrentd.runtime.runtime import Runtime


async def _problems(runtime: Runtime) -> dict[str, Any]:
    config: Config | ConfigError = runtime.config
    files = runtime.config.files
    if runtime.config.source is not None:
        try:
            config = await asyncio.to_thread(runtime.config.reloaded)
        except ConfigError as e:
            config = e
        if isinstance(config, Config | WrongSettings):
            files = config.files
    wrong = await all_problems(config, runtime.sources)
    return {"files": [str(f) for f in files], "problems": wrong}


def _with_defaults(runtime: Runtime) -> dict[str, Any]:
    """The configuration that holds, with every setting of every plugin that is installed."""
    tree = runtime.config.shown()
    installed = {row.name: plugin_config(runtime, row.name) for row in runtime.kernel.rows()}
    return {**tree, "plugins": {**tree["plugins"], **installed}}


def _leaves(tree: Any, path: KeyPath) -> Iterator[KeyPath]:
    if isinstance(tree, dict) and tree:
        for name, inner in tree.items():
            yield from _leaves(inner, (*path, str(name)))
    else:
        yield path


def config_methods(runtime: Runtime) -> list[Method]:
    """Methods about the configuration."""

    def show(call: CallContext, params: shapes.ConfigShowParams) -> dict[str, Any]:
        config = runtime.config
        tree = _with_defaults(runtime)
        origins = {key_text(p): config.origins.get(p, "default") for p in _leaves(tree, ())}
        return {
            "config": tree,
            "origins": origins if params.origin else {},
            "unset": [key for key, origin in origins.items() if origin == "default"],
            "files": [str(file) for file in config.files],
        }

    def get(call: CallContext, params: shapes.ConfigKey) -> dict[str, Any]:
        try:
            value, origin = runtime.config.get(params.key)
        except NotFound:
            path = parse_key(params.key)
            if path[0] == "plugins" and len(path) > 1:
                runtime.kernel.row(path[1])  # says which plugins there are
            value, origin = looked_up(_with_defaults(runtime), params.key), "default"
        return {"key": params.key, "value": value, "origin": origin}

    async def set_(call: CallContext, params: shapes.ConfigSetParams) -> dict[str, Any]:
        value = params.value
        if isinstance(value, str):
            value = parse(value, params.key)
        done = await change_setting(runtime, params.key, value)
        return {"key": params.key, "file": str(runtime.config.set_file), **dataclasses.asdict(done)}

    async def check(call: CallContext, params: NoParams) -> dict[str, Any]:
        return await _problems(runtime)

    return [
        Method(
            "config.show",
            show,
            "Show the configuration that holds, with secrets concealed.",
            params=shapes.ConfigShowParams,
            result=shapes.ConfigShown,
        ),
        Method(
            "config.get",
            get,
            "Show one setting and where it is from.",
            params=shapes.ConfigKey,
            result=shapes.ConfigValue,
        ),
        Method(
            "config.set",
            set_,
            "Change one setting: in a drop-in file, and live where possible.",
            params=shapes.ConfigSetParams,
            result=shapes.ConfigSetResult,
            role=Role.ADMIN,
        ),
        Method(
            "config.check",
            check,
            "Check the configuration files as they are now.",
            result=shapes.ConfigProblems,
        ),
    ]
