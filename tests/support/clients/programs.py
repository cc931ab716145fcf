"""BitTorrent clients of other authors, as processes in a network namespace.

Several refuse peers on loopback, and a second client at an address: each has one of its own, on the
namespace's `lo`. All but their BitTorrent is turned off, so that peers come from the tracker alone.
"""

from __future__ import annotations

import base64
import http.client
import json
import shutil
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Final

from tests.support.nat.namespaces import socket_in

PROGRAMS: Final = ("aria2c", "qbittorrent-nox", "transmission-daemon")
REASON: Final = (
    f"needs {', '.join(PROGRAMS)} (apt install aria2 qbittorrent-nox transmission-daemon)"
)
CAN_RUN: Final = all(map(shutil.which, PROGRAMS))
STARTED_S: Final = 30.0
STOPPED_S: Final = 30.0


class Client(ABC):
    """A running client that is told what to do over HTTP."""

    port: int
    "Of its control interface, on the namespace's 127.0.0.1."

    def __init__(self, namespace: str, address: str, directory: Path) -> None:
        self.address = address
        self.directory = directory
        self._namespace = namespace
        directory.mkdir(parents=True)
        self._log = (directory / "client.log").open("wb")
        self._process = subprocess.Popen(
            ["ip", "netns", "exec", namespace, *self.command()],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            env={"HOME": str(directory), "PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"},
        )
        until = time.monotonic() + STARTED_S
        while not self._accepts():
            if self._process.poll() is not None or time.monotonic() > until:
                raise AssertionError(f"{type(self).__name__} does not start:\n{self.log()}")
            time.sleep(0.05)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @abstractmethod
    def command(self) -> list[str]:
        """Its command line, after its configuration was written."""

    @abstractmethod
    def add(self, torrent: bytes, folder: Path) -> None:
        """Share a torrent whose file is, or is to be, in `folder`."""

    @abstractmethod
    def complete(self) -> set[str]:
        """The info-hashes of which it has everything, in hexadecimal."""

    def leave(self) -> None:
        """Let it tell the trackers that it stops, as its users do; it may end."""
        self._process.terminate()

    def stop(self) -> None:
        """Wait for its end; by force if it does not come."""
        if self._process.poll() is None:
            self._process.terminate()
        try:
            self._process.wait(STOPPED_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()

    def log(self) -> str:
        """What it printed."""
        return (self.directory / "client.log").read_text(errors="replace")

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        """Status, headers and body of an answer of its control interface."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        connection.sock = self._socket()
        try:
            connection.sock.settimeout(20)
            connection.sock.connect(("127.0.0.1", self.port))
            connection.request(method, path, body, headers or {})
            reply = connection.getresponse()
            return reply.status, reply.headers, reply.read()
        finally:
            connection.close()

    def _socket(self) -> socket.socket:
        return socket_in(self._namespace, socket.SOCK_STREAM)

    def _accepts(self) -> bool:
        with self._socket() as sock:
            return sock.connect_ex(("127.0.0.1", self.port)) == 0


class Transmission(Client):
    """transmission-daemon, by its RPC."""

    port = 9191

    def command(self) -> list[str]:
        settings = {
            "bind-address-ipv4": self.address,
            "dht-enabled": False,
            "lpd-enabled": False,
            "pex-enabled": False,
            "utp-enabled": False,
            "port-forwarding-enabled": False,
            "download-queue-enabled": False,
            "queue-stalled-enabled": False,
            "peer-port": 51414,
            "preallocation": 0,
            "rpc-bind-address": "127.0.0.1",
            "rpc-port": self.port,
        }
        (self.directory / "settings.json").write_text(json.dumps(settings))
        return ["transmission-daemon", "-f", "-g", str(self.directory), "--log-debug"]

    def add(self, torrent: bytes, folder: Path) -> None:
        text = base64.b64encode(torrent).decode()
        self._call("torrent-add", {"metainfo": text, "download-dir": str(folder)})

    def complete(self) -> set[str]:
        rows = self._call("torrent-get", {"fields": ["hashString", "percentDone"]})["torrents"]
        return {row["hashString"] for row in rows if row["percentDone"] == 1}

    def leave(self) -> None:
        self._call("torrent-stop", {})  # at its end, it does not wait until HTTP trackers know

    def _call(self, method: str, arguments: dict[str, Any]) -> dict[str, Any]:
        body = json.dumps({"method": method, "arguments": arguments}).encode()
        _, headers, _ = self.ask("GET", "/transmission/rpc")  # 409, with the id to send
        session = {"X-Transmission-Session-Id": headers["X-Transmission-Session-Id"]}
        reply = json.loads(self.ask("POST", "/transmission/rpc", body, session)[2])
        assert reply["result"] == "success", reply
        found: dict[str, Any] = reply["arguments"]
        return found


class QBittorrent(Client):
    """qbittorrent-nox, by its web API."""

    port = 8089

    def command(self) -> list[str]:
        folder = self.directory / "qBittorrent" / "config"
        folder.mkdir(parents=True)
        (folder / "qBittorrent.conf").write_text(
            "[LegalNotice]\nAccepted=true\n[Meta]\nMigrationVersion=4\n[BitTorrent]\n"
            + "".join(
                f"Session\\{name}={value}\n"
                for name, value in {
                    "BTProtocol": "TCP",
                    "DHTEnabled": "false",
                    "LSDEnabled": "false",
                    "PeXEnabled": "false",
                    "QueueingSystemEnabled": "false",
                    "SSRFMitigation": "false",
                    "Port": "51600",
                    "Interface": "lo",
                    "InterfaceName": "lo",
                    "InterfaceAddress": self.address,
                }.items()
            )
            + "[Preferences]\nWebUI\\Address=127.0.0.1\nWebUI\\CSRFProtection=false\n"
            f"WebUI\\HostHeaderValidation=false\nWebUI\\LocalHostAuth=false\nWebUI\\Port={self.port}\n"
        )
        return ["qbittorrent-nox", f"--profile={self.directory}"]

    def add(self, torrent: bytes, folder: Path) -> None:
        mark = "----------part"
        head = f'--{mark}\r\nContent-Disposition: form-data; name="'
        body = (
            f'{head}savepath"\r\n\r\n{folder}\r\n{head}torrents"; filename="a.torrent"\r\n'
            "Content-Type: application/x-bittorrent\r\n\r\n"
        ).encode() + torrent
        status, _, reply = self.ask(
            "POST",
            "/api/v2/torrents/add",
            body + f"\r\n--{mark}--\r\n".encode(),
            {"Content-Type": f"multipart/form-data; boundary={mark}"},
        )
        assert status == 200 and reply == b"Ok.", (status, reply)

    def complete(self) -> set[str]:
        rows = json.loads(self.ask("GET", "/api/v2/torrents/info")[2])
        return {row["hash"] for row in rows if row["progress"] == 1}


class Aria2(Client):
    """aria2c, by its JSON-RPC."""

    port = 6800

    def command(self) -> list[str]:
        # It serves UDP trackers only with its DHT; private torrents do not use that.
        return [
            *("aria2c", "--enable-rpc", f"--rpc-listen-port={self.port}", "--no-conf"),
            *(f"--interface={self.address}", "--listen-port=51500", "--dht-listen-port=51501"),
            *("--enable-dht", f"--dht-file-path={self.directory}/dht.dat", "--enable-dht6=false"),
            *("--bt-enable-lpd=false", "--enable-peer-exchange=false", "--file-allocation=none"),
            *("--check-integrity", "--seed-ratio=0.0", "--max-concurrent-downloads=20"),
            *("--dir", str(self.directory), "--allow-overwrite"),
        ]

    def add(self, torrent: bytes, folder: Path) -> None:
        text = base64.b64encode(torrent).decode()
        self._call("aria2.addTorrent", [text, [], {"dir": str(folder)}])

    def complete(self) -> set[str]:
        fields = ["infoHash", "completedLength", "totalLength"]
        return {
            row["infoHash"]
            for row in self._call("aria2.tellActive", [fields])
            if row["completedLength"] == row["totalLength"]
        }

    def leave(self) -> None:
        self._call("aria2.shutdown", [])

    def _call(self, method: str, params: list[Any]) -> Any:
        body = json.dumps({"jsonrpc": "2.0", "id": "1", "method": method, "params": params})
        reply = json.loads(self.ask("POST", "/jsonrpc", body.encode())[2])
        assert "result" in reply, reply
        return reply["result"]
