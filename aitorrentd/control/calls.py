"""The calls of one control connection: checks, runs, streams, cancels and answers them.

A plain function is answered at once. A coroutine or an async generator runs in its own task, which
ends with the connection. A handler's exceptions stop here: the caller gets a code and a message,
the log gets the traceback.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, Protocol

from pydantic import BaseModel

from aitorrentd.api.plugin import End, Method, Role
from aitorrentd.control import framing
from aitorrentd.control.auth import Credentials
from aitorrentd.control.call import Call, Outbox, encode_error
from aitorrentd.errors import (
    AitorrentError,
    Busy,
    Cancelled,
    Denied,
    InvalidParams,
    PluginError,
    ProtocolError,
    TimedOut,
)
from aitorrentd.validation import checked_params

MAX_OPEN_CALLS: Final = 128


class MethodSource(Protocol):
    """Where methods come from; they appear and disappear with their plugins."""

    def method(self, name: str) -> tuple[str, Method]:
        """The plugin and the method called `name`.

        Raises:
            MethodNotFound: no such method. Unavailable: its plugin is not running.
        """


@dataclass(slots=True)
class Counters:
    """A server's counters."""

    connections: int = 0
    refused: int = 0
    malformed: int = 0
    calls: int = 0
    errors: int = 0
    items: int = 0


def _result(value: Any) -> Any:
    if value is None:
        return {}
    if type(value) is dict or isinstance(value, BaseModel):
        return value
    raise TypeError(f"a handler returned {type(value).__name__}, not a map")


def _discard(answer: Any) -> None:
    """Drop a coroutine that will never run, without Python's warning about it."""
    close = getattr(answer, "close", None)
    if close is not None:
        close()


@asynccontextmanager
async def _closing(items: AsyncIterator[Any]) -> AsyncIterator[None]:
    try:
        yield
    finally:
        close = getattr(items, "aclose", None)
        if close is not None:
            await close()


class Calls:
    """The open calls of one connection."""

    def __init__(
        self,
        source: MethodSource,
        outbox: Outbox,
        *,
        caller: Credentials,
        role: Role,
        group: str,
        counters: Counters,
        log: logging.Logger,
    ) -> None:
        self._source = source
        self._outbox = outbox
        self._caller = caller
        self._role = role
        self._group = group
        self._counters = counters
        self._log = log
        self._audit = log.getChild("audit")
        self._denied: set[str] = set()
        self._open: dict[int, Call] = {}
        self._refusal: AitorrentError | None = None

    def __len__(self) -> int:
        return len(self._open)

    def tasks(self, *, streams: bool = True) -> set[asyncio.Task[None]]:
        """The tasks of open calls, with or without those of streams."""
        calls = self._open.values()
        return {c.task for c in calls if c.task and (streams or not c.method.stream)}

    def begin(self, message: list[Any]) -> None:
        """Serve `[1, id, method, params, meta]`.

        Raises:
            ProtocolError: no usable id, so there is no call to answer.
        """
        ident: Any = message[1] if len(message) > 1 else None
        if not framing.is_id(ident):
            raise ProtocolError("a call needs an id from 1 to 2^32-1")
        if ident in self._open:
            raise ProtocolError(f"call id {ident} is still open")
        self._counters.calls += 1
        call: Call | None = None
        try:
            call, params = self._prepare(ident, message)
            answer: Any = call.method.handler(call, params)
            if call.method.stream:
                if not hasattr(answer, "__aiter__"):
                    _discard(answer)
                    raise TypeError("the handler of a stream must be an async generator function")
                self._start(call, answer, self._stream(call, answer))
            elif type(answer) is dict or not hasattr(answer, "__await__"):
                self._finish(call, framing.encode(framing.RESULT, ident, _result(answer)), "ok")
            else:
                self._start(call, answer, self._unary(call, answer))
        except AitorrentError as e:
            self._fail(ident, call, e)
        except (Exception, SystemExit) as e:
            self._fail(ident, call, self._bug(call, message[2], e))

    def cancel(self, message: list[Any]) -> None:
        """Serve `[6, id]`; ignored if the call is not open: it may just have ended."""
        call = self._lookup(message)
        if call is not None:
            call.stop(Cancelled("the caller cancelled"))

    def grant(self, message: list[Any]) -> None:
        """Serve `[8, id, n]`: the caller can take `n` more items."""
        call = self._lookup(message)
        n = message[2] if len(message) > 2 else None
        if type(n) is not int or n < 1:
            raise ProtocolError("credit must be at least 1")
        if call is not None:
            call.credit = min(call.credit + n, framing.MAX_CREDIT)
            if call.has_credit is not None:
                call.has_credit.set()

    def refuse_new(self, reason: AitorrentError) -> None:
        """Answer every further call with `reason`."""
        self._refusal = reason

    def stop(self, reason: AitorrentError, *, streams_only: bool = False) -> None:
        """Cancel open calls and tell their callers why."""
        for call in list(self._open.values()):
            if call.method.stream or not streams_only:
                call.stop(reason)

    def _lookup(self, message: list[Any]) -> Call | None:
        ident = message[1] if len(message) > 1 else None
        return self._open.get(ident) if type(ident) is int else None

    def _prepare(self, ident: int, message: list[Any]) -> tuple[Call, Any]:
        name = message[2] if len(message) > 2 else None
        params = message[3] if len(message) > 3 else {}
        meta = message[4] if len(message) > 4 else {}
        if type(name) is not str or type(params) is not dict or type(meta) is not dict:
            raise InvalidParams("a call is [1, id, method text, params map, meta map]")
        if self._refusal is not None:
            raise self._refusal
        if len(self._open) >= MAX_OPEN_CALLS:
            raise Busy(f"{MAX_OPEN_CALLS} calls are open on this connection; wait for one to end")
        plugin, method = self._source.method(name)
        if method.role > self._role:
            raise self._denial(method)
        call = Call(ident, plugin, method, self._role, self._outbox)
        if meta:
            call.apply(meta)
        return call, checked_params(method.params, params, name)

    def _denial(self, method: Method) -> Denied:
        if method.name not in self._denied:
            # Once per method: a persistent caller must not fill the log.
            self._denied.add(method.name)
            who = f"uid={self._caller.uid} pid={self._caller.pid}"
            self._audit.warning("%s method=%s outcome=denied", who, method.name)
        if method.role >= Role.ADMIN:
            remedy = "run the command as root or as the daemon's user"
        else:
            remedy = f"join the group: sudo adduser $USER {self._group}, then log in again"
        role, needed = self._role.name.lower(), method.role.name.lower()
        return Denied(
            f"{method.name} needs the role {needed}; this caller has {role}; {remedy}",
            needed=needed,
            role=role,
        )

    def _start(self, call: Call, answer: Any, running: Coroutine[Any, Any, None]) -> None:
        self._open[call.ident] = call
        call.task = asyncio.create_task(running, name=call.trace)
        call.task.add_done_callback(lambda task: self._ended(call, answer, task))

    async def _unary(self, call: Call, answer: Awaitable[Any]) -> None:
        limit = asyncio.timeout(call.deadline_s)
        try:
            async with limit:
                value = _result(await answer)
            await self._outbox.writable()
            self._finish(call, framing.encode(framing.RESULT, call.ident, value), "ok")
        except asyncio.CancelledError:
            self._fail(call.ident, call, call.stop_reason or Cancelled("the call was cancelled"))
            raise
        except AitorrentError as e:
            self._fail(call.ident, call, e)
        except (Exception, SystemExit) as e:
            self._fail(call.ident, call, self._late(call, limit) or self._bug(call, "", e))

    async def _stream(self, call: Call, items: AsyncIterator[Any]) -> None:
        seq, summary = 0, {}
        call.has_credit = asyncio.Event()
        limit = asyncio.timeout(call.deadline_s)
        try:
            async with limit, _closing(items):
                async for value in items:
                    if isinstance(value, End):
                        summary = value.summary
                        break
                    item = _result(value)
                    while call.credit < 1:
                        call.has_credit.clear()
                        await call.has_credit.wait()
                    await self._outbox.writable()
                    call.credit -= 1
                    self._outbox.send(framing.encode(framing.ITEM, call.ident, seq, item))
                    self._counters.items += 1
                    seq += 1
            await self._outbox.writable()
            self._finish(call, framing.encode(framing.END, call.ident, summary), "ok")
        except asyncio.CancelledError:
            self._fail(call.ident, call, call.stop_reason or Cancelled("the stream was cancelled"))
            raise
        except AitorrentError as e:
            self._fail(call.ident, call, e)
        except (Exception, SystemExit) as e:
            self._fail(call.ident, call, self._late(call, limit) or self._bug(call, "", e))

    def _late(self, call: Call, limit: asyncio.Timeout) -> TimedOut | None:
        if not limit.expired():
            return None
        return TimedOut(f"{call.method.name} did not finish within {call.deadline_s:g} s")

    def _bug(self, call: Call | None, name: object, error: BaseException) -> PluginError:
        where = call.trace if call is not None else f"method {name!r}"
        plugin = call.plugin if call is not None else ""
        found = PluginError.of_bug(plugin)
        error_id = found.data["error_id"]
        self._log.error("%s failed (error id %s)", where, error_id, exc_info=error)
        return found

    def _fail(self, ident: int, call: Call | None, error: AitorrentError) -> None:
        self._counters.errors += 1
        frame = encode_error(ident, error)
        if call is None:
            self._outbox.send(frame)
        else:
            self._finish(call, frame, error.code)

    def _finish(self, call: Call, frame: bytes, outcome: str) -> None:
        # The caller may reuse the id as soon as it reads this frame, so the call is closed first.
        self._end(call, outcome)
        self._outbox.send(frame)

    def _end(self, call: Call, outcome: str) -> None:
        call.is_open = False
        self._open.pop(call.ident, None)
        self._outbox.ended(call.ident)
        if call.method.role > Role.READ:
            self._audit.info(
                "uid=%d pid=%d method=%s trace=%s outcome=%s took_s=%.3f",
                self._caller.uid,
                self._caller.pid,
                call.method.name,
                call.trace,
                outcome,
                time.monotonic() - call.started,
            )

    def _ended(self, call: Call, answer: Any, task: asyncio.Task[None]) -> None:
        if call.is_open:
            # Cancelled before its first step: the body that would have answered never ran.
            _discard(answer)
            self._fail(call.ident, call, call.stop_reason or Cancelled("the call was cancelled"))
        if not task.cancelled() and (error := task.exception()) is not None:
            self._log.error("%s ended badly", call.trace, exc_info=error)
