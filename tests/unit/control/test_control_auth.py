from __future__ import annotations

import multiprocessing
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from aitorrentd.api.plugin import CallContext, Method, NoParams, Role
from aitorrentd.control.auth import Credentials, group_id, peer_credentials, role_of
from aitorrentd.control.client import Client
from aitorrentd.errors import AitorrentError, Denied
from tests.support.control_server import ServerThread

OPERATORS = 54_321
STRANGER = 54_322


def whoami(call: CallContext, params: NoParams) -> dict[str, Any]:
    return {"role": call.role.name.lower()}


METHODS = (
    Method("a.read", whoami, "Read."),
    Method("a.act", whoami, "Act.", role=Role.OPERATE),
    Method("a.rule", whoami, "Rule.", role=Role.ADMIN),
)


@pytest.mark.parametrize(
    ("uid", "gid", "groups", "role"),
    [
        (0, 0, (), Role.ADMIN),
        (990, 990, (), Role.ADMIN),
        (1000, 1000, (), Role.READ),
        (1000, 77, (), Role.OPERATE),
        (1000, 1000, (4, 77), Role.OPERATE),
        (1000, 0, (0,), Role.READ),
    ],
)
def test_roles_follow_uid_and_groups(
    uid: int, gid: int, groups: tuple[int, ...], role: Role
) -> None:
    caller = Credentials(1, uid, gid, frozenset(groups))
    assert role_of(caller, own_uid=990, operate_gid=77) is role


def test_without_the_group_nobody_operates() -> None:
    caller = Credentials(1, 1000, 1000, frozenset({4}))
    assert role_of(caller, own_uid=990, operate_gid=None) is Role.READ


def test_groups_are_known_by_name_and_number() -> None:
    assert group_id("root") == 0
    assert group_id("1234") == 1234
    assert group_id("no-such-group-here") is None


def test_the_kernel_vouches_for_this_process() -> None:
    left, right = socket.socketpair()
    with left, right:
        caller = peer_credentials(left)
    assert (caller.pid, caller.uid, caller.gid) == (os.getpid(), os.getuid(), os.getgid())
    assert caller.groups == frozenset(os.getgroups())


def _ask(
    path: Path, uid: int, gid: int, groups: list[int], answer: multiprocessing.SimpleQueue[Any]
) -> None:
    os.setgroups(groups)
    os.setgid(gid)
    os.setuid(uid)
    found: dict[str, str] = {}
    try:
        with Client(path, 5.0) as client:
            found["hello"] = str(client.hello["role"])
            for name in ("a.read", "a.act", "a.rule"):
                try:
                    found[name] = client.call(name)["role"]
                except AitorrentError as e:
                    found[name] = f"{e.code}: {e.message}"
    except AitorrentError as e:
        found["error"] = f"{type(e).__name__}: {e.message}"
    answer.put(found)


def ask_as(path: Path, uid: int, gid: int, groups: list[int]) -> dict[str, str]:
    """What a process with these credentials is told."""
    context = multiprocessing.get_context("fork")
    answer = context.SimpleQueue()
    child = context.Process(target=_ask, args=(path, uid, gid, groups, answer))
    child.start()
    child.join(20)
    assert child.exitcode == 0
    found: dict[str, str] = answer.get()
    answer.close()
    return found


@pytest.mark.root
def test_each_role_may_do_what_is_its_own(open_path: Path) -> None:
    with ServerThread(open_path, *METHODS, group=str(OPERATORS)):
        open_path.chmod(0o666)
        root = ask_as(open_path, 0, 0, [])
        assert [root[n] for n in ("hello", "a.read", "a.act", "a.rule")] == ["admin"] * 4

        for gid, groups in ((OPERATORS, []), (STRANGER, [4, OPERATORS])):
            member = ask_as(open_path, STRANGER, gid, groups)
            assert [member[n] for n in ("hello", "a.read", "a.act")] == ["operate"] * 3
            assert member["a.rule"].startswith(f"{Denied.code}: a.rule needs the role admin")
            assert "run the command as root" in member["a.rule"]

        stranger = ask_as(open_path, STRANGER, STRANGER, [])
        assert [stranger[n] for n in ("hello", "a.read")] == ["read"] * 2
        assert stranger["a.act"].startswith("denied: a.act needs the role operate")
        assert f"sudo adduser $USER {OPERATORS}" in stranger["a.act"]
        assert stranger["a.rule"].startswith("denied:")


@pytest.mark.root
def test_the_default_mode_lets_only_the_group_in(open_path: Path) -> None:
    with ServerThread(open_path, *METHODS, group=str(OPERATORS)):
        assert ask_as(open_path, STRANGER, STRANGER, [OPERATORS])["hello"] == "operate"
        told = ask_as(open_path, STRANGER, STRANGER, [])["error"]
        assert told.startswith("NoAccess: cannot reach")
        assert "permission denied; join the group: sudo adduser $USER aitorrent" in told


@pytest.mark.root
def test_a_caller_in_very_many_groups_is_still_served(open_path: Path) -> None:
    many = list(range(100_000, 100_400))
    with ServerThread(open_path, *METHODS, group=str(OPERATORS)):
        open_path.chmod(0o666)
        assert ask_as(open_path, STRANGER, OPERATORS, many)["hello"] == "operate"
        assert ask_as(open_path, STRANGER, STRANGER, many)["hello"] == "read"


@pytest.mark.root
def test_a_reader_may_send_1_mib_at_most(open_path: Path) -> None:
    with ServerThread(open_path, *METHODS, group=str(OPERATORS)) as server:
        open_path.chmod(0o666)
        context = multiprocessing.get_context("fork")
        answer = context.SimpleQueue()
        child = context.Process(target=_send_large, args=(open_path, answer))
        child.start()
        child.join(20)
        assert answer.get().startswith("too_large: frame of 2000")
        answer.close()
        assert server.statistics()["calls_total"] == 0


def _send_large(path: Path, answer: multiprocessing.SimpleQueue[str]) -> None:
    os.setgroups([])
    os.setgid(STRANGER)
    os.setuid(STRANGER)
    with Client(path, 5.0) as client:
        try:
            client.call("a.read", {"x": b"x" * 2_000_000})
        except AitorrentError as e:
            answer.put(f"{e.code}: {e.message}")
