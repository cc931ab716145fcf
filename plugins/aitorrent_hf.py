"""Lets huggingface_hub download through this machine's node of aitorrentd; over HTTP as always if
that does not work, for whatever reason.

    import aitorrent_hf; aitorrent_hf.enable()          # in a program
    python -m aitorrent_hf train.py                     # without changing it
    AITORRENT_HF=1 python train.py                      # after `aitorrentctl hub hook install`

One module of the standard library's only, which is copied into other people's environments. It
asks the node's control socket for a large public file by its SHA-256; the node fetches it from a
swarm or the Hub, verifies it, and says where it is. Tokens are not sent.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from types import ModuleType
from typing import Any, Final

_TARGET: Final = "huggingface_hub.file_download"
_LOG: Final = logging.getLogger("aitorrent_hf")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_IN_NAME: Final = re.compile(r"(?:^|\.)([0-9a-f]{64})\.incomplete$")
_SYSTEM_SOCKET: Final = "/run/aitorrent/control.sock"
_CONNECT_S: Final = 2.0
_SILENCE_S: Final = 30.0
"The node reports progress far more often; after this silence, HTTP is used."
_REST_S: Final = 60.0
"How long a node that was silent is not asked again."
_MAX_FRAME_BYTES: Final = 16 * 2**20
_HELLO, _CALL, _RESULT, _ERROR, _PROGRESS = 0, 1, 2, 3, 7
_FICLONE: Final = 0x40049409
_PREFIX: Final = {"dataset": "datasets/", "space": "spaces/"}

_asked = threading.local()
"What huggingface_hub is asked for in this thread."
_rest_until = 0.0


def enable() -> None:
    """Route downloads of huggingface_hub through the node, also if it is imported later."""
    module = sys.modules.get(_TARGET)
    if module is not None:
        _patch(module)
    elif not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def autoload() -> None:
    """Like `enable`, for a .pth file: a program never fails to start because of it."""
    with contextlib.suppress(Exception):
        enable()


class _Finder:
    """Patches the module right after its import; programs without it pay nothing."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name != _TARGET:
            return None
        for finder in list(sys.meta_path):
            spec: Any = None if finder is self else finder.find_spec(name, path, target)
            if spec is not None:
                if spec.loader is not None:
                    spec.loader = _Loader(spec.loader)
                return spec
        return None


class _Loader:
    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: Any) -> Any:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        _patch(module)


def _patch(module: ModuleType) -> None:
    """Wrap the one function through which every file goes, and two that know which file it is."""
    original = getattr(module, "_download_to_tmp_and_move", None)
    if original is None or hasattr(original, "aitorrent"):
        return

    def download(*args: Any, **given: Any) -> Any:
        try:
            is_done = not args and _place(module, original, given)
        except Exception as e:
            _LOG.debug("not through the node: %r", e)
            is_done = False
        return None if is_done else original(*args, **given)

    download.aitorrent = True  # type: ignore[attr-defined]
    module._download_to_tmp_and_move = download  # type: ignore[attr-defined]
    for name in ("_hf_hub_download_to_cache_dir", "_hf_hub_download_to_local_dir"):
        inner = getattr(module, name, None)
        if inner is not None:
            setattr(module, name, _noting(inner))


def _noting(inner: Callable[..., Any]) -> Callable[..., Any]:
    def noted(*args: Any, **given: Any) -> Any:
        before = getattr(_asked, "file", None)
        _asked.file = given
        try:
            return inner(*args, **given)
        finally:
            _asked.file = before

    return noted


def _place(module: ModuleType, original: Callable[..., Any], given: dict[str, Any]) -> bool:
    """Whether the file is in its place now, by the node."""
    asked: Mapping[str, Any] = getattr(_asked, "file", None) or {}
    destination, incomplete = given["destination_path"], given["incomplete_path"]
    etag = _etag(given, destination, incomplete)
    if not etag or given.get("force_download") or destination.exists():
        return False
    if not asked.get("repo_id") or not asked.get("filename"):
        return False
    size = given.get("expected_size")
    with _bar(module, given, size) as update:
        reply = _acquire(
            {
                "repo": _PREFIX.get(asked.get("repo_type") or "", "") + asked["repo_id"],
                "revision": asked.get("revision") or "main",
                "path": asked["filename"],
                "etag": etag,
                "endpoint": asked.get("endpoint")
                or sys.modules["huggingface_hub.constants"].ENDPOINT,
            },
            update,
        )
        if size is not None and reply["size"] != size:
            raise ValueError(f"{reply['size']} bytes instead of {size}")
        update(reply["size"])
    incomplete.parent.mkdir(parents=True, exist_ok=True)
    name = f"{incomplete.stem}.{os.urandom(4).hex()}.incomplete"
    temporary = incomplete.with_name(name)
    try:
        is_shared = _copy(reply["path"], temporary)
        if is_shared:  # its mode is the node's business
            os.replace(temporary, destination)
        else:
            module._chmod_and_move(temporary, destination)
        return True
    except PermissionError:
        # The node runs as another user: its mirror serves what it has.
        return bool(reply["mirror"]) and _from_mirror(original, given, reply["mirror"])
    finally:
        with contextlib.suppress(OSError):
            os.unlink(temporary)


def _from_mirror(original: Callable[..., Any], given: dict[str, Any], url: str) -> bool:
    kept = {k: v for k, v in given["headers"].items() if k.lower() != "authorization"}
    changed = {**given, "url_to_download": url, "headers": kept}
    if "xet_file_data" in given:
        changed["xet_file_data"] = None
    original(**changed)
    return True


def _etag(given: Mapping[str, Any], destination: Any, incomplete: Any) -> str:
    """The SHA-256 of the file; versions before 0.30 give it only in names."""
    for text in (given.get("etag"), destination.name):
        if isinstance(text, str) and _SHA256.fullmatch(text):
            return text
    match = _IN_NAME.search(incomplete.name)
    return match[1] if match else ""


def _copy(source: str, target: Any) -> bool:
    """A copy without using space, if the file system can; whether it shares the file itself."""
    with contextlib.suppress(OSError):
        _clone(source, target)
        return False
    with contextlib.suppress(OSError):
        os.unlink(target)  # what a failed clone left
    with contextlib.suppress(OSError):
        os.link(source, target)
        return True
    import shutil

    shutil.copyfile(source, target)
    return False


def _clone(source: str, target: Any) -> None:
    import fcntl

    with open(source, "rb") as from_file, open(target, "wb") as to_file:
        fcntl.ioctl(to_file.fileno(), _FICLONE, from_file.fileno())


@contextlib.contextmanager
def _bar(
    module: ModuleType, given: Mapping[str, Any], size: int | None
) -> Iterator[Callable[[int], None]]:
    """Shows progress as huggingface_hub does; errors of the display do no harm."""
    bar, shown = None, 0
    kind = given.get("tqdm_class") or getattr(module, "tqdm", None)
    settings = {"unit": "B", "unit_scale": True, "total": size, "initial": 0}
    settings["desc"] = str(given.get("filename") or "")[-40:]
    for more in ({"name": "huggingface_hub.http_get"}, {}):
        with contextlib.suppress(Exception):
            bar = bar or (kind(**settings, **more) if kind else None)

    def update(done: int) -> None:
        nonlocal shown
        with contextlib.suppress(Exception):
            if bar is not None and done > shown:
                bar.update(done - shown)
                shown = done

    try:
        yield update
    except BaseException:
        with contextlib.suppress(Exception):
            if bar is not None and shown:
                bar.update(-shown)  # HTTP counts from the beginning
        raise
    finally:
        with contextlib.suppress(Exception):
            if bar is not None:
                bar.close()


# The control API of the node: frames of msgpack over a Unix socket.


def _acquire(params: Mapping[str, Any], update: Callable[[int], None]) -> Mapping[str, Any]:
    """The result of `hub.acquire`.

    Raises:
        OSError: no node, or it is silent. ValueError: it refuses, or speaks another protocol.
    """
    global _rest_until
    import socket

    if time.monotonic() < _rest_until:
        raise TimeoutError("the node was silent")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(_CONNECT_S)
        sock.connect(_socket_path())
        sock.settimeout(_SILENCE_S)
        try:
            _send(sock, [_HELLO, {"proto": [1, 1], "client": "aitorrent_hf", "features": []}])
            hello = _receive(sock)
            if hello[0] != _HELLO:
                raise ValueError(f"the node answered {hello}")
            _send(sock, [_CALL, 1, "hub.acquire", dict(params), {}])
            while True:
                message = _receive(sock)
                kind, value = message[0], message[-1]
                if kind == _RESULT:
                    return dict(value)
                if kind == _ERROR:
                    raise ValueError(value["message"])
                if kind == _PROGRESS and isinstance(value.get("done"), (int, float)):
                    update(int(value["done"]))
        except TimeoutError:
            _rest_until = time.monotonic() + _REST_S
            raise


def _socket_path() -> str:
    """As `aitorrentctl` finds it: the one that is named, this user's daemon, the system's."""
    chosen = os.environ.get("AITORRENT_SOCKET")
    if chosen:
        return chosen
    runtime = os.environ.get("XDG_RUNTIME_DIR") or ""
    state = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    folder = ("aitorrent",) if runtime.startswith("/") else ("aitorrent", "run")
    own = os.path.join(runtime if runtime.startswith("/") else state, *folder, "control.sock")
    return own if os.path.exists(own) else _SYSTEM_SOCKET


def _send(sock: Any, message: list[Any]) -> None:
    body = _packed(message)
    sock.sendall(struct.pack(">I", len(body)) + body)


def _receive(sock: Any) -> list[Any]:
    (size,) = struct.unpack(">I", _exactly(sock, 4))
    if size > _MAX_FRAME_BYTES:
        raise ValueError(f"a frame of {size} bytes")
    message, _ = _unpacked(_exactly(sock, size), 0)
    if not isinstance(message, list) or not message:
        raise ValueError("a frame that is no message")
    return message


def _exactly(sock: Any, size: int) -> bytes:
    got = bytearray()
    while len(got) < size:
        part = sock.recv(min(size - len(got), 65_536))
        if not part:
            raise ConnectionError("the node closed the connection")
        got += part
    return bytes(got)


def _packed(value: Any) -> bytes:
    """The value in msgpack: integers from 0, texts, lists and maps are all that is sent."""
    if isinstance(value, int):
        return struct.pack(">BQ", 0xCF, value)
    if isinstance(value, str):
        raw = value.encode()
        return struct.pack(">BI", 0xDB, len(raw)) + raw
    if isinstance(value, list):
        return struct.pack(">BI", 0xDD, len(value)) + b"".join(map(_packed, value))
    parts = b"".join(_packed(key) + _packed(inner) for key, inner in value.items())
    return struct.pack(">BI", 0xDF, len(value)) + parts


_FIXED: Final = {
    0xCA: ">f",
    0xCB: ">d",
    0xCC: ">B",
    0xCD: ">H",
    0xCE: ">I",
    0xCF: ">Q",
    0xD0: ">b",
    0xD1: ">h",
    0xD2: ">i",
    0xD3: ">q",
}
_SIZED: Final = {
    0xC4: (">B", "bin"),
    0xC5: (">H", "bin"),
    0xC6: (">I", "bin"),
    0xD9: (">B", "str"),
    0xDA: (">H", "str"),
    0xDB: (">I", "str"),
    0xDC: (">H", "list"),
    0xDD: (">I", "list"),
    0xDE: (">H", "map"),
    0xDF: (">I", "map"),
}


def _unpacked(raw: bytes, at: int) -> tuple[Any, int]:
    """The value at `at`, and where the next one begins."""
    kind = raw[at]
    at += 1
    if kind < 0x80:
        return kind, at
    if kind >= 0xE0:
        return kind - 256, at
    if kind in (0xC0, 0xC2, 0xC3):
        return {0xC0: None, 0xC2: False, 0xC3: True}[kind], at
    if kind in _FIXED:
        form = _FIXED[kind]
        return struct.unpack_from(form, raw, at)[0], at + struct.calcsize(form)
    if kind in _SIZED:
        form, what = _SIZED[kind]
        (size,) = struct.unpack_from(form, raw, at)
        at += struct.calcsize(form)
    elif kind < 0x90:
        what, size = "map", kind & 0x0F
    elif kind < 0xA0:
        what, size = "list", kind & 0x0F
    elif kind < 0xC0:
        what, size = "str", kind & 0x1F
    else:
        raise ValueError(f"msgpack of kind {kind:#x}")
    return _inside(raw, at, what, size)


def _inside(raw: bytes, at: int, what: str, size: int) -> tuple[Any, int]:
    if what in ("str", "bin"):
        inner = raw[at : at + size]
        if len(inner) < size:
            raise ValueError("msgpack that ends early")
        return (inner.decode() if what == "str" else inner), at + size
    items: list[Any] = []
    for _ in range(size * (2 if what == "map" else 1)):
        item, at = _unpacked(raw, at)
        items.append(item)
    if what == "list":
        return items, at
    return dict(zip(items[::2], items[1::2], strict=True)), at


def main() -> None:
    """`python -m aitorrent_hf PROGRAM …` runs a program with the hook, `-m MODULE …` a module."""
    import runpy

    words = sys.argv[1:]
    if not words or words == ["-m"]:
        raise SystemExit(
            "usage: python -m aitorrent_hf PROGRAM [ARGUMENT…] | -m MODULE [ARGUMENT…]"
        )
    enable()
    if words[0] == "-m":
        sys.argv = words[1:]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = words
        sys.path[0] = os.path.dirname(os.path.abspath(words[0]))
        runpy.run_path(words[0], run_name="__main__")


if __name__ == "__main__":
    from aitorrent_hf import main as run  # the module that huggingface_hub's patch belongs to

    run()
