"""Network namespaces of this test process: made, entered for a socket, and always removed.

Names carry the process id, so that tests in several processes never meet, and so that what a
killed process left behind is recognised and removed by the next.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TypeVar

T = TypeVar("T")

CAN_MAKE: Final = os.geteuid() == 0 and bool(shutil.which("ip")) and bool(shutil.which("nft"))
REASON: Final = "hardware: NAT boxes need root, iproute2 and nftables"
_CLONE_NEWNET: Final = 0x40000000
_MOUNTED: Final = Path("/run/netns")
_OURS: Final = re.compile(r"nat(\d+)-\d+")


class Namespaces:
    """The namespaces of one lab."""

    _serial = 0

    def __init__(self) -> None:
        self._names: list[str] = []

    def make(self) -> str:
        """A new namespace with loopback up and without IPv6, which no box here translates."""
        Namespaces._serial += 1
        name = f"nat{os.getpid()}-{Namespaces._serial}"
        self._names.append(name)
        ip("netns", "add", name)
        ip("-n", name, "link", "set", "lo", "up")
        sysctl(name, "net.ipv6.conf.all.disable_ipv6=1", "net.ipv6.conf.default.disable_ipv6=1")
        return name

    def remove(self) -> None:
        """Kill what runs in the namespaces, and remove them."""
        for name in self._names:
            _remove(name)
        self._names.clear()


@contextmanager
def namespaces() -> Iterator[Namespaces]:
    """Namespaces for the block, after those of dead test processes were removed."""
    for name in os.listdir(_MOUNTED) if _MOUNTED.exists() else []:
        owner = _OURS.fullmatch(name)
        if owner and not Path("/proc", owner[1]).exists():
            _remove(name)
    made = Namespaces()
    try:
        yield made
    finally:
        made.remove()


def _remove(name: str) -> None:
    pids = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True).stdout
    for pid in pids.split():
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)
    subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)
    shutil.rmtree(Path("/etc/netns") / name, ignore_errors=True)


def run(*words: str, text: str = "") -> str:
    """The output of a command that must succeed, with `text` as its input."""
    done = subprocess.run(words, input=text, capture_output=True, text=True)
    if done.returncode:
        raise AssertionError(f"{' '.join(words)}: {done.stderr.strip()}\n{text}")
    return done.stdout


def ip(*words: str) -> str:
    """Run ip(8)."""
    return run("ip", *words)


def nft(namespace: str, rules: str) -> None:
    """Add rules to a namespace."""
    run("ip", "netns", "exec", namespace, "nft", "-f", "-", text=rules)


def sysctl(namespace: str, *settings: str) -> None:
    """Set kernel parameters of a namespace, such as net.ipv4.ip_forward=1."""
    run("ip", "netns", "exec", namespace, "sysctl", "-qw", *settings)


def within(namespace: str, function: Callable[[], T]) -> T:
    """What `function` returns in a thread in `namespace`; threads that it starts stay there."""
    results: list[T] = []
    libc = ctypes.CDLL(None, use_errno=True)

    def enter() -> None:
        fd = os.open(_MOUNTED / namespace, os.O_RDONLY)
        try:
            # Only the thread moves, and it ends here.
            if not libc.setns(fd, _CLONE_NEWNET):
                results.append(function())
        finally:
            os.close(fd)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    if not results:
        raise OSError(f"cannot work in the namespace {namespace}")
    return results[0]


def socket_in(
    namespace: str, kind: socket.SocketKind, family: socket.AddressFamily = socket.AF_INET
) -> socket.socket:
    """A socket of this process that lives in `namespace`; close it."""
    return within(namespace, lambda: socket.socket(family, kind))
