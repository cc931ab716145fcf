"""`config.*`: shows and changes the configuration."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import TYPE_CHECKING, Any

from aitorrentd.api.plugin import CallContext, Method, NoParams, Role
from aitorrentd.config import Config, WrongSettings
from aitorrentd.config.document import parse
from aitorrentd.config.merge import DEFAULT
from aitorrentd.config.plugin_tables import all_problems
from aitorrentd.errors import ConfigError, NotFound
from aitorrentd.methods import shapes
from aitorrentd.methods.observing import plugin_config
from aitorrentd.runtime.reload import Reloaded, change_setting
from aitorrentd.setting_path import key_text, leaves, looked_up, parse_key

if TYPE_CHECKING:
    from aitorrentd.runtime.runtime import Runtime


async def _problems(runtime: Runtime) -> dict[str, Any]:
    config: Config | ConfigError = runtime.config
    files = runtime.config.files
    if runtime.config.set_file is not None:
        try:
            config = await asyncio.to_thread(runtime.config.reloaded)
        except ConfigError as e:
            config = e
        if isinstance(config, Config | WrongSettings):
            files = config.files
    wrong = await all_problems(config, runtime.sources)
    return {"files": [str(f) for f in files], "problems": wrong}


def _with_defaults(runtime: Runtime) -> dict[str, Any]:
    """The effective configuration, with every setting of every installed plugin."""
    tree = runtime.config.shown()
    installed = {row.name: plugin_config(runtime, row.name) for row in runtime.kernel.rows()}
    return {**tree, "plugins": {**tree["plugins"], **installed}}


async def _change(runtime: Runtime, key: str, value: Any) -> Reloaded:
    """Set `key`; text is parsed as YAML, or taken literally where the setting accepts only text."""
    if not isinstance(value, str):
        return await change_setting(runtime, key, value)
    read = parse(value, key).tree
    try:
        return await change_setting(runtime, key, read)
    except ConfigError as e:
        if isinstance(read, str | list | dict | None):
            raise
        try:
            return await change_setting(runtime, key, value)
        except ConfigError:
            raise e from None


def config_methods(runtime: Runtime) -> list[Method]:
    """Methods about the configuration."""

    def show(call: CallContext, params: shapes.ConfigShowParams) -> dict[str, Any]:
        config = runtime.config
        tree = _with_defaults(runtime)
        origins = {key_text(path): config.merged.origin(path) for path in leaves(tree)}
        return {
            "config": tree,
            "origins": origins if params.origin else {},
            "unset": [key for key, origin in origins.items() if origin == DEFAULT],
            "files": [str(file) for file in config.files],
        }

    def get(call: CallContext, params: shapes.ConfigKey) -> dict[str, Any]:
        try:
            value, origin = runtime.config.get(params.key)
        except NotFound:
            path = parse_key(params.key)
            if path[0] == "plugins" and len(path) > 1:
                runtime.kernel.row(path[1])  # lists the existing plugins
            value, origin = looked_up(_with_defaults(runtime), params.key), DEFAULT
        return {"key": params.key, "value": value, "origin": origin}

    async def set_(call: CallContext, params: shapes.ConfigSetParams) -> dict[str, Any]:
        done = await _change(runtime, params.key, params.value)
        return {"key": params.key, "file": str(runtime.config.set_file), **dataclasses.asdict(done)}

    async def check(call: CallContext, params: NoParams) -> dict[str, Any]:
        return await _problems(runtime)

    return [
        Method(
            "config.show",
            show,
            "Show the effective configuration, with secrets redacted.",
            params=shapes.ConfigShowParams,
            result=shapes.ConfigShown,
        ),
        Method(
            "config.get",
            get,
            "Show one setting and where its value comes from.",
            params=shapes.ConfigKey,
            result=shapes.ConfigValue,
        ),
        Method(
            "config.set",
            set_,
            "Change one setting in a drop-in file, and apply it live where possible.",
            params=shapes.ConfigSetParams,
            result=shapes.ConfigSetResult,
            role=Role.ADMIN,
        ),
        Method(
            "config.check",
            check,
            "Check the configuration files on disk.",
            result=shapes.ConfigProblems,
        ),
    ]
