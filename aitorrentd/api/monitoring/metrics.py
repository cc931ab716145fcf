"""Values of metrics, counted where things happen and read by a scrape. No I/O, no locks: all of it
belongs to the event loop.

    hits = Metric(HITS)                # of a declared family
    hits.at("shards", "stop").add()    # keep what `at` returns where it is called often
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Final

from aitorrentd.api.monitoring.families import OTHER, Family

MAX_VALUE_CHARS: Final = 128
"A longer label value is cut off."
_KEPT_TEXTS: Final = 2048
"Labels of metrics that each scrape reads anew."
_ESCAPES: Final = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})


class Series:
    """One combination of label values, with its number."""

    __slots__ = ("labels", "value")

    def __init__(self, labels: str) -> None:
        self.labels = labels
        "As in the text format, without braces; empty without labels."
        self.value: float = 0

    def add(self, amount: float = 1) -> None:
        """Count; a counter never goes down, so a negative amount or NaN is ignored there."""
        if amount >= 0:
            self.value += amount

    def set(self, value: float) -> None:
        """Set a gauge."""
        self.value = value


class Distribution(Series):
    """One combination of label values of a histogram; `value` is the sum of the observations."""

    __slots__ = ("_bounds", "counts")

    def __init__(self, labels: str, bounds: tuple[float, ...]) -> None:
        super().__init__(labels)
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        "Observations by bucket, not cumulated; the last one is for those above every bound."

    def observe(self, value: float, times: int = 1) -> None:
        """Count an observation, or several equal ones. What is not finite is left out: one NaN
        would make the sum NaN for good."""
        if math.isfinite(value):
            self.counts[bisect_left(self._bounds, value)] += times
            self.value += value * times


class Metric:
    """The series of a family."""

    __slots__ = ("_rows", "family")

    def __init__(self, family: Family) -> None:
        self.family = family
        self._rows: dict[tuple[str, ...], Series] = {}
        if not family.labels:
            self._rows[()] = self._new(())

    @classmethod
    def of(cls, family: Family, values: float | Mapping[tuple[str, ...], float]) -> Metric:
        """A metric whose values something else keeps: a number, or numbers by label values."""
        made = cls(family)
        if isinstance(values, Mapping):
            for labels, value in values.items():
                series = made._series(labels)
                series.value += value  # what exceeds the limit is added up
        else:
            made._series(()).value = values
        return made

    def rows(self) -> Iterable[Series]:
        """The series, in order of appearance."""
        return self._rows.values()

    def by_labels(self) -> Mapping[tuple[str, ...], Series]:
        """The series by their label values."""
        return self._rows

    def at(self, *values: str) -> Series:
        """The series with these label values, in the family's order; 0 until something is counted.

        Raises:
            ValueError: the number of values is wrong.
        """
        return self._series(values)

    def _series(self, values: tuple[str, ...]) -> Series:
        found = self._rows.get(values)
        if found is not None:
            return found
        family = self.family
        if len(values) != len(family.labels):
            raise ValueError(f"{family.name} has the labels {family.labels}, not {len(values)}")
        if len(self._rows) >= family.max_series - 1:
            values = (OTHER,) * len(values)
            if (found := self._rows.get(values)) is not None:
                return found
        made = self._rows[values] = self._new(values)
        return made

    def _new(self, values: tuple[str, ...]) -> Series:
        return Series(_text_of(self.family.labels, values))


class Histogram(Metric):
    """The series of a histogram."""

    __slots__ = ()

    def at(self, *values: str) -> Distribution:
        """The series with these label values, in the family's order.

        Raises:
            ValueError: the number of values is wrong.
        """
        found = self._series(values)
        if not isinstance(found, Distribution):
            raise ValueError(f"{self.family.name} is no histogram")
        return found

    def _new(self, values: tuple[str, ...]) -> Series:
        return Distribution(super()._new(values).labels, self.family.buckets)


@lru_cache(_KEPT_TEXTS)
def _text_of(names: tuple[str, ...], values: tuple[str, ...]) -> str:
    pairs = zip(names, values, strict=True)
    return ",".join(f'{name}="{_escaped(value)}"' for name, value in pairs)


def _escaped(value: str) -> str:
    # Half of a surrogate pair, which JSON may contain, has no bytes in UTF-8.
    whole = value[:MAX_VALUE_CHARS].encode("utf-8", "replace").decode()
    return whole.translate(_ESCAPES)
