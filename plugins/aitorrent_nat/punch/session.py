"""One session of hole punching over one stream, from the offer to the result of both ends."""

from __future__ import annotations

import asyncio
import secrets
from typing import Final, TypeVar

from aitorrent_nat.punch.birthday import Turns
from aitorrent_nat.punch.candidates import Allowance
from aitorrent_nat.punch.gathering import Gathered, gather, offered
from aitorrent_nat.punch.legs import Legs, Match
from aitorrent_nat.punch.messages import (
    MAX_MESSAGE_BYTES,
    SESSION_BYTES,
    Result,
    Terms,
    decode,
    encode,
)
from aitorrent_nat.punch.plan import Plan, plan
from aitorrent_nat.punch.signalling import (
    Answered,
    Asked,
    Output,
    Refused,
    Send,
    Signalling,
    Start,
    Told,
)
from aitorrent_nat.punch.surroundings import Surroundings
from aitorrentd.api import Attempt, Busy, PeerGone, Stream, TimedOut, read_frame
from aitorrentd.api.tasks import Tasks

T = TypeVar("T")

SIGNAL_S: Final = 10.0
"From the offer to the start: gathering at both ends, and two round trips."
RUN_S: Final = 20.0
"For all legs; the longest is the birthday punch."
RESULT_S: Final = 3.0
"For the peer's result, which only the traces need."


class Session:
    """One end of a session on `stream`. Use it once."""

    def __init__(
        self, around: Surroundings, stream: Stream, tasks: Tasks, turns: Turns, *, initiator: bool
    ) -> None:
        self._around = around
        self._stream = stream
        self._tasks = tasks
        self._turns = turns
        self._initiator = initiator
        self._signalling = Signalling(initiator=initiator)
        self.plan: Plan | None = None
        "What was tried; None until both ends have agreed to start."
        self.peer_result: Result | None = None
        "What the other end got, if it said."

    async def run(self) -> Result:
        """Run the session to its end.

        Raises:
            Busy: the peer refuses a session now. ProtocolError: the peer breaks the protocol.
            PeerGone: the channel was lost. TimedOut: no start within SIGNAL_S.
        """
        gathered: Gathered | None = None
        try:
            try:
                async with asyncio.timeout(SIGNAL_S):
                    if self._initiator:
                        gathered = await self._gather()
                        await self._send(
                            self._signalling.offer(
                                secrets.token_bytes(SESSION_BYTES), gathered.terms
                            )
                        )
                    else:
                        asked = await self._until(Asked)
                        gathered = await self._gather()
                        if self._allowance(asked.terms, gathered).is_local:
                            gathered.reveal_local()
                        await self._send(self._signalling.accept(gathered.terms))
                    match = await self._agree(gathered)
            except TimeoutError:
                raise TimedOut(f"no start was agreed within {SIGNAL_S:g} s") from None
            result = await self._punch(match, gathered)
            await self._exchange(result)
            return result
        finally:
            if gathered is not None:
                await gathered.close()

    async def _gather(self) -> Gathered:
        return await gather(
            self._around, self._stream.peer, self._tasks, may_guess=self._turns.is_free
        )

    async def _send(self, outputs: list[Output]) -> None:
        for output in outputs:
            if isinstance(output, Send):
                await self._stream.write(encode(output.message))

    async def _until(self, kind: type[T]) -> T:
        """Follow the signalling until it puts out a `kind`."""
        loop = asyncio.get_running_loop()
        while True:
            frame = await read_frame(self._stream, max_bytes=MAX_MESSAGE_BYTES)
            outputs = self._signalling.receive(decode(frame), loop.time())
            await self._send(outputs)
            for output in outputs:
                if isinstance(output, Refused):
                    raise Busy(output.reason or "the peer wants no session now")
                if isinstance(output, kind):
                    return output

    async def _agree(self, gathered: Gathered) -> Match:
        """Come to a common start, and sleep until it."""
        signalling, loop = self._signalling, asyncio.get_running_loop()
        if self._initiator:
            answered = await self._until(Answered)
            is_local = self._allowance(answered.terms, gathered).is_local
            more = gathered.reveal_local() if is_local else ()
            await self._send(signalling.sync(more, loop.time()))
        start = await self._until(Start)
        terms = signalling.peer
        if terms is None:
            raise PeerGone("the session started without terms")
        allowance = self._allowance(terms, gathered)
        self.plan = plan(
            gathered.terms.nat,
            terms.nat,
            offered(gathered.terms.candidates),
            offered(terms.candidates),
            is_local=allowance.is_local,
            birthday=self._around.birthday,
        )
        self._note_missing(gathered)
        await asyncio.sleep(start.delay_s)
        return Match(self._stream.peer, signalling.key, terms, allowance, self.plan)

    def _note_missing(self, gathered: Gathered) -> None:
        """Record which legs this end cannot try, and why."""
        at = self._around.unix_s()
        for leg, why in gathered.problems.items():
            attempt = Attempt(at, leg.value, "", False, f"not tried: {why}", 0.0)
            self._around.note(self._stream.peer, attempt)

    def _allowance(self, terms: Terms, gathered: Gathered) -> Allowance:
        public = self._around.believed(self._stream.peer, terms.sightings)
        turn = self._around.turn()
        return Allowance(
            public=public,
            is_local=bool(public & gathered.public),
            turn=frozenset([turn.server[0]] if turn else []),
            own=frozenset(self._around.local_hosts()),
        )

    async def _punch(self, match: Match, gathered: Gathered) -> Result:
        legs = Legs(self._around, match, gathered, self._turns)
        try:
            async with asyncio.timeout(RUN_S):
                return await legs.run()
        except TimeoutError:
            return Result(False, f"nothing connected within {RUN_S:g} s")

    async def _exchange(self, result: Result) -> None:
        """Tell each other the results; they only serve the traces."""
        try:
            async with asyncio.timeout(RESULT_S):
                await self._send(self._signalling.finish(result))
                await self._until(Told)
                await self._stream.close()
        except (TimeoutError, PeerGone):
            self._stream.reset("the session is over")
        self.peer_result = self._signalling.result
