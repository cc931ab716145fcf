"""How many nodes the network has, from how dense ids are where this node has looked.

The nearest nodes to a point tell it: n of n nodes within a distance of an id space that is covered
evenly. Somebody who places ids around one point, such as this node's own id, would make it believe
in a network of any size, in which no eclipse of a key stands out. So each region of the id space
has one voice, and the median of them counts. No I/O and no clock.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from statistics import median
from typing import Final

from aitorrent_dht.core.contact import ID_BITS, ID_SPACE, Contact

MIN_NODES: Final = 3
"From which a density is taken."
ENOUGH: Final = 3
"Regions whose median is believed rather than the own id's surroundings."
_REGION_BITS: Final = 6
_REMEMBERED: Final = 32


class Density:
    """What lookups told of the density of ids, by region."""

    def __init__(self) -> None:
        self._sizes: OrderedDict[int, float] = OrderedDict()

    def note(self, target: int, nearest: Sequence[Contact]) -> None:
        """Learn that `nearest`, in this order, are the nodes nearest to `target`."""
        if len(nearest) < MIN_NODES or nearest[-1].id == target:
            return
        region = target >> (ID_BITS - _REGION_BITS)
        self._sizes[region] = (len(nearest) - 1) * ID_SPACE / (nearest[-1].id ^ target)
        self._sizes.move_to_end(region)
        if len(self._sizes) > _REMEMBERED:
            self._sizes.popitem(last=False)

    def size(self, nearby: float) -> float:
        """The estimated number of nodes; `nearby` is the estimate from around the own id."""
        if len(self._sizes) < ENOUGH:
            return nearby
        return median([nearby, *self._sizes.values()])
