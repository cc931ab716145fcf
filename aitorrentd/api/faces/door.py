"""The node's HTTP server as a service: for plugins whose clients look for it on another port."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Final, Protocol

from aitorrentd.api.services import ServiceKey


class HttpDoor(Protocol):
    """The HTTP server, with the routes of all plugins."""

    def also_on(self, port: int, *, setting: str) -> AbstractAsyncContextManager[None]:
        """Serve on a further TCP port too, while the block runs: on the same addresses, with the
        same rules. `setting` is what the user changes to choose another one.

        Raises:
            Unavailable: the port is taken.
        """


HTTP: Final = ServiceKey[HttpDoor]("http.v1")
"The node's HTTP server."
