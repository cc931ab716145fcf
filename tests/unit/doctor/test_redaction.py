"""What a bug report must not hold is taken out; what helps is left in."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aitorrentd.config.secrets import HIDDEN
from aitorrentd.doctor.redaction import Anonymizer, secrets_in

PEER = "12D3KooWLRPJAaYqkMMAvRFdqHcLKcFxkeb4QXZ9rCPLBvgBzHDd"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Authorization: Bearer abc.def-ghi", f"Authorization: {HIDDEN}"),
        ("sent Bearer eyJhbGciOi.J9", f"sent Bearer {HIDDEN}"),
        ("key sk-proj-1234567890abcdef is wrong", f"key {HIDDEN} is wrong"),
        ("HF hf_abcdefghijklmnop", f"HF {HIDDEN}"),
        ("api_key=hunter2, model=x", f"api_key={HIDDEN}, model=x"),
        ("{'password': 'with space', 'n': 1}", f"{{'password': {HIDDEN}, 'n': 1}}"),
        ('psk: "a\\"b" end', f"psk: {HIDDEN} end"),
        ("http://user:pw@host/x", f"http://{HIDDEN}@host/x"),
        ("aitorrentd-ed25519-1 AAAA= 0011", HIDDEN),
        ("-----BEGIN PRIVATE KEY-----\nabc\n-----END PRIVATE KEY-----x", f"{HIDDEN}x"),
        ('{"prompt": "my illness", "n": 1}', f'{{"prompt": {HIDDEN}, "n": 1}}'),
        ("messages=[{'role': 'user'}]", f"messages={HIDDEN}"),
        (f"peer {PEER} left", "peer …BvgBzHDd left"),
        ("from 203.0.113.77 port 8468", "from 203.0.x.x port 8468"),
        ("on 127.0.0.1 and 0.0.0.0", "on 127.0.0.1 and 0.0.0.0"),
        ("[2001:db8:1:2::7]:8468", "[2001:0db8:…]:8468"),
        ("::1 at 12:34:56", "::1 at 12:34:56"),
        ("/dns4/my.house.example/tcp/1", "/dns4/…/tcp/1"),
        ("/home/ada/models", "/home/…/models"),
        ("digest 0123456789abcdef0123456789abcdef0123456789abcdef", "digest 012345…"),
        ("plugin transport is running", "plugin transport is running"),
        ("/usr/lib/aitorrentd/bin/python3 -I", "/usr/lib/aitorrentd/bin/python3 -I"),
        ("test_a_sentence_that_goes_on_and_on_as_names_of_functions_do", None),
    ],
)
def test_text_is_redacted_by_its_form(text: str, expected: str | None) -> None:
    assert Anonymizer().text(text) == (text if expected is None else expected)


def test_tree_is_redacted_by_key_and_by_form() -> None:
    tree = {
        "psk": "hunter2",
        "plugins": {"openai": {"servers": [{"api_key": "x1", "url": "http://10.1.2.3:1"}]}},
        "transport": {"bootstrap": ["seed.example.org:8468", "192.0.2.1:1"], "port": 8468},
        "text": "known-secret and more",
        "n": 3,
    }
    assert Anonymizer(["known-secret"]).tree(tree) == {
        "psk": HIDDEN,
        "plugins": {"openai": {"servers": [{"api_key": HIDDEN, "url": "http://10.1.x.x:1"}]}},
        "transport": {"bootstrap": ["…:8468", "…:1"], "port": 8468},
        "text": f"{HIDDEN} and more",
        "n": 3,
    }


def test_secrets_of_a_file_that_is_no_yaml_are_found() -> None:
    text = "a: [\nplugins: {openai: {\n  api_key: 'hunter2-long'\npsk: abcdef # mine\n#token: x\n"
    assert {"hunter2-long", "abcdef # mine"} <= secrets_in(text)


words = st.text(string.ascii_letters + string.digits + "-_.:/@= \"'{}", max_size=60)


@given(
    secret=st.text(string.ascii_letters + string.digits + "+/=-_.", min_size=8, max_size=64),
    before=words,
    after=words,
)
def test_known_secret_never_gets_through(secret: str, before: str, after: str) -> None:
    assert secret not in Anonymizer([secret]).text(f"{before}{secret}{after}")


@given(st.text())
def test_any_text_can_be_redacted(text: str) -> None:
    Anonymizer().text(text)
