"""Entry points for worker processes in tests."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from typing import Any

from aitorrentd.errors import Busy
from aitorrentd.wire import Frame
from aitorrentd.workers.worker import Handler

SAYS = os.environ.get("AITORRENT_TEST_SAYS")


def echo() -> Handler:
    """A worker that echoes its input, and misbehaves on request."""

    def handle(request: Frame) -> tuple[dict[str, Any], Any]:
        match request.header["op"]:
            case "echo":
                return {"said": request.header.get("say")}, request.tail
            case "make":
                return {}, bytearray(request.header["n"])
            case "busy":
                raise Busy("no room", free=3)
            case "bug":
                raise ZeroDivisionError("secret detail")
            case "log":
                print("a line for the log", file=sys.stderr, flush=True)
                return {}, b""
            case "sleep":
                time.sleep(request.header["s"])
            case "hang":
                threading.Event().wait()
            case "die":
                os.kill(os.getpid(), signal.SIGKILL)
        return {}, b""

    return handle


def environment() -> Handler:
    """A worker that reports an environment variable as it was when this module was imported."""
    return lambda request: ({"says": SAYS}, b"")


def foreign() -> Handler:
    """A worker that runs any Python it is sent and answers with the value of `result`."""

    def handle(request: Frame) -> tuple[dict[str, Any], Any]:
        names: dict[str, Any] = {}
        exec(request.header["code"], names)
        return {"result": names.get("result")}, b""

    return handle
