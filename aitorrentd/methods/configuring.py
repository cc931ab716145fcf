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
from aitorrentd.reload import change_setting

if TYPE_CHECKING:
    from aitorrentd.host import Host


async def _problems(host: Host) -> dict[str, Any]:
    config: Config | ConfigError = host.config
    files = host.config.files
    if host.config.source is not None:
        try:
            config = await asyncio.to_thread(host.config.reloaded)
        except ConfigError as e:
            config = e
        if isinstance(config, Config | WrongSettings):
            files = config.files
    wrong = await all_problems(config, host.sources)
    return {"files": [str(f) for f in files], "problems": wrong}


def _with_defaults(host: Host) -> dict[str, Any]:
    """The configuration that holds, with every setting of every plugin that is installed."""
    tree = host.config.shown()
    installed = {row.name: plugin_config(host, row.name) for row in host.kernel.rows()}
    return {**tree, "plugins": {**tree["plugins"], **installed}}


def _leaves(tree: Any, path: KeyPath) -> Iterator[KeyPath]:
    if isinstance(tree, dict) and tree:
        for name, inner in tree.items():
            yield from _leaves(inner, (*path, str(name)))
    else:
        yield path


def config_methods(host: Host) -> list[Method]:
    """Methods about the configuration."""

    def show(call: CallContext, params: shapes.ConfigShowParams) -> dict[str, Any]:
        config = host.config
        tree = _with_defaults(host)
        origins = {key_text(p): config.origins.get(p, "default") for p in _leaves(tree, ())}
        return {
            "config": tree,
            "origins": origins if params.origin else {},
            "unset": [key for key, origin in origins.items() if origin == "default"],
            "files": [str(file) for file in config.files],
        }

    def get(call: CallContext, params: shapes.ConfigKey) -> dict[str, Any]:
        try:
            value, origin = host.config.get(params.key)
        except NotFound:
            path = parse_key(params.key)
            if path[0] == "plugins" and len(path) > 1:
                host.kernel.row(path[1])  # says which plugins there are
            value, origin = looked_up(_with_defaults(host), params.key), "default"
        return {"key": params.key, "value": value, "origin": origin}

    async def set_(call: CallContext, params: shapes.ConfigSetParams) -> dict[str, Any]:
        value = params.value
        if isinstance(value, str):
            value = parse(value, params.key)
        done = await change_setting(host, params.key, value)
        return {"key": params.key, "file": str(host.config.set_file), **dataclasses.asdict(done)}

    async def check(call: CallContext, params: NoParams) -> dict[str, Any]:
        return await _problems(host)

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
