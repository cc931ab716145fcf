"""The circuits that this relay carries: their legs, control streams, limits and time."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from aitorrent_nat.config import RelayLimits
from aitorrent_nat.relay.budgets import Budgets, PairBudget
from aitorrent_nat.relay.circuits import CLAIM_S, Circuit, Circuits, End
from aitorrent_nat.relay.claims import Leg
from aitorrent_nat.relay.control import Control
from aitorrent_nat.relay.messages import Ended, Incoming, Joined, Opened
from aitorrent_nat.relay.pipes import Pipes
from aitorrent_nat.relay.splice import Splice
from aitorrentd.api import bytes_text
from aitorrentd.api.descriptors import is_scarce


@dataclass(slots=True, eq=False)
class Line:
    """A circuit at work; `over` resolves with the reason of its end, "" if both ends closed it."""

    circuit: Circuit[Leg]
    budget: PairBudget
    controls: dict[End, Control]
    over: asyncio.Future[str]
    timer: asyncio.TimerHandle | None = None
    splice: Splice | None = None
    told: bool = field(default=False)
    "Whether the ends were told of the end."

    @property
    def passed(self) -> int:
        """Bytes passed in both directions."""
        return self.splice.passed if self.splice is not None else 0


class Lines:
    """All lines of this relay; `now()` is monotonic."""

    def __init__(self, limits: RelayLimits, now: Callable[[], float]) -> None:
        self.circuits: Circuits[Leg] = Circuits(limits.circuits_per_peer)
        self.budgets = Budgets(limits.rate, limits.bytes_per_hour, limits.total_rate, now())
        self.on_over: Callable[[], None] = _nobody
        "Called when a line ended."
        self._limits = limits
        self._now = now
        self._pipes = Pipes()
        self._lines: dict[Circuit[Leg], Line] = {}

    def __len__(self) -> int:
        return len(self._lines)

    def __iter__(self) -> Iterator[Line]:
        return iter(list(self._lines.values()))

    def open(self, dialer: Control, client: Control, *, renews: bool = False) -> Line:
        """A line whose two ends have been given their tokens; `renews` is passed on.

        Raises:
            Busy: a limit of the relay, of the pair, or of one of the two. Conflict: a node dials
            itself.
        """
        now = self._now()
        budget = self.budgets.take_up(dialer.peer, client.peer, now)
        try:
            circuit = self.circuits.open(dialer.peer, client.peer, now)
        except BaseException:
            self.budgets.give_up(budget)
            raise
        loop = asyncio.get_running_loop()
        controls = {End.DIALER: dialer, End.TARGET: client}
        line = Line(circuit, budget, controls, loop.create_future())
        line.timer = loop.call_later(CLAIM_S, self._late, line)
        self._lines[circuit] = line
        number = circuit.number
        client.send(Incoming(number, circuit.tokens[End.TARGET], dialer.peer, renews))
        dialer.send(Opened(number, circuit.tokens[End.DIALER], self._limits.circuit_s))
        return line

    def declined(self, client: Control, number: int, reason: str) -> None:
        """The client does not take a circuit that is not joined yet."""
        circuit = self.circuits.get(number)
        line = self._lines.get(circuit) if circuit is not None else None
        if line is None or line.splice is not None or line.controls[End.TARGET] is not client:
            return
        self.end(line, f"the peer declined: {reason}" if reason else "the peer declined")

    def claim(self, token: bytes, leg: Leg) -> bool:
        """A new connection shows a token; whether it belongs to a circuit."""
        claimed = self.circuits.claim(token, leg, self._now())
        if claimed is None:
            return False
        circuit, end = claimed
        line = self._lines[circuit]
        leg.on_lost = lambda: self.end(line, f"the connection of the {end.value} was lost")
        if circuit.is_joined:
            # Not before the listener has been told that the leg is accepted.
            asyncio.get_running_loop().call_soon(self._join, line)
        return True

    def _join(self, line: Line) -> None:
        if line.over.done():
            return
        socks: list[socket.socket] = []
        try:
            socks.extend(line.circuit.legs[end].detach() for end in (End.DIALER, End.TARGET))
        except OSError as e:
            for sock in socks:
                sock.close()
            self.end(line, f"the relay cannot join the connections: {e.strerror or e}")
            return
        if any(is_scarce(sock.fileno()) for sock in socks):
            for sock in socks:
                sock.close()
            self.end(line, "the relay has no file descriptors left for more circuits")
            return
        line.splice = Splice(
            socks[0],
            socks[1],
            self._pipes,
            _Meter(self.budgets, line.budget, self._now),
            on_end=lambda reason: self._over(line, reason),
            on_spent=lambda: self.end(line, self._spent_text()),
        )
        if line.timer is not None:
            line.timer.cancel()
        loop = asyncio.get_running_loop()
        line.timer = loop.call_later(self._limits.circuit_s, self._expired, line)
        for control in line.controls.values():
            control.send(Joined(line.circuit.number))
        line.splice.start()

    def _late(self, line: Line) -> None:
        missing = [end for end in End if end not in line.circuit.legs]
        who = " and the ".join(end.value for end in missing)
        self.end(line, f"the {who} did not connect to the relay within {CLAIM_S:g} s")

    def _expired(self, line: Line) -> None:
        self.end(line, f"the relay's limit of {self._limits.circuit_s / 60:.0f} min per circuit")

    def _spent_text(self) -> str:
        hour = bytes_text(self._limits.bytes_per_hour)
        return f"the relay's limit of {hour} an hour for one pair of nodes"

    def end(self, line: Line, reason: str) -> None:
        """End a line: tell both ends why, deliver what was read, close."""
        self._tell(line, reason)
        if line.splice is not None:
            line.splice.end(reason)
            return
        for leg in line.circuit.legs.values():
            leg.on_lost = _nobody
            leg.abort()
        self._over(line, reason)

    def _tell(self, line: Line, reason: str) -> None:
        if not line.told:
            line.told = True
            for control in line.controls.values():
                control.send(Ended(line.circuit.number, reason))

    def _over(self, line: Line, reason: str) -> None:
        if not self.circuits.end(line.circuit):
            return
        del self._lines[line.circuit]
        self.budgets.give_up(line.budget)
        self.on_over()
        if line.timer is not None:
            line.timer.cancel()
            line.timer = None
        self._tell(line, reason)
        if not line.over.done():
            line.over.set_result(reason)

    def close(self, reason: str) -> None:
        """End all lines at once."""
        for line in self:
            self.end(line, reason)
            if line.splice is not None:
                line.splice.close()
        self._pipes.close()


class _Meter:
    """Implements `aitorrent_nat.relay.splice.Meter` for a pair."""

    def __init__(self, budgets: Budgets, budget: PairBudget, now: Callable[[], float]) -> None:
        self._budgets = budgets
        self._budget = budget
        self._now = now

    def left(self) -> int:
        return self._budgets.left(self._budget, self._now())

    def spend(self, n: int) -> None:
        self._budgets.spend(self._budget, n, self._now())

    def wait_s(self) -> float | None:
        return self._budgets.wait_s(self._budget, self._now())


def _nobody() -> None:
    """Default of a callback."""
