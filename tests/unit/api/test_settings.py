"""Sizes and rates in settings."""

from __future__ import annotations

import pytest

from aitorrentd.api.settings import parse_rate, parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [("1GiB", 2**30), ("512 MiB", 2**29), ("2GB", 2 * 10**9), ("77", 77), ("1kib", 1024)],
)
def test_sizes_are_read_with_their_units(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    ("text", "rate"),
    [("2 MiB/s", 2**21), ("512KiB / s", 2**19), ("1MB", 10**6), ("77/s", 77)],
)
def test_rates_are_sizes_per_second(text: str, rate: int) -> None:
    assert parse_rate(text) == rate


@pytest.mark.parametrize("text", ["fast", "2MiB/h", "/s", "2MiB/s/s", "-1/s"])
def test_text_that_is_no_rate_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a rate; write 512KiB/s"):
        parse_rate(text)
