"""A node's control socket: its server, with the methods of the core and the plugins."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Final

from aitorrentd import __version__
from aitorrentd.system.files import make_directory

if TYPE_CHECKING:
    from aitorrentd.runtime.runtime import Runtime

CONTROL_GRACE_S: Final = 2.0


async def serve_control(runtime: Runtime, stack: contextlib.AsyncExitStack) -> Path:
    """Listen on `control.socket`, or on the sockets that the node received; returns the path.

    `stack` closes the server. Raises as `ControlServer.listen`.
    """
    # Imported here, so that an embedded node without a socket does not pay for it.
    from aitorrentd.control.server import ControlServer
    from aitorrentd.methods.source import Methods

    control = runtime.config.settings.control
    server = ControlServer(
        Methods(runtime),
        agent=f"aitorrentd {__version__}",
        group=control.group,
        max_connections=control.max_connections,
    )
    stack.push_async_callback(server.close, grace_s=CONTROL_GRACE_S)
    runtime.notices.append(server.problem)
    if runtime.sockets:
        for sock in runtime.sockets:
            await server.listen_on(sock)
        return Path(runtime.sockets[0].getsockname())
    path = runtime.config.socket
    assert path is not None  # the caller serves only if there is something to listen on
    make_directory(path.parent, setting="control.socket")
    await server.listen(path, mode=control.mode_bits)
    return path
