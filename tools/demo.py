"""Three nodes on this machine answer a prompt together: `demo.py [--keep] [--prompt TEXT]`.

Starts three daemons on loopback, each with its own state directory, free ports and a third of the
demo model, connects them, reports each as its layers are loaded, asks the first one through
`aitorrentctl ask`, and stops everything.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import yaml

SPLITS: Final = ("0-3", "3-6", "6-9")
LAYERS: Final = 9
NAMES: Final = ("ada", "ben", "cyd")
READY_S: Final = 60.0
POLL_S: Final = 0.1
BIN: Final = Path(sys.executable).parent
QUESTION: Final = "How does a split model work?"


class DemoError(Exception):
    """A problem that the user must know about, in one line."""


class Node:
    """One daemon of the demo, with all its files below one directory."""

    def __init__(self, home: Path, name: str, layers: str) -> None:
        self.home, self.name, self.layers = home / name, name, layers
        self.id = ""
        "Known once the node has an address."
        self.socket = self.home / "control.sock"
        self.log = self.home / "log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Write the configuration and start the daemon."""
        self.home.mkdir(parents=True)
        config = {
            "version": 1,
            "node": {
                "name": self.name,
                "network": "demo",
                "state_dir": str(self.home / "state"),
                "cache_dir": str(self.home / "cache"),
                "runtime_dir": str(self.home / "run"),
            },
            "control": {"socket": str(self.socket)},
            "plugins": {
                "transport": {"listen": "127.0.0.1", "port": 0},
                "ollama": {"enabled": False},
                "shards": {"models": [{"name": "demo", "layers": self.layers}]},
            },
        }
        path = self.home / "aitorrent.yaml"
        path.write_text(yaml.safe_dump(config, sort_keys=False))
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [BIN / "aitorrentd", "--config", path],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def ctl(self, *words: str) -> list[str]:
        """The command line of `aitorrentctl` for this node."""
        return [str(BIN / "aitorrentctl"), "--socket", str(self.socket), *words]

    def call(self, *words: str) -> Any:
        """The JSON that a command prints, or None while the daemon does not answer."""
        done = subprocess.run(self.ctl("--json", *words), capture_output=True, check=False)
        self.check()
        return json.loads(done.stdout) if done.returncode == 0 and done.stdout.strip() else None

    def check(self) -> None:
        """Report a daemon that ended, with the end of its log.

        Raises:
            DemoError: the daemon ended.
        """
        if self.process and self.process.poll() is not None:
            tail = self.log.read_text(errors="replace").strip().splitlines()[-5:]
            raise DemoError(f"node {self.name} ended early:\n  " + "\n  ".join(tail))

    def address(self) -> str | None:
        """The address where peers reach it, or None until it listens."""
        told = self.call("id")
        if not told or not told["addresses"]:
            return None
        self.id = told["id"]
        return str(told["addresses"][0])

    def stop(self) -> None:
        """Stop the daemon gracefully, or after 10 s by force."""
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


def until(what: str, ready: Any, log: Path) -> Any:
    """Poll `ready` until it returns a value."""
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline:
        if found := ready():
            return found
        time.sleep(POLL_S)
    raise DemoError(f"{what} did not happen within {READY_S:g} s; see {log}")


def show_loading(nodes: Sequence[Node]) -> None:
    """Print each node, in order, once its layers are loaded; a terminal also shows how many are.

    Raises:
        DemoError: a daemon ended, or the layers were not loaded in time.
    """
    first, waiting = nodes[0], list(nodes)
    erase = "\r\x1b[K" if sys.stdout.isatty() else ""

    drawn = ""

    def is_loaded() -> bool:
        nonlocal drawn
        for node in nodes:
            node.check()
        spans = (first.call("spans") or {"spans": []})["spans"]
        holders = {span["peer"] for span in spans}
        while waiting and waiting[0].id in holders:
            node = waiting.pop(0)
            print(f"{erase}  {node.name}  layers {node.layers}  {node.id}", flush=True)
            drawn = ""
        layers = {n for span in spans for n in range(span["start"], span["end"])}
        count = f"{erase}  {len(layers)} of {LAYERS} layers are loaded"
        if erase and waiting and count != drawn:
            print(drawn := count, end="", flush=True)
        return not waiting

    try:
        until("loading the model", is_loaded, first.log)
    finally:
        print(erase, end="", flush=True)


def run(home: Path, prompt: str, *, keep: bool) -> int:
    """The whole demo; the exit code is that of `aitorrentctl ask`."""
    nodes = [Node(home, name, layers) for name, layers in zip(NAMES, SPLITS, strict=True)]
    try:
        for node in nodes:
            node.start()
        first = nodes[0]
        print(f"Starting {len(nodes)} nodes, each with a third of the demo model (10 to 30 s) …")
        sys.stdout.flush()
        address, *_ = [until(f"an address of {n.name}", n.address, n.log) for n in nodes]
        for node in nodes[1:]:
            subprocess.run(node.ctl("connect", address), check=True, capture_output=True)
        show_loading(nodes)
        waiting = first.ctl("--timeout", f"{READY_S:g}", "wait", "--model", "demo")
        if subprocess.run(waiting, stdout=subprocess.DEVNULL, check=False).returncode:
            raise DemoError(f"the model did not become complete; see {first.log}")
        print(f"\n$ aitorrentctl ask -m demo {shlex.quote(prompt)}\n", flush=True)
        code = subprocess.run(first.ctl("ask", "-m", "demo", prompt), check=False).returncode
        if keep and code == 0:
            leave(nodes, home)
            return 0
    except BaseException:
        keep = False
        raise
    finally:
        if not keep:
            for node in nodes:
                node.stop()
    if code == 0:
        print("\nStopped. Next: make demo KEEP=1", flush=True)
    return code


def leave(nodes: list[Node], home: Path) -> None:
    """Explain how to use the nodes that stay up."""
    pids = [str(n.process.pid) for n in nodes if n.process]
    print(
        f"\nThe nodes keep running. To point aitorrentctl at {nodes[0].name}:\n"
        f"  export PATH={BIN}:$PATH AITORRENT_SOCKET={nodes[0].socket}\n"
        f"and try:\n"
        f"  aitorrentctl status\n"
        f"  aitorrentctl peers\n"
        f"  aitorrentctl chat -m demo\n"
        f"  kill -9 {pids[1]}    # {nodes[1].name} dies, and with it layers {nodes[1].layers}:\n"
        f"  aitorrentctl ask -m demo hello\n"
        f"Stop them:\n"
        f"  kill {' '.join(pids)}; sleep 2; rm -r {home}"
    )


def main() -> int:
    """Run the demo in a temporary directory."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", action="store_true", help="keep the nodes running")
    parser.add_argument("--prompt", default=QUESTION)
    options = parser.parse_args()
    # A socket path holds at most 107 bytes, so the directory has a short name.
    home = Path(tempfile.mkdtemp(prefix="aitd-", dir=os.environ.get("TMPDIR", "/tmp")))
    kept = False
    try:
        code = run(home, options.prompt, keep=options.keep)
        kept = options.keep and code == 0
        return code
    except DemoError as e:
        print(f"demo: {e}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        if not kept:
            shutil.rmtree(home, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
