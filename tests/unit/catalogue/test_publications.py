"""Signed publications: what verifies, and what every field refuses."""

from __future__ import annotations

import json
import string
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aitorrentd.api.models.file_names import check_path, check_repo, is_pickle
from aitorrentd.api.models.publications import (
    is_web_seed,
    read_publication,
    read_signed,
    signed_map,
)
from aitorrentd.errors import ProtocolError
from tests.support.catalogue.publishing import Publisher

ALICE, BOB = Publisher("alice"), Publisher("bob")
PLAIN = string.ascii_letters + string.digits + "äß中-_. "
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=40),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=12), inner),
    max_leaves=8,
)


@given(st.lists(st.text(PLAIN, min_size=1, max_size=12), min_size=1, max_size=5), st.integers())
def test_what_was_signed_is_read_back_and_verifies(parts: list[str], nonce: int) -> None:
    try:
        filename = check_path("/".join(parts))
    except ValueError:
        return
    made = ALICE.publication(filename=filename, nonce=f"{nonce % 2**128:032x}")
    posted = json.loads(json.dumps(ALICE.signed(made)))
    assert read_signed(posted) == (made, bytes.fromhex(posted["signature"]))


@given(st.sampled_from(sorted(ALICE.publication().as_map())), JSON)
def test_a_changed_field_never_verifies(field: str, value: Any) -> None:
    posted = ALICE.signed()
    if posted["publication"][field] == value and type(posted["publication"][field]) is type(value):
        return
    posted["publication"][field] = value
    with pytest.raises(ProtocolError, match=r"must|has no"):
        read_signed(posted)


@given(JSON)
def test_no_json_is_fatal(value: Any) -> None:
    for read in (read_publication, read_signed):
        with pytest.raises(ProtocolError, match=r"must|has no field"):
            read(value)


def test_the_canonical_form_is_fixed_for_all_time() -> None:
    made = ALICE.publication(filename="ä/é.gguf", nonce="0" * 32, web_seeds=())
    text = made.canonical().decode()
    assert text.startswith('{"commit_hash":"c0ffee')
    assert '"filename":"ä/é.gguf","gated":false,"info_hash":"' in text
    assert text.endswith('"supersedes":"","v2_root":"","web_seeds":[]}')
    assert list(json.loads(text)) == sorted(json.loads(text))


def test_nobody_signs_for_another() -> None:
    made = ALICE.publication()
    with pytest.raises(ValueError, match="only it can sign"):
        made.signed_by(BOB)
    forged = signed_map(made, BOB.publication().signed_by(BOB))
    with pytest.raises(ProtocolError, match="signature must be the publisher's"):
        read_signed(forged)


HOSTILE_FIELDS = {
    "a commit that is a branch": ("commit_hash", "main"),
    "a commit in upper case": ("commit_hash", "C" * 40),
    "a commit that is too short": ("commit_hash", "c" * 39),
    "a commit in digits of another script": ("commit_hash", "١" * 40),
    "a commit with a line feed": ("commit_hash", "c" * 40 + "\n"),
    "a repository with three parts": ("repo_id", "a/b/c"),
    "a repository that leaves its directory": ("repo_id", "../etc"),
    "a repository with SQL": ("repo_id", "a/b'; DROP TABLE publications; --"),
    "a repository with markup": ("repo_id", "a/<script>alert(1)</script>"),
    "an empty repository": ("repo_id", ""),
    "a repository with a look-alike letter": ("repo_id", "оrg/model"),
    "a size of nothing": ("size", 0),
    "a negative size": ("size", -1),
    "a size that is a boolean": ("size", True),
    "a size that is a float": ("size", 5242880.0),
    "a size that is text": ("size", "5242880"),
    "a size that JSON readers round": ("size", 2**53),
    "a sha256 in upper case": ("sha256", "A" * 64),
    "a sha256 that is a sha1": ("sha256", "a" * 40),
    "an info-hash in base32": ("info_hash", "A" * 32),
    "an empty info-hash": ("info_hash", ""),
    "a v2 root without digits": ("v2_root", "z" * 64),
    "a v2 info-hash without a root": ("info_hash_v2", "a" * 64),
    "a piece length of 3 MiB": ("piece_length", 3 * 2**20),
    "a piece length of one byte": ("piece_length", 1),
    "a huge piece length": ("piece_length", 2**40),
    "a time before time": ("created_at", -1),
    "a time that is a float": ("created_at", 1.5),
    "a publisher that is no node": ("publisher", "12D3KooWnope"),
    "a publisher of another key type": ("publisher", "QmYwAPJzv5CZsnA625s3Xf2nemtYgPpHdWEz79"),
    "a nonce that is too short": ("nonce", "0"),
    "five web seeds": ("web_seeds", ["https://a.example/f"] * 5),
    "a web seed without TLS": ("web_seeds", ["http://huggingface.co/f"]),
    "web seeds that are text": ("web_seeds", "https://huggingface.co/f"),
    "gated as a number": ("gated", 1),
    "superseding no info-hash": ("supersedes", "x" * 40),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE_FIELDS)
def test_hostile_field_is_refused_by_its_name(name: str) -> None:
    field, value = HOSTILE_FIELDS[name]
    with pytest.raises(ProtocolError, match=f"^{field} must"):
        read_publication(ALICE.publication().as_map() | {field: value})


@pytest.mark.parametrize("field", sorted(ALICE.publication().as_map()))
def test_no_field_may_be_missing(field: str) -> None:
    posted = ALICE.publication().as_map()
    del posted[field]
    with pytest.raises(ProtocolError, match=f"^{field} must"):
        read_publication(posted)


def test_unknown_fields_are_refused_since_nobody_checks_them() -> None:
    with pytest.raises(ProtocolError, match="no field 'torrent_url'"):
        read_publication(ALICE.publication().as_map() | {"torrent_url": "http://10.0.0.1/"})


HOSTILE_PATHS = {
    "absolute": "/etc/passwd",
    "traversal": "a/../../etc/passwd",
    "dot": "./a",
    "empty part": "a//b",
    "trailing slash": "a/",
    "nothing": "",
    "NUL": "a\0.bin",
    "line feed": "a\nb",
    "escape sequence": "a\x1b[2Jb",
    "right-to-left override": "model\u202egnp.bin",
    "isolate": "a\u2066b",
    "zero width": "mod\u200bel",
    "byte order mark": "\ufeffa",
    "line separator": "a\u2028b",
    "lone surrogate": "a\ud800",
    "backslash": "a\\..\\b",
    "drive": "C:/x",
    "drive without slash": "c:x",
    "stream of another file": "a.txt:evil",
    "device": "aux",
    "device with suffix": "dir/COM1.safetensors",
    "device with superscript": "lpt¹",
    "trailing dot": "a.",
    "trailing space": "a ",
    "leading space": " a",
    "wildcard": "*.bin",
    "decomposed": "e\u0301.bin",
    "part too long": "a" * 256,
    "part too long in bytes": "中" * 86,
    "too deep": "/".join("a" * 33),
    "too long": "a/" * 512 + "aa",
}


@pytest.mark.parametrize("name", HOSTILE_PATHS)
def test_hostile_path_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="^must "):
        check_path(HOSTILE_PATHS[name])


@pytest.mark.parametrize(
    "path",
    [
        "model-00001-of-00191.safetensors",
        "onnx/model.onnx",
        ".gitattributes",
        "模型/权重.gguf",
        "a b (1).bin",
        "text_encoder/model.fp16.safetensors",
        "console.txt",
        "auxiliary/nulls.bin",
    ],
)
def test_names_of_real_files_pass(path: str) -> None:
    assert check_path(path) == path


@pytest.mark.parametrize(
    "repo", ["gpt2", "meta-llama/Llama-3.1-70B", "datasets/org/data_1", "spaces/a/b", "01-ai/Yi"]
)
def test_names_of_real_repositories_pass(repo: str) -> None:
    assert check_repo(repo) == repo


@pytest.mark.parametrize(
    "repo",
    ["a..b/c", "a--b/c", "org/name.git", "-a/b", "a/.b", "a/b.", "datasets/a/b/c", "a/", "/"],
)
def test_names_that_the_hub_refuses_are_refused(repo: str) -> None:
    with pytest.raises(ValueError, match="must"):
        check_repo(repo)


@pytest.mark.parametrize(
    "url",
    [
        "https://127.0.0.1/f",
        "https://[::1]/f",
        "https://2130706433/f",
        "https://0x7f.1/f",
        "https://127.0x1/f",
        "https://localhost/f",
        "https://printer.local/f",
        "https://metadata.google.internal/f",
        "https://user:pass@huggingface.co/f",
        "https://huggingface.co@10.0.0.1/f",
        "https://huggingface.co:8443/f",
        "https://huggingface.co/f?token=hf_secret",
        "https://huggingface.co/f#x",
        "https://huggingface.co\\@10.0.0.1/f",
        "https://huggingface.co/a b",
        "ftp://huggingface.co/f",
        "file:///etc/passwd",
        "//huggingface.co/f",
        "https://[",
        "https://hüggingface.co/f",
    ],
)
def test_web_seeds_point_to_public_hosts_and_carry_no_secrets(url: str) -> None:
    assert not is_web_seed(url)


def test_a_file_of_the_hub_is_a_web_seed() -> None:
    url = "https://huggingface.co/org/model/resolve/" + "a" * 40 + "/model.safetensors"
    assert is_web_seed(url)
    made = ALICE.publication(web_seeds=(url,))
    assert read_publication(made.as_map()) == made
    with pytest.raises(ProtocolError, match="web_seeds must be empty for a gated"):
        read_publication(ALICE.publication(web_seeds=(url,), gated=True).as_map())


def test_pickles_are_known_by_their_names() -> None:
    assert is_pickle("a/pytorch_model.BIN") and is_pickle("x.ckpt")
    assert not is_pickle("model.safetensors") and not is_pickle("bin/model.gguf")
