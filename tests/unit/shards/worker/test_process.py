"""The shard worker as a real process, over the socket that a daemon would hold."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from aitorrentd.wire import Frame, decode_frame, encode_frame
from tests.support.shards.shards_worker import (
    load_request,
    parse_choice,
    random_prompt,
    reference_tokens,
    token_tail,
)

pytestmark = pytest.mark.slow

MakeModel = Callable[..., Path]

_ROOT = Path(__file__).parents[4]


class Process:
    """A worker process and our end of its socket."""

    def __init__(self, process: subprocess.Popen[bytes], sock: socket.socket) -> None:
        self.process = process
        self.sock = sock
        self._ids = 0

    def _receive(self, n: int) -> bytes:
        parts = b""
        while len(parts) < n:
            part = self.sock.recv(n - len(parts))
            if not part:
                raise EOFError("the worker closed its socket")
            parts += part
        return parts

    def request(self, op: str, tail: bytes = b"", **fields: Any) -> Frame:
        """One request; its answer, which may be an error."""
        self._ids += 1
        self.sock.sendall(encode_frame({"op": op, "id": self._ids, **fields}, tail))
        answer = decode_frame(self._receive(int.from_bytes(self._receive(4), "big")))
        assert answer.header.pop("id") == self._ids
        return answer


@contextlib.contextmanager
def _worker() -> Iterator[Process]:
    ours, theirs = socket.socketpair()
    ours.settimeout(60)
    environment = {**os.environ, "PYTHONPATH": f"{_ROOT}:{_ROOT / 'plugins'}"}
    arguments = [sys.executable, "-m", "aitorrentd.workers.worker"]
    with ours, theirs:
        process = subprocess.Popen(arguments, stdin=theirs.fileno(), env=environment)
        theirs.close()
        try:
            worker = Process(process, ours)
            started = worker.request("start", entry="aitorrent_shards.worker.process:main")
            assert started.header == {"pid": process.pid}
            yield worker
        finally:
            process.kill()
            process.wait(timeout=10)


def _generate(workers: list[Process], prompt: list[int], count: int, length: int = 0) -> list[int]:
    tokens: list[int] = []
    ids = prompt
    while len(tokens) < count:
        tail: Any = token_tail(ids)
        answer = None
        for worker in workers:
            want = {"k": 4, "temperature": 0.0} if worker is workers[-1] else None
            fields = {"session": b"s", "pos": length, "n": len(ids), "want": want}
            answer = worker.request("step", bytes(tail), **fields)
            assert "error" not in answer.header, answer.header
            tail = answer.tail
        assert answer is not None
        length += len(ids)
        tokens.append(parse_choice(answer.header, answer.tail).ids[0])
        ids = tokens[-1:]
    return tokens


def _load(worker: Process, path: Path, start: int, end: int) -> dict[str, Any]:
    request = load_request(path, start, end)
    answer = worker.request(request.pop("op"), **request).header
    worker.request("open", session=b"s", start=start, end=end, max_positions=100)
    return answer


def test_two_processes_answer_like_generate_and_a_killed_one_can_be_replaced(
    model: MakeModel,
) -> None:
    path = model(family="qwen3")
    prompt = random_prompt(20)
    expected = reference_tokens(path, prompt, 24)
    with _worker() as first, _worker() as last:
        answer = _load(first, path, 0, 3)
        assert (answer["layers"], answer["start"], answer["end"]) == (6, 0, 3)
        _load(last, path, 3, 6)
        tokens = _generate([first, last], prompt, 10)
        assert tokens == expected[:10]

        last.process.send_signal(signal.SIGKILL)
        assert last.process.wait(timeout=10) == -signal.SIGKILL
        with pytest.raises((EOFError, ConnectionError, BrokenPipeError)):
            last.request("stats")

        with _worker() as spare:
            _load(spare, path, 3, 6)
            # The first stage forgets and repeats, as a daemon's journal would feed it again.
            first.request("close", session=b"s")
            first.request("open", session=b"s", start=0, end=3, max_positions=100)
            known = prompt + tokens[:-1]
            assert _generate([first, spare], known, 15) == expected[9:]


def test_errors_travel_and_the_worker_goes_on(model: MakeModel, tmp_path: Path) -> None:
    with _worker() as worker:
        request = load_request(tmp_path, 0, 1)
        refused = worker.request(request.pop("op"), **request)
        assert refused.header["error"]["code"] == "not_found"
        assert worker.request("stats").header["error"]["code"] == "conflict"
        _load(worker, model(), 0, 6)
        conflict = worker.request("step", token_tail([1]), session=b"s", pos=5, n=1, want=None)
        assert conflict.header["error"]["data"] == {"have": 0}
        assert len(_generate([worker], [1, 2, 3], 5)) == 5


def test_worker_ends_when_the_daemon_closes_its_end() -> None:
    with _worker() as worker:
        assert worker.request("stats").header["error"]["code"] == "conflict"
        worker.sock.close()
        assert worker.process.wait(timeout=10) == 0


def test_waiting_worker_has_not_imported_torch() -> None:
    with _worker() as worker:
        worker.request("stats")
        maps = Path(f"/proc/{worker.process.pid}/maps").read_text()
        assert "libtorch" not in maps
