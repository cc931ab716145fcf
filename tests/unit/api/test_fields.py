"""Checked fields of a map that somebody else sent."""

from __future__ import annotations

import math
from typing import Any

import pytest

from aitorrentd.api import ProtocolError
from aitorrentd.api.fields import blob, flag, number, text, texts, whole, whole_or


@pytest.mark.parametrize("value", [None, True, 1.0, "1", -1, 11, b"1"])
def test_whole_takes_integers_in_range_only(value: object) -> None:
    assert [whole({"n": n}, "n", 0, 10) for n in (0, 10)] == [0, 10]
    with pytest.raises(ProtocolError, match="n must be an integer from 0 to 10"):
        whole({"n": value}, "n", 0, 10)
    assert whole_or({"n": value}, "n", 7, 0, 10) == 7


def test_a_missing_field_is_a_wrong_one() -> None:
    with pytest.raises(ProtocolError, match="n must be an integer"):
        whole({}, "n", 0, 10)
    assert whole_or({}, "n", None) is None
    assert whole_or({"n": 5}, "n", None) == 5


@pytest.mark.parametrize("value", [None, False, "1", math.nan, math.inf, -math.inf, -0.1, 2])
def test_number_takes_finite_numbers_in_range_only(value: object) -> None:
    assert number({"t": 1}, "t", 0.0, 1.5) == 1.0
    with pytest.raises(ProtocolError, match=r"t must be a number from 0 to 1\.5"):
        number({"t": value}, "t", 0.0, 1.5)


@pytest.mark.parametrize("value", [None, 0, 1, "true"])
def test_flag_takes_booleans_only(value: object) -> None:
    assert flag({"on": False}, "on") is False
    with pytest.raises(ProtocolError, match="on must be true or false"):
        flag({"on": value}, "on")


@pytest.mark.parametrize("value", [None, 5, "", "abcd", b"abc"])
def test_text_takes_strings_of_its_length_only(value: object) -> None:
    assert text({"s": "abc"}, "s", 3) == "abc"
    with pytest.raises(ProtocolError, match="s must be a string of 1 to 3 characters"):
        text({"s": value}, "s", 3)


def test_text_may_have_to_be_printable() -> None:
    assert text({"s": "a\n"}, "s", 3) == "a\n"
    with pytest.raises(ProtocolError, match="s must consist of printable characters"):
        text({"s": "a\n"}, "s", 3, printable=True)


@pytest.mark.parametrize(
    ("value", "low", "high", "wanted"),
    [
        (b"abc", 4, 4, "must be 4 bytes"),
        ("abcd", 1, 4, "must be 1 to 4 bytes"),
        (b"", 1, 4, "1 to"),
    ],
)
def test_blob_takes_bytes_of_its_length_only(value: Any, low: int, high: int, wanted: str) -> None:
    assert blob({"b": b"abcd"}, "b", low, high) == b"abcd"
    with pytest.raises(ProtocolError, match=wanted):
        blob({"b": value}, "b", low, high)


@pytest.mark.parametrize("value", [None, "abc", ["a", "b", "c"], ["abc"], [1], ["\n"], {"a": 1}])
def test_texts_takes_short_lists_of_short_strings_only(value: object) -> None:
    assert texts({"l": ["a", ""]}, "l", 2, 2, printable=True) == ("a", "")
    with pytest.raises(ProtocolError, match="l must"):
        texts({"l": value}, "l", 2, 2, printable=True)
