"""Which worker of pytest-xdist runs which tests, so that no core waits."""

from __future__ import annotations

from typing import Final

from xdist.scheduler import LoadScopeScheduling
from xdist.workermanage import WorkerController

from tests.support.runs.alone import SCOPE as ALONE

COMPUTING: Final = "tests/unit/"
"Tests below it compute all the time; the others wait half of theirs."
_SHARE: Final = 3
"One in so many workers begins with the tests that compute."


class Mixed(LoadScopeScheduling):  # type: ignore[misc]  # xdist has no types
    """Tests that compute run beside those that wait, not after them.

    One worker in three prefers the former, the others prefer the latter, each in the order of the
    collection; who has none left of its kind helps the others. Fewer than three keep that order.
    Tests that run alone come after all.
    """

    def _assign_work_unit(self, node: WorkerController) -> None:
        self.workqueue.move_to_end(self._first_for(node), last=False)
        super()._assign_work_unit(node)

    def _first_for(self, node: WorkerController) -> str:
        computes = int(node.gateway.id.removeprefix("gw")) < self.numnodes // _SHARE
        is_mixed = self.numnodes >= _SHARE
        first = ALONE
        for scope in self.workqueue:
            if scope == ALONE:
                continue
            if not is_mixed or scope.startswith(COMPUTING) is computes:
                return str(scope)
            first = scope if first == ALONE else first
        return first
