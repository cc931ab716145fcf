"""A real Redis on a free port of loopback, as a process that tests end and start again."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import Final

from tests.support.nodes import free_port

PROGRAM: Final = shutil.which("redis-server")
REASON: Final = "needs redis-server (apt install redis-server)"
STARTED_S: Final = 20.0


class RedisServer:
    """Keeps nothing across restarts."""

    def __init__(self, directory: Path, password: str = "") -> None:
        self.port = free_port()
        self.password = password
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        """Start it; returns when it answers."""
        assert PROGRAM
        self._process = subprocess.Popen(
            [
                *(PROGRAM, "--bind", "127.0.0.1", "--port", str(self.port)),
                *("--save", "", "--appendonly", "no", "--dir", str(self._directory)),
                *(("--requirepass", self.password) if self.password else ()),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        until = time.monotonic() + STARTED_S
        while True:
            with socket.socket() as sock:
                if sock.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            assert time.monotonic() < until, "redis-server does not start"
            time.sleep(0.02)

    def kill(self) -> None:
        """SIGKILL, and all that it kept is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
