"""The identity key: made once, never overwritten, never shown."""

from __future__ import annotations

import base64
import copy
import errno
import os
import pickle
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aitorrentd.api.signing import verify
from aitorrentd.errors import ConfigError, Unavailable
from aitorrentd.runtime.identity import Identity, encode, load, load_or_create

SEED = bytes(range(32))


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    file = tmp_path / "identity.key"
    file.write_bytes(encode(SEED))
    file.chmod(0o600)
    return file


def test_first_start_makes_a_private_key_file_and_later_starts_read_it(tmp_path: Path) -> None:
    file = tmp_path / "identity.key"
    first = load_or_create(file)
    assert file.stat().st_mode & 0o777 == 0o600
    assert load_or_create(file).peer_id == first.peer_id
    assert [p.name for p in tmp_path.iterdir()] == ["identity.key"]


def test_the_same_seed_is_the_same_node_for_ever(key_file: Path) -> None:
    # Ed25519 public key of the seed 00 01 … 1f, as any implementation computes it.
    expected = "03a107bff3ce10be1d70dd18e74bc09967e4d6309ba50d5f1ddc8664125531b8"
    assert load(key_file).public_key.hex() == expected


def test_signatures_verify_only_for_their_domain(key_file: Path) -> None:
    identity = load(key_file)
    signature = identity.sign("aitd/test/1", b"message")
    assert verify(identity.public_key, "aitd/test/1", b"message", signature)
    assert not verify(identity.public_key, "aitd/other/1", b"message", signature)
    assert not verify(identity.public_key, "aitd/test/1", b"massage", signature)


def test_two_identities_share_a_secret_for_each_domain_that_a_third_lacks() -> None:
    one, two, three = Identity(SEED), Identity(bytes(32)), Identity(b"\x01" * 32)
    secret = one.agree("aitd/test/1", two.public_key)
    assert len(secret) == 32
    assert two.agree("aitd/test/1", one.public_key) == secret
    assert two.agree("aitd/other/1", one.public_key) != secret
    assert three.agree("aitd/test/1", one.public_key) != secret
    assert three.agree("aitd/test/1", two.public_key) != secret


@pytest.mark.parametrize(
    "key",
    [b"", bytes(31), bytes(33), bytes(32), b"\x01" + bytes(31), b"\xff" * 32],
    ids=["empty", "short", "long", "order 4", "order 1", "no point"],
)
def test_no_secret_is_shared_with_a_key_that_nobody_can_have(key: bytes) -> None:
    with pytest.raises(ValueError, match="not a valid Ed25519 public key"):
        Identity(SEED).agree("aitd/test/1", key)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "it is empty"),
        (b"\0" * 100, "not a key file"),
        (encode(SEED)[:-1], "it is truncated"),
        (encode(SEED)[:40], "it is truncated"),
        (encode(SEED).replace(b"AAEC", b"AAED"), "its checksum does not match"),
        (encode(SEED).replace(b"AAEC", b"A*EC"), "not base64"),
        (encode(SEED).replace(b"-1 ", b"-9 "), "an unknown key file version"),
        (encode(SEED) + encode(SEED), "it is truncated"),
        (b"aitorrentd-ed25519-1 " + b"A" * 5000, "longer than 4096 bytes"),
        (encode(SEED[:16]), "its checksum does not match"),
    ],
)
def test_damaged_key_is_an_error_with_a_way_out_and_is_left_alone(
    key_file: Path, content: bytes, what: str
) -> None:
    key_file.write_bytes(content)
    with pytest.raises(ConfigError, match="damaged") as caught:
        load_or_create(key_file)
    assert what in caught.value.message
    assert str(key_file) in caught.value.message
    assert f"mv {key_file} {key_file}.damaged" in caught.value.message
    assert key_file.read_bytes() == content


def test_key_that_others_can_read_is_refused_with_the_command_that_helps(key_file: Path) -> None:
    key_file.chmod(0o640)
    with pytest.raises(ConfigError, match=rf"mode 0640.*chmod 600 {key_file}"):
        load(key_file)


@pytest.mark.root
def test_key_of_another_user_is_refused(key_file: Path) -> None:
    os.chown(key_file, 12345, 12345)
    with pytest.raises(ConfigError, match="belongs to uid 12345, this process runs as uid 0"):
        load(key_file)


def test_things_that_are_not_key_files_are_refused(tmp_path: Path) -> None:
    directory = tmp_path / "directory"
    directory.mkdir()
    with pytest.raises(ConfigError, match="not a regular file"):
        load(directory)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo, 0o600)
    with pytest.raises(ConfigError, match="not a regular file"):
        load(fifo)
    dangling = tmp_path / "dangling"
    dangling.symlink_to(tmp_path / "nothing")
    with pytest.raises(ConfigError, match="dangling symbolic link"):
        load_or_create(dangling)
    assert not (tmp_path / "nothing").exists()


def test_missing_directory_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"cannot write to .*: no such file .*; set node.identity"
    ):
        load_or_create(tmp_path / "missing" / "identity.key")


def test_processes_that_start_together_get_one_key(tmp_path: Path) -> None:
    file = tmp_path / "identity.key"
    code = (
        "import sys, pathlib\n"
        "from aitorrentd.runtime.identity import load_or_create\n"
        "sys.stdin.readline()\n"
        "print(load_or_create(pathlib.Path(sys.argv[1])).peer_id)\n"
    )
    pipe = subprocess.PIPE
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(file)], stdin=pipe, stdout=pipe, text=True
        )
        for _ in range(6)
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    names = {process.communicate(timeout=60)[0] for process in processes}
    assert names == {f"{load(file).peer_id}\n"}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["identity.key"]


def test_key_is_made_where_hard_links_are_not_possible(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def link(*paths: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    file = tmp_path / "identity.key"
    assert load_or_create(file).peer_id == load(file).peer_id
    assert [p.name for p in tmp_path.iterdir()] == ["identity.key"]


def test_leftovers_of_killed_processes_are_removed_but_not_those_of_running_ones(
    tmp_path: Path,
) -> None:
    old, fresh = tmp_path / ".identity.key.1.aa", tmp_path / ".identity.key.2.bb"
    old.touch()
    fresh.touch()
    os.utime(old, (time.time() - 3600, time.time() - 3600))
    load_or_create(tmp_path / "identity.key")
    assert not old.exists()
    assert fresh.exists()


def test_failed_write_leaves_no_key_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fsync(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(Unavailable, match="the disk is full"):
        load_or_create(tmp_path / "identity.key")
    assert list(tmp_path.iterdir()) == []


def test_key_has_no_way_out_of_the_object(key_file: Path) -> None:
    identity = load(key_file)
    secret = (SEED.hex(), base64.b64encode(SEED).decode())
    shown = f"{identity!r} {identity} {vars(type(identity)).keys()}"
    assert not any(s in shown for s in secret)
    assert repr(identity) == f"Identity({identity.peer_id})"
    for leave in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="cannot be pickled"):
            leave(identity)


@given(st.binary(max_size=200))
def test_any_bytes_are_an_identity_or_a_config_error(raw: bytes) -> None:
    file = Path(f"/tmp/ait-fuzz-{os.getpid()}.key")
    try:
        file.write_bytes(raw)
        file.chmod(0o600)
        with pytest.raises(ConfigError, match="damaged"):
            load(file)
        assert file.read_bytes() == raw
    finally:
        file.unlink()


@pytest.mark.parametrize("has_hard_links", [True, False])
def test_key_of_a_process_that_was_faster_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_hard_links: bool
) -> None:
    path = tmp_path / "identity.key"
    rival = encode(b"r" * 32)
    fsync = os.fsync

    def be_late(fd: int) -> None:
        fsync(fd)
        if not path.exists():
            path.touch(0o600)
            path.write_bytes(rival)

    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "no hard links here")

    monkeypatch.setattr(os, "fsync", be_late)
    if not has_hard_links:
        monkeypatch.setattr(os, "link", refuse)
    assert load_or_create(path).peer_id == Identity(b"r" * 32).peer_id
    assert path.read_bytes() == rival
    assert os.listdir(tmp_path) == [path.name]
