"""Which worker of pytest-xdist runs which tests, so that no core waits."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from xdist.scheduler import LoadScopeScheduling
from xdist.workermanage import WorkerController

COMPUTING: Final = "tests/unit/"
"Tests below it compute all the time; the others wait half of theirs."
_SHARE: Final = 4
"One in so many workers begins with the tests that compute."


class Mixed(LoadScopeScheduling):  # type: ignore[misc]  # xdist has no types
    """Tests that compute run beside those that wait, not after them.

    One worker in four prefers the former, the others prefer the latter, each in the order of the
    collection; who has none left of its kind helps the others. Fewer than four keep that order.
    """

    def _assign_work_unit(self, node: WorkerController) -> None:
        self.workqueue.move_to_end(self._first_for(node), last=False)
        super()._assign_work_unit(node)

    def _first_for(self, node: WorkerController) -> str:
        first: str = next(iter(self.workqueue))
        if self.numnodes < _SHARE:
            return first
        computes = int(node.gateway.id.removeprefix("gw")) < self.numnodes // _SHARE
        scopes: Iterable[str] = self.workqueue
        fits = (scope for scope in scopes if scope.startswith(COMPUTING) is computes)
        return next(fits, first)
