"""Requests, ranges, headers and descriptions, without sockets."""

from __future__ import annotations

from typing import Any

import pytest

from aitorrent_hub.mirror.ranges import NoSuchPart, part_of
from aitorrent_hub.mirror.requests import asked_of, is_trustworthy, place_of, request_of
from aitorrent_hub.upstream.described import described
from aitorrent_hub.upstream.headers import for_client, for_upstream

SHA256 = "ab" * 32
COMMIT = "c" * 40


def request(path: str = "/", **headers: str) -> Any:
    named = {"host": "127.0.0.1:8042", **{k.replace("_", "-"): v for k, v in headers.items()}}
    return request_of(
        {
            "method": "GET",
            "raw_path": path.encode(),
            "query_string": b"",
            "headers": [(k.encode(), v.encode()) for k, v in named.items()],
        }
    )


@pytest.mark.parametrize(
    ("header", "part"),
    [
        ("", (0, 100, True)),
        ("bytes=0-9", (0, 10, False)),
        ("bytes=90-", (90, 100, False)),
        ("bytes=-5", (95, 100, False)),
        ("bytes=-500", (0, 100, False)),
        ("bytes=99-99", (99, 100, False)),
        ("bytes=0-18446744073709551616", (0, 100, True)),
        ("Bytes = 0-9", (0, 10, False)),
        # Ignored, as RFC 9110 allows: more than one, another unit, malformed, backwards.
        ("bytes=0-1,5-6", (0, 100, True)),
        ("items=0-9", (0, 100, True)),
        ("bytes=-", (0, 100, True)),
        ("bytes=9-3", (0, 100, True)),
        ("bytes=+1-2", (0, 100, True)),
        ("bytes=1_0-20", (0, 100, True)),
        ("bytes=٣-٤", (0, 100, True)),
    ],
)
def test_ranges(header: str, part: tuple[int, int, bool]) -> None:
    assert tuple(part_of(100, header)) == part


@pytest.mark.parametrize("header", ["bytes=100-", "bytes=100-200", "bytes=-0"])
def test_ranges_behind_the_end(header: str) -> None:
    with pytest.raises(NoSuchPart):
        part_of(100, header)


@pytest.mark.parametrize(
    "path",
    [
        "/org/model/resolve/main/../../secret",
        "/org/model/resolve/main/%2e%2e/secret",
        "/org/model/resolve/main/a%00b",
        "/org/model/resolve/main/a%5cb",
        "/org/model/resolve/main//a",
        "/../model/resolve/main/a",
        "/org/model/resolve/main/" + "a" * 2000,
        "/org/model/resolve//a",
        "/org/model/raw/main/a",
    ],
)
def test_names_that_are_not_safe_are_no_files_of_ours(path: str) -> None:
    assert place_of(request(path)) is None


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("/org/model/resolve/main/a/b.bin", ("org/model", "main", "a/b.bin")),
        ("/gpt2/resolve/main/config.json", ("gpt2", "main", "config.json")),
        ("/datasets/org/d/resolve/refs%2Fpr%2F1/x", ("datasets/org/d", "refs/pr/1", "x")),
        ("//org/model/resolve/main/a%20b%2Bc", ("org/model", "main", "a b+c")),
    ],
)
def test_files(path: str, place: tuple[str, str, str]) -> None:
    found = place_of(request(path))
    assert found is not None
    assert (found.repo, found.revision, found.path) == place


def test_documents() -> None:
    found = asked_of(request("/api/datasets/org/d/tree/main/a/b"))
    assert found is not None and (found.repo, found.what) == ("datasets/org/d", "tree")
    assert asked_of(request("/api/models/org/m/commit/main")) is None
    assert asked_of(request("/api/whoami-v2")) is None


@pytest.mark.parametrize(
    ("headers", "is_trusted"),
    [
        ({}, True),
        ({"host": "[::1]:8042"}, True),
        ({"host": "LOCALHOST:8042"}, True),
        ({"host": "localhost."}, True),
        ({"host": "host.docker.internal:8042"}, True),
        ({"host": "mirror.lan"}, True),
        ({"host": "evil.example"}, False),
        ({"host": "127.0.0.1.evil.example"}, False),
        ({"host": "localhost.evil.example"}, False),
        ({"host": ""}, False),
        ({"host": "127.0.0.1:8042:1"}, False),
        ({"host": "a@127.0.0.1"}, False),
        ({"origin": "http://127.0.0.1:8042"}, False),
        ({"origin": "null"}, False),
        ({"sec_fetch_site": "cross-site"}, False),
        ({"sec_fetch_site": "same-site"}, False),
        ({"sec_fetch_site": "none"}, True),
    ],
)
def test_only_programs_are_trusted(headers: dict[str, str], is_trusted: bool) -> None:
    assert is_trustworthy(request(**headers), ("mirror.lan",)) is is_trusted


def test_headers_that_do_not_concern_the_hub_stay_here() -> None:
    sent = for_upstream(
        [
            (b"host", b"127.0.0.1"),
            (b"authorization", b"Bearer t"),
            (b"cookie", b"a=b"),
            (b"connection", b"keep-alive"),
            (b"x-forwarded-for", b"10.0.0.1"),
            (b"user-agent", b"hf_hub/2.4.0"),
        ]
    )
    assert dict(sent) == {"authorization": "Bearer t", "user-agent": "hf_hub/2.4.0"}


def test_urls_of_the_hub_become_those_of_the_mirror() -> None:
    told = for_client(
        [
            ("Location", "https://huggingface.co/org/new/resolve/main/a"),
            ("Link", '<https://huggingface.co/api/models/org/m/tree/main?cursor=x>; rel="next"'),
            ("X-Xet-Hash", "00"),
            ("Set-Cookie", "a=b"),
            ("Transfer-Encoding", "chunked"),
        ],
        upstream="https://huggingface.co",
        mirror="http://127.0.0.1:8042",
    )
    assert dict(told) == {
        "Location": "http://127.0.0.1:8042/org/new/resolve/main/a",
        "Link": '<http://127.0.0.1:8042/api/models/org/m/tree/main?cursor=x>; rel="next"',
    }


def test_a_file_is_described_by_the_whole_chain_of_redirects() -> None:
    first = {"x-repo-commit": COMMIT, "x-linked-etag": f'"{SHA256}"', "x-linked-size": "7"}
    last = {"etag": '"cdn"', "content-length": "7", "content-type": "x/y"}
    found = described([{**first, "location": "/b"}, last])
    assert found is not None
    assert (found.commit, found.digest, found.size) == (COMMIT, SHA256, 7)
    assert found.is_large and found.content_type == "x/y"


@pytest.mark.parametrize(
    ("headers", "digest", "size"),
    [
        ({"ETag": f'W/"{"d" * 40}"', "Content-Length": "5"}, "d" * 40, 5),
        ({"ETag": '"not a digest"'}, "", None),
        ({"ETag": f'"{"D" * 40}"', "Content-Length": "-1"}, "", None),
        ({"ETag": f'"{SHA256}"', "Content-Length": "1e3"}, SHA256, None),
        ({"ETag": f'"{SHA256}"', "X-Linked-Size": "9" * 40}, SHA256, None),
    ],
)
def test_what_is_no_digest_or_size_is_not_believed(
    headers: dict[str, str], digest: str, size: int | None
) -> None:
    found = described([{"X-Repo-Commit": COMMIT, **headers}])
    assert found is not None
    assert (found.digest, found.size) == (digest, size)


@pytest.mark.parametrize(
    "headers", [{}, {"ETag": '"x"'}, {"X-Repo-Commit": COMMIT}, {"X-Repo-Commit": "m", "ETag": "x"}]
)
def test_what_is_no_hub_describes_nothing(headers: dict[str, str]) -> None:
    assert described([headers]) is None
