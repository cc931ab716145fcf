"""Control methods called from inside the process, by plugins that offer them elsewhere."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from aitorrentd.api.context import PeerSocket
from aitorrentd.api.plugin import End, Method, Role
from aitorrentd.control.answers import OnProgress
from aitorrentd.errors import AitorrentError, Denied, InvalidParams, PluginError
from aitorrentd.validation import checked_params

if TYPE_CHECKING:
    from aitorrentd.methods.source import Described, Methods
    from aitorrentd.runtime.runtime import Runtime


class InsideDoor:
    """The control API of a node, without its socket; see `aitorrentd.api.context.ControlDoor`."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._methods: Methods | None = None

    def caller(self, role: Role) -> InsideCaller:
        """A caller with this role."""
        if self._methods is None:
            from aitorrentd.methods.source import Methods

            self._methods = Methods(self._runtime)
        return InsideCaller(self._methods, role, self._runtime.log)

    def role_of(self, sock: PeerSocket) -> Role:
        """The role of the process at the other end of a Unix socket."""
        import os

        from aitorrentd.control.auth import group_id, peer_credentials, role_of

        group = self._runtime.config.settings.control.group
        return role_of(peer_credentials(sock), own_uid=os.geteuid(), operate_gid=group_id(group))


@dataclass(frozen=True, slots=True)
class _InsideCall:
    """The CallContext of one call."""

    role: Role
    on_progress: OnProgress | None
    trace: str = "inside"

    def progress(
        self, text: str, *, done: float | None = None, total: float | None = None, unit: str = ""
    ) -> None:
        if self.on_progress is not None:
            self.on_progress({"text": text, "done": done, "total": total, "unit": unit})


class InsideCaller:
    """Calls methods with one role; see `aitorrentd.api.context.Caller`."""

    def __init__(self, source: Methods, role: Role, log: logging.Logger) -> None:
        self._source = source
        self._role = role
        self._log = log

    def describe(self) -> Described:
        """The methods that it may call."""
        return self._source.described(self._role)

    async def call(
        self,
        method: str,
        params: Mapping[str, Any] | None = None,
        *,
        progress: OnProgress | None = None,
    ) -> dict[str, Any]:
        """The result of a method that answers once."""
        plugin, found = self._allowed(method)
        if found.stream:
            raise InvalidParams(f"{method} answers with a stream")
        call = _InsideCall(self._role, progress)
        given = checked_params(found.params, params or {}, method)
        try:
            answer: Any = found.handler(call, given)
            if hasattr(answer, "__await__"):
                answer = await answer
            return _as_map(answer)
        except AitorrentError:
            raise
        except Exception as e:
            raise self._bug(plugin, method, e) from None

    async def stream(
        self,
        method: str,
        params: Mapping[str, Any] | None = None,
        *,
        progress: OnProgress | None = None,
        summary: dict[str, Any] | None = None,
    ) -> AsyncGenerator[dict[str, Any]]:
        """The items of a method that streams."""
        plugin, found = self._allowed(method)
        if not found.stream:
            raise InvalidParams(f"{method} answers once, not with a stream")
        call = _InsideCall(self._role, progress)
        items: Any = found.handler(call, checked_params(found.params, params or {}, method))
        async with aclosing(items):
            while True:
                try:
                    item = await anext(items)
                    if isinstance(item, End):
                        if summary is not None:
                            summary.update(item.summary)
                        return
                    made = _as_map(item)
                except StopAsyncIteration:
                    return
                except AitorrentError:
                    raise
                except Exception as e:
                    raise self._bug(plugin, method, e) from None
                yield made  # what its reader raises is no bug of the method

    def _bug(self, plugin: str, method: str, error: Exception) -> PluginError:
        found = PluginError.of_bug(plugin)
        self._log.error("%s failed (error id %s)", method, found.data["error_id"], exc_info=error)
        return found

    def _allowed(self, method: str) -> tuple[str, Method]:
        plugin, found = self._source.method(method)
        if found.role > self._role:
            needed, role = found.role.name.lower(), self._role.name.lower()
            raise Denied(
                f"{method} needs the role {needed}; this caller has {role}",
                needed=needed,
                role=role,
            )
        return plugin, found


def _as_map(answer: Any) -> dict[str, Any]:
    return answer.model_dump(mode="json") if isinstance(answer, BaseModel) else answer or {}
