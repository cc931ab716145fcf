"""Control methods called from inside the process, by plugins that offer them elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from aitorrentd.api.context import PeerSocket
from aitorrentd.api.plugin import Role
from aitorrentd.errors import Denied, InvalidParams
from aitorrentd.validation import checked_params

if TYPE_CHECKING:
    from aitorrentd.methods.source import Methods
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
        return InsideCaller(self._methods, role)

    def role_of(self, sock: PeerSocket) -> Role:
        """The role of the process at the other end of a Unix socket."""
        import os

        from aitorrentd.control.auth import group_id, peer_credentials, role_of

        group = self._runtime.config.settings.control.group
        return role_of(peer_credentials(sock), own_uid=os.geteuid(), operate_gid=group_id(group))


class InsideCaller:
    """Calls methods with one role; the CallContext of what it calls."""

    def __init__(self, source: Methods, role: Role) -> None:
        self._source = source
        self.role = role
        self.trace = "inside"

    def progress(
        self, text: str, *, done: float | None = None, total: float | None = None, unit: str = ""
    ) -> None:
        """Nobody watches the progress of a call from inside."""

    async def call(self, method: str, params: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The result of a method that answers once."""
        _, found = self._source.method(method)
        if found.role > self.role:
            needed, role = found.role.name.lower(), self.role.name.lower()
            raise Denied(
                f"{method} needs the role {needed}; this caller has {role}",
                needed=needed,
                role=role,
            )
        if found.stream:
            raise InvalidParams(f"{method} answers with a stream")
        answer: Any = found.handler(self, checked_params(found.params, params or {}, method))
        if hasattr(answer, "__await__"):
            answer = await answer
        if isinstance(answer, BaseModel):
            return answer.model_dump(mode="json")
        return answer or {}
