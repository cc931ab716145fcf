"""The settings of the daemon itself; plugins bring the models of their own tables."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    field_validator,
)

from aitorrentd.api.settings import OptionalPath, SettingsTable, absolute_path

NETWORK_PATTERN: Final = r"[a-z0-9][a-z0-9._-]{0,62}"
PLUGIN_PATTERN: Final = r"[a-z][a-z0-9_-]{0,62}"


_BOOLEAN: Final = TypeAdapter(bool)


class _Table(SettingsTable):
    model_config = ConfigDict(validate_default=True)


def _empty_is_default(value: Any) -> Any:
    # An empty `node:` reads as null; the user means an empty table.
    return {} if value is None else value


def _socket(value: Any) -> Any:
    return Path(value) if value in ("auto", Path("auto")) else absolute_path(value)


def _plugin_table(value: Any) -> Any:
    # The kernel reads this one before any plugin's own model reads the table.
    if value is None:
        return {}
    if not isinstance(value, dict) or "enabled" not in value:
        return value
    try:
        return {**value, "enabled": _BOOLEAN.validate_python(value["enabled"])}
    except ValidationError:
        return value  # which the plugin's model rejects


def _plugin_name(name: str) -> str:
    if not re.fullmatch(PLUGIN_PATTERN, name):
        raise ValueError("is not the name of a plugin (a-z, 0-9, dash and underscore)")
    return name


_PluginName = Annotated[str, AfterValidator(_plugin_name)]


class NodeSettings(_Table):
    """The node's identity and directories."""

    name: str | None = Field(
        None, min_length=1, max_length=64, description="display name; announced to peers if set"
    )
    network: str = Field(
        "main",
        description="nodes of different networks never connect to each other",
    )
    state_dir: OptionalPath = Field(None, description="persistent state: identity, databases")
    cache_dir: OptionalPath = Field(
        None, description="cache; safe to delete while the daemon is stopped"
    )
    runtime_dir: OptionalPath = Field(None, description="sockets")
    identity: OptionalPath = Field(None, description="key file; default <state_dir>/identity.key")

    @field_validator("network")
    @classmethod
    def _network(cls, network: str) -> str:
        if not re.fullmatch(NETWORK_PATTERN, network):
            raise ValueError("must be 1 to 63 of a-z, 0-9, dot, dash and underscore")
        return network

    @field_validator("name")
    @classmethod
    def _printable(cls, name: str | None) -> str | None:
        if name is not None and not name.isprintable():
            raise ValueError("contains unprintable characters")
        return name


class ControlSettings(_Table):
    """The socket that `aitorrentctl` talks to."""

    socket: Annotated[Path | None, BeforeValidator(_socket)] = Field(
        Path("auto"), description="path; auto = control.sock in runtime_dir; null = none"
    )
    mode: str = Field("0660", description="permissions of the socket, octal")
    group: str = Field(
        "aitorrent",
        min_length=1,
        max_length=32,
        description="members of this group may operate the daemon",
    )
    max_connections: int = Field(
        64, ge=1, le=4096, description="maximum number of concurrent clients"
    )

    @field_validator("mode", mode="before")
    @classmethod
    def _octal(cls, value: Any) -> str:
        # The number 660 may be meant as decimal; 0660 is text here, with or without quotes.
        if not isinstance(value, str) or not re.fullmatch(r"0?[0-7]{3}", value):
            raise ValueError("must be an octal mode such as 0660")
        return value

    @property
    def mode_bits(self) -> int:
        """The mode as a number for chmod(2)."""
        return int(self.mode, 8)


class LogSettings(_Table):
    """What is written to standard error."""

    level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="minimum level to log"
    )
    format: Literal["text", "json"] = Field("text", description="json = one object per line")


class Settings(_Table):
    """A whole configuration; `plugins` stays raw until each plugin's own model reads its table."""

    version: int = Field(1, description="version of the configuration format")
    node: Annotated[NodeSettings, BeforeValidator(_empty_is_default)] = Field(
        NodeSettings(), description="the node's identity and directories"
    )
    control: Annotated[ControlSettings, BeforeValidator(_empty_is_default)] = Field(
        ControlSettings(), description="the control socket"
    )
    log: Annotated[LogSettings, BeforeValidator(_empty_is_default)] = Field(
        LogSettings(), description="logging to standard error"
    )
    required: Annotated[
        tuple[_PluginName, ...],
        BeforeValidator(lambda value: () if value is None else value),
    ] = Field((), description="plugins the daemon cannot run without")
    plugins: Annotated[
        dict[
            _PluginName,
            Annotated[dict[str, Any], BeforeValidator(_plugin_table)],
        ],
        BeforeValidator(_empty_is_default),
    ] = Field(default={}, description="one table of settings per plugin")

    @field_validator("version")
    @classmethod
    def _version(cls, version: int) -> int:
        if version != 1:
            raise ValueError(f"the file is version {version}; this program reads version 1")
        return version
