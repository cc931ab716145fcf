"""Where the control server looks up a method: the core's own come first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from aitorrentd.api.plugin import Method, Role
from aitorrentd.errors import MethodNotFound, Unavailable
from aitorrentd.methods.configuring import config_methods
from aitorrentd.methods.describing import rpc_methods, views
from aitorrentd.methods.observing import observing_methods
from aitorrentd.methods.operating import operating_methods

if TYPE_CHECKING:
    from aitorrentd.runtime.runtime import Runtime

CORE: Final = "core"
Described = tuple[Mapping[str, Any], ...]
"Methods as `rpc.describe` shows them."


class Methods:
    """The methods of a node: the core's, then those of its running plugins."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        own = [
            *rpc_methods(self.all),
            *observing_methods(runtime),
            *operating_methods(runtime),
            *config_methods(runtime),
        ]
        self._core: Mapping[str, tuple[str, Method]] = {m.name: (CORE, m) for m in own}
        self._described: dict[Role, tuple[object, Described]] = {}

    def method(self, name: str) -> tuple[str, Method]:
        """The owner and the method called `name`.

        Raises:
            MethodNotFound: no such method. Unavailable: its plugin is not running or, with
            `starting` in its data, may still be starting; `node.wait` waits for that.
        """
        try:
            return self._core.get(name) or self._runtime.kernel.method(name)
        except (MethodNotFound, Unavailable) as e:
            if self._runtime.state != "starting":
                raise
            raise Unavailable(f"the node is starting: {e.message}", starting=True) from e

    def all(self) -> list[tuple[str, Method]]:
        """Every method that can be called now, with its owner."""
        return [*self._core.values(), *self._runtime.kernel.methods()]

    def described(self, role: Role) -> Described:
        """The methods that a role may call, with their schemas, by name: the same tuple until a
        plugin starts or stops."""
        now = self._runtime.kernel.methods()
        made_of, found = self._described.get(role, (None, ()))
        if made_of is not now:
            allowed = [owned for owned in self.all() if owned[1].role <= role]
            found = tuple(views(allowed, schemas=True))
            self._described[role] = now, found
        return found
