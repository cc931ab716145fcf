"""Three stages on loopback against transformers' generate() in one process, in turn.

    python -m benchmarks.decode [--rounds 5] [--prompt 512] [--new 64] [--json FILE] [--apart]

A random Llama of 197 M parameters in float32, one torch thread per process, greedy, batch 1. Ours:
three daemons, each with a third of the layers, called through the control socket. Both run in the
same rounds, so that their ratio is valid on a noisy machine. The tokens of both must be equal. With
--apart a fourth daemon without layers takes the requests, so that all four hops cross the network.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

from aitorrentd.control.client import Client
from aitorrentd.errors import AitorrentError
from benchmarks.report import finish, spread
from tests.support.shards.models import SMALL, make_model

SPLITS = ("0-5", "5-11", "11-16")
READY_S = 120.0


class Daemons:
    """Three daemons with a third of the model each; the first one takes the requests.

    `apart`: a separate daemon without layers takes the requests.
    """

    def __init__(self, home: Path, model: Path, *, apart: bool = False) -> None:
        self.home, self.model = home, model
        self.splits = ("none", *SPLITS) if apart else SPLITS
        self.processes: list[subprocess.Popen[bytes]] = []

    def client(self, n: int) -> Client:
        """A client of daemon `n`."""
        return Client(self.home / f"{n}.sock", timeout=300)

    def start(self) -> None:
        """Start and connect them, and wait until the first knows holders of all layers."""
        for n, layers in enumerate(self.splits):
            directory = self.home / str(n)
            directory.mkdir()
            config = {
                "version": 1,
                "node": {k: str(directory / k) for k in ("state_dir", "cache_dir", "runtime_dir")},
                "control": {"socket": str(self.home / f"{n}.sock")},
                "plugins": {
                    "transport": {"listen": "127.0.0.1", "port": 0},
                    "ollama": {"enabled": False},
                    "shards": {
                        "models": [{"name": "small", "path": str(self.model), "layers": layers}]
                    },
                },
            }
            path = directory / "aitorrent.yaml"
            path.write_text(yaml.safe_dump(config))
            command = [sys.executable, "-m", "aitorrentd.main", "--config", str(path)]
            log = (directory / "log").open("wb")
            self.processes.append(subprocess.Popen(command, stdout=log, stderr=log))
        address = self.wait(lambda: self.call(0, "node.id")["addresses"][0])
        for n in range(1, len(self.splits)):
            self.wait(lambda n=n: self.call(n, "transport.connect", {"address": address}))
        self.wait(lambda: self.call(0, "inference.models")["models"][0])

    def call(self, n: int, method: str, params: dict[str, Any] | None = None) -> dict[str, Any]:
        """One call to daemon `n`."""
        with self.client(n) as client:
            return client.call(method, params or {})

    def wait(self, ready: Any) -> Any:
        """Poll `ready` until it returns a value."""
        deadline = time.monotonic() + READY_S
        while True:
            try:
                return ready()
            except (AitorrentError, LookupError):
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)

    def ask(self, ids: list[int], last: str, new: int) -> dict[str, Any]:
        """One greedy answer; `ids` end with the token of `last`."""
        params = {
            "model": "small",
            "prompt": last,
            "raw": True,
            "params": {"temperature": 0, "max_tokens": new, "context": ids[:-1]},
        }
        tokens: list[int] = []
        times: list[float] = []
        with self.client(0) as client:
            began = time.perf_counter()
            stream = client.stream("inference.generate", params)
            for item in stream:
                got = item.get("token_ids") or []
                tokens += got
                times += [time.perf_counter()] * len(got)
            summary = stream.summary
        return {
            "tokens": tokens,
            "first_s": times[0] - began,
            "decode_s": times[-1] - times[0],
            "summary": summary,
        }

    def step_us(self) -> list[int]:
        """The median time per token of each stage's layers."""
        holders = [n for n, layers in enumerate(self.splits) if layers != "none"]
        return [self.call(n, "shards.models")["models"][0]["step_us"] for n in holders]

    def stop(self) -> None:
        """Stop them all."""
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            process.wait(20)


def measure(rounds: int, prompt: int, new: int, *, apart: bool) -> dict[str, Any]:
    """Run both in turn; the first round of each is a warm-up."""
    os.environ["OMP_NUM_THREADS"] = "1"
    draw = random.Random(7)
    last = "a"
    with tempfile.TemporaryDirectory(prefix="aitd-") as name:
        home = Path(name)
        model = make_model(home / "model", SMALL)
        command = [sys.executable, "-m", "benchmarks.generate_once", str(model)]
        single = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert single.stdin and single.stdout
        daemons = Daemons(home, model, apart=apart)
        ours, theirs, equal = [], [], True
        try:
            single.stdout.readline()
            daemons.start()
            last_id = letter_id(model, last)
            for n in range(rounds + 1):
                ids = [draw.randrange(300, SMALL.vocab) for _ in range(prompt - 1)] + [last_id]
                single.stdin.write(json.dumps({"ids": ids, "new": new}) + "\n")
                single.stdin.flush()
                theirs.append(json.loads(single.stdout.readline()))
                ours.append(daemons.ask(ids, last, new))
                equal = equal and ours[-1]["tokens"] == theirs[-1]["tokens"]
                if len(ours[-1]["tokens"]) != new:
                    print(f"round {n}: {len(ours[-1]['tokens'])} tokens", file=sys.stderr)
            step_us = daemons.step_us()
        finally:
            daemons.stop()
            single.stdin.close()
            single.wait()
    found = figures(ours[1:], theirs[1:], equal, step_us)
    if not apart:
        found["stage_to_stage_ms"] = stage_to_stage_ms(ours[1:])
    return found


def stage_to_stage_ms(ours: list[dict[str, Any]]) -> dict[str, float]:
    """The time between two stages' layers: a worker's answer, ciphers, network, the next worker.

    With the first stage inside the node that takes the request, a token crosses the network as
    often as a worker's pipe: once per stage.
    """
    stages = len(SPLITS)
    return spread([o["summary"]["hop_us"] * (stages + 1) / stages / 1000 for o in ours])


def letter_id(model: Path, letter: str) -> int:
    """The token id of one letter."""
    from tokenizers import Tokenizer

    ids: list[int] = Tokenizer.from_file(str(model / "tokenizer.json")).encode(letter).ids
    return ids[0]


def figures(
    ours: list[dict[str, Any]], theirs: list[dict[str, Any]], equal: bool, step_us: list[int]
) -> dict[str, Any]:
    """The table, as maps."""

    def rate(run: dict[str, Any]) -> float:
        return float((len(run["tokens"]) - 1) / run["decode_s"])

    layers_ms = sum(step_us) / 1000
    return {
        "tokens_equal": equal,
        "ours_tokens_per_s": spread([rate(o) for o in ours]),
        "generate_tokens_per_s": spread([rate(t) for t in theirs]),
        "decode_ratio": spread([rate(o) / rate(t) for o, t in zip(ours, theirs, strict=True)]),
        "ours_first_s": spread([o["first_s"] for o in ours]),
        "generate_first_s": spread([t["first_s"] for t in theirs]),
        "first_ratio": spread(
            [o["first_s"] / t["first_s"] for o, t in zip(ours, theirs, strict=True)]
        ),
        "layers_ms_per_token": round(layers_ms, 3),
        # Network, ciphers and worker pipe, measured per token around the ring: four hops.
        "hop_ms": spread([o["summary"]["hop_us"] / 1000 for o in ours]),
    }


def main() -> None:
    """Parse the options and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--new", type=int, default=64)
    parser.add_argument("--apart", action="store_true", help="ask a fourth daemon, without layers")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    result = measure(options.rounds, options.prompt, options.new, apart=options.apart)
    finish(result, options.json)


if __name__ == "__main__":
    main()
