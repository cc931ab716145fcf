"""Import of an older catalogue: every shape that mongoexport writes, and what is refused."""

from __future__ import annotations

import json
from base64 import b32encode
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aitorrent_tracker.catalogue.importing.documents import entry_of_document, number_of
from aitorrentd.api import InvalidParams
from tests.support import cli_runs
from tests.support.catalogue.publishing import Publisher
from tests.support.catalogue.trackers import OFF, Trackers, call, fresh
from tests.support.nodes import DaemonFactory

ALICE = Publisher("alice")
NOW = 1_800_000_000
MARCH = 1_710_342_000
HASH = "0123456789abcdef0123456789abcdef01234567"
COMMIT = "c0ffee" * 6 + "c0ff"


def document(**changes: Any) -> dict[str, Any]:
    usual = {
        "_id": {"$oid": "65f1c0ffee65f1c0ffee65f1"},
        "repo_id": "org/model",
        "filename": "model.safetensors",
        "commit_hash": COMMIT,
        "info_hash": HASH,
        "magnet_link": f"magnet:?xt=urn:btih:{HASH}&dn=m&tr=http%3A%2F%2Fold.example%2Fa",
        "file_size": {"$numberLong": "5368709120"},
        "file_count": 1,
        "piece_length": 4194304,
        "created_at": {"$date": "2024-03-13T15:00:00Z"},
        "__v": 0,
    }
    return {k: v for k, v in (usual | changes).items() if v is not None}


def test_canonical_document_becomes_an_unsigned_entry() -> None:
    entry = entry_of_document(document(), NOW)
    assert (entry.repo_id, entry.filename) == ("org/model", "model.safetensors")
    assert (entry.size, entry.piece_length, entry.info_hash) == (5_368_709_120, 4_194_304, HASH)
    assert entry.published_at == 1_710_342_000
    assert entry.publication() is None and not entry.sha256 and not entry.publisher


@pytest.mark.parametrize(
    ("changes", "field", "value"),
    [
        ({"file_size": 7}, "size", 7),
        ({"file_size": 7.0}, "size", 7),
        ({"file_size": "7"}, "size", 7),
        ({"file_size": {"$numberInt": "7"}}, "size", 7),
        ({"file_size": {"$numberDouble": "7.0"}}, "size", 7),
        ({"file_size": None, "total_size": 7}, "size", 7),
        ({"commit_hash": None, "revision": COMMIT}, "commit_hash", COMMIT),
        ({"info_hash": None}, "info_hash", HASH),
        ({"info_hash": HASH.upper()}, "info_hash", HASH),
        ({"info_hash": b32encode(bytes.fromhex(HASH)).decode()}, "info_hash", HASH),
        ({"magnet_link": None}, "info_hash", HASH),
        ({"piece_length": None}, "piece_length", 0),
        ({"filename": None, "file_count": 9}, "filename", ""),
        ({"created_at": {"$date": {"$numberLong": "1710342000000"}}}, "published_at", MARCH),
        ({"created_at": {"$date": 1710342000000}}, "published_at", MARCH),
        ({"created_at": "2024-03-13T15:00:00.000+00:00"}, "published_at", MARCH),
        ({"created_at": "yesterday"}, "published_at", NOW),
        ({"created_at": {"$date": "2999-01-01T00:00:00Z"}}, "published_at", NOW),
    ],
)  # fmt: skip
def test_each_shape_of_a_field_is_read(changes: dict[str, Any], field: str, value: Any) -> None:
    assert getattr(entry_of_document(document(**changes), NOW), field) == value


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"repo_id": None}, "repo_id must be a repository"),
        ({"repo_id": "../etc"}, "repo_id must be a repository"),
        ({"repo_id": {"$ne": None}}, "repo_id must be a repository"),
        ({"filename": None}, "filename must have 1 to"),
        ({"filename": "../../x"}, "filename must be relative"),
        ({"filename": "a\u202eb"}, "filename must not have control"),
        ({"commit_hash": "main"}, "commit_hash must be a commit"),
        ({"commit_hash": None}, "commit_hash must be a commit"),
        ({"file_size": None}, "file_size is missing"),
        ({"file_size": 0}, "file_size must be from 1"),
        ({"file_size": {"$numberLong": "-5"}}, "file_size must be from 1"),
        ({"file_size": {"$numberLong": "9" * 30}}, "file_size is missing, or no whole number"),
        ({"file_size": True}, "file_size is missing, or no whole number"),
        ({"file_count": -1}, "file_count must be from 1"),
        ({"info_hash": None, "magnet_link": None}, "info_hash is missing"),
        ({"info_hash": "x" * 40, "magnet_link": "magnet:?dn=x"}, "info_hash is missing"),
        ({"info_hash": "a" * 40}, "info_hash is another one than that in magnet_link"),
    ],
)
def test_wrong_field_is_refused_by_its_name(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidParams, match=reason):
        entry_of_document(document(**changes), NOW)


@given(
    st.dictionaries(
        st.sampled_from(sorted(document())),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=50),
            lambda inner: (
                st.lists(inner, max_size=2)
                | st.dictionaries(st.sampled_from(["$date", "$oid", "$numberLong", "x"]), inner)
            ),
            max_leaves=4,
        ),
    )
)
def test_no_document_is_fatal(changes: dict[str, Any]) -> None:
    try:
        entry_of_document(document() | changes, NOW)
    except InvalidParams as e:
        assert e.message


def test_numbers_of_other_scripts_and_signs_are_none() -> None:
    assert [number_of(v) for v in ("٥", "1_0", "+5", "0x5", "", "5.5", float("inf"), None)] == [
        None
    ] * 8


async def test_import_reports_each_refusal_and_is_idempotent(
    trackers: Trackers, database_url: str
) -> None:
    one = await trackers(database_url, publishers=[ALICE.peer_id])
    documents = [
        document(),
        document(filename="two.bin", info_hash="b" * 40, magnet_link=None),
        document(repo_id="nothing/../here"),
        document(info_hash="c" * 40, magnet_link=None),
        document(),
        document(filename=None, file_count=12, info_hash="d" * 40, magnet_link=None),
    ]
    tried = await call(one.node, "tracker.import", documents=documents, dry_run=True)
    assert await one.listed() == []
    done = await call(one.node, "tracker.import", documents=documents)
    assert done == tried
    assert (done["created"], done["unchanged"]) == (3, 1)
    assert [(each["number"], each["name"]) for each in done["refused"]] == [
        (2, "nothing/../here/model.safetensors"),
        (3, "org/model/model.safetensors"),
    ]
    assert "must be a repository" in done["refused"][0]["reason"]
    assert f"info-hash {HASH}" in done["refused"][1]["reason"]
    again = await call(one.node, "tracker.import", documents=documents)
    assert (again["created"], again["unchanged"], len(again["refused"])) == (0, 4, 2)
    found = await one.listed(info_hash=HASH)
    assert found[0]["publication"] is None and found[0]["signature"] == ""
    assert f"xt=urn:btih:{HASH}" in found[0]["magnet_link"]
    assert "old.example" not in found[0]["magnet_link"]
    assert b"complete" in await one.announce(HASH)
    page = (await one.client.get("/models/org/model")).text
    assert ">unsigned</span>" in page and "whole folder, 12 files" in page


async def test_signed_publication_replaces_an_imported_row(trackers: Trackers) -> None:
    one = await trackers(publishers=[ALICE.peer_id])
    await call(one.node, "tracker.import", documents=[document()])
    assert (await one.publish(fresh(ALICE))).json()["outcome"] == "updated"
    (found,) = await one.listed()
    assert found["publisher"] == ALICE.peer_id
    again = await call(one.node, "tracker.import", documents=[document()])
    assert len(again["refused"]) == 1


@pytest.mark.parametrize("shape", ["array", "lines", "pretty", "mark"])
async def test_command_reads_what_mongoexport_writes(
    daemon_factory: DaemonFactory, tmp_path: Path, shape: str
) -> None:
    documents = [
        document(filename=f"f{i}.gguf", info_hash=f"{i:040x}", magnet_link=None)
        for i in range(1200)
    ]
    documents.append(document(commit_hash="main"))
    texts = {
        "array": json.dumps(documents),
        "lines": "\n".join(map(json.dumps, documents)) + "\n",
        "pretty": "\n".join(json.dumps(each, indent=2) for each in documents),
        "mark": "\ufeff" + json.dumps(documents),
    }
    file = tmp_path / "export.json"
    file.write_text(texts[shape], encoding="utf-8")
    on = {"enabled": True, "listen": ["127.0.0.1"], "port": 0}
    daemon = await daemon_factory({"plugins": {**OFF, "tracker": on}})
    code, out, err = await cli_runs.run(daemon, "tracker", "import", str(file))
    assert code == 0, err
    assert "entered        1200" in out and "refused        1" in out
    assert "1200  org/model/model.safetensors  commit_hash must be a commit" in out
    if shape == "array":
        code, out, _ = await cli_runs.run(daemon, "tracker", "import", str(file), "--json")
        assert json.loads(out)["unchanged"] == 1200
        file.write_text('{"repo_id": ')
        code, _, err = await cli_runs.run(daemon, "tracker", "import", str(file))
        assert code == 1 and "is not what mongoexport writes" in err
        for content, reason in (("[{}, 3]", "document 1 is no object"), ("[]", "no documents")):
            file.write_text(content)
            code, _, err = await cli_runs.run(daemon, "tracker", "import", str(file))
            assert code == 1 and reason in err
        code, _, err = await cli_runs.run(daemon, "tracker", "import", "/nowhere.json")
        assert code == 1 and "No such file" in err
