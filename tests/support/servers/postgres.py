"""A PostgreSQL server of a test's own: in a private directory, without a port of the machine."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Final

PROGRAMS: Final = Path("/usr/lib/postgresql")
_OPTIONS: Final = (
    "-c listen_addresses='' -c fsync=off -c full_page_writes=off -c max_connections=40"
)


class PostgresServer:
    """Runs as `postgres` where the tests are root, since it refuses to run as root."""

    def __init__(self) -> None:
        versions = sorted(PROGRAMS.glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
        if not versions:
            raise RuntimeError(f"no PostgreSQL in {PROGRAMS}; install Debian's postgresql")
        self._programs = versions[-1].parent
        self._numbers = count(1)
        # Its name is part of a socket's path, which may have 107 bytes.
        self.directory = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))
        if os.getuid() == 0:
            owner = pwd.getpwnam("postgres")
            os.chown(self.directory, owner.pw_uid, owner.pw_gid)
        self._run("initdb", "-A", "trust", "-U", "test", "-E", "UTF8", "--locale=C.UTF-8", "-N")
        self.start()

    def start(self) -> None:
        options = f"{_OPTIONS} -c unix_socket_directories={self.directory}"
        self._run("pg_ctl", "-w", "-l", str(self.directory / "log"), "-o", options, "start")

    def stop(self) -> None:
        """At once, as if the machine were switched off."""
        self._run("pg_ctl", "-w", "-m", "immediate", "stop")

    def close(self) -> None:
        self.stop()
        shutil.rmtree(self.directory)

    def new_database(self) -> str:
        """The URL of an empty database."""
        name = f"t{next(self._numbers)}"
        self.query("postgres", f"CREATE DATABASE {name}")
        return f"postgresql://test@/{name}?host={self.directory}"

    def query(self, database: str, sql: str) -> str:
        """What psql prints, without headings."""
        command = ["psql", "-h", str(self.directory), "-U", "test", "-d", database, "-XAtqc", sql]
        done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=30)
        return done.stdout.strip()

    def _run(self, program: str, *arguments: str) -> None:
        command: Sequence[str] = (
            str(self._programs / program), "-D", str(self.directory / "data"), *arguments,
        )  # fmt: skip
        if os.getuid() == 0:
            command = (
                "setpriv",
                "--reuid=postgres",
                "--regid=postgres",
                "--clear-groups",
                *command,
            )
        subprocess.run(
            command,
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            cwd="/",
            timeout=60,
        )
