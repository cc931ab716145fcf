from __future__ import annotations

import pytest

from aitorrent_transport.peers.names import MAX_NAME_CHARS, told_name


@pytest.mark.parametrize(
    ("told", "shown"),
    [
        ("bee", "bee"),
        ("büro 3, oben", "büro 3� oben"),
        ("蜂.example_1-a@home+", "蜂.example_1-a@home+"),
        ("🐝", "🐝"),
        ("  two \n lines  ", "two � lines"),
        ("\x1b]0;title\x07", "��0�title�"),
        ("…6T4Qv8Lf", "�6T4Qv8Lf"),
        ('x" (this node)', "x� �this node�"),
        ("a\u202eb\u2066c\u200b", "a�b�c�"),
        ("z" + "\u0301" * 50, "ź\u0301\u0301"),
        ("\u0301\u20ddbob", "bob"),
        ("bob \u20ddy", "bob y"),
        ("\u3164\u2800", "��"),
        ("n" * 1000, "n" * MAX_NAME_CHARS),
        ("", ""),
        (None, ""),
        (b"bytes", ""),
        (["list"], ""),
        (7, ""),
    ],
)
def test_name_from_a_peer_cannot_leave_its_place(told: object, shown: str) -> None:
    assert told_name(told) == shown
