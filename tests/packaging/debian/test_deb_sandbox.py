"""What the units forbid, tried from inside the daemon, a worker and a sandbox."""

from __future__ import annotations

import json

import pytest

from tests.support.packaging.package_machine import Machine, until

pytestmark = [pytest.mark.systemd, pytest.mark.slow, pytest.mark.timeout(900)]

REFUSED = {"EACCES", "EPERM", "EROFS", "ENOENT", "EAFNOSUPPORT", "EINVAL"}
EVERYWHERE = (
    "write /usr",
    "write /etc",
    "write program",
    "write layer",
    "read home",
    "read root",
    "raw packets",
    "set clock",
    "mount",
    "become root",
    "new user namespace",
    "new mount namespace",
    "new net namespace",
    "new pid namespace",
)
# Speaks to a worker as the daemon does, from a process of the daemon's user.
ASK = """
import asyncio, json, sys
from pathlib import Path
from aitorrentd.workers.process import spawn_worker

async def main():
    at = Path(sys.argv[1])
    worker = await spawn_worker("aitorrent_probe:worker", name="test", unit_socket=at)
    try:
        frame = await worker.request({"op": "look"}, timeout_s=30)
        print(json.dumps(frame.header["facts"]))
    finally:
        await worker.close()

asyncio.run(main())
"""


def user_id(machine: Machine, user: str) -> str:
    return machine.run("id", "-u", user).out.strip()


def assert_refused(facts: dict[str, str], *more: str) -> None:
    allowed = {name: facts[name] for name in (*EVERYWHERE, *more) if facts[name] not in REFUSED}
    assert not allowed, f"not refused: {allowed}"
    assert facts["capabilities"] == "0" * 16
    assert facts["seccomp"] == "2"
    assert facts["no new privileges"] == "1"


def test_daemon_reaches_its_own_state_and_the_network_only(probed: Machine) -> None:
    facts = probed.call("probe.look")["facts"]
    assert_refused(facts, "executable memory")
    assert facts["uid"] == user_id(probed, "aitorrent")
    assert facts["unit"] == "aitorrentd.service"
    for name in ("write state", "read identity", "network"):
        assert facts[name] == "done", name


def test_worker_of_the_daemon_is_a_unit_of_its_own_without_network(probed: Machine) -> None:
    found = probed.call("probe.worker")
    facts = found["facts"]
    assert_refused(facts, "write state", "read identity", "control socket", "network")
    assert facts["uid"] == user_id(probed, "aitorrent-worker")
    assert facts["unit"].startswith("aitorrent-worker@")
    assert facts["interfaces"] in ("", "lo")
    assert found["pid"] != int(probed.unit("MainPID"))
    # torch compiles; that is why this one thing is allowed here and nowhere else.
    assert facts["executable memory"] == "done"


def workers(machine: Machine, kind: str) -> list[str]:
    shown = machine.run(
        *("systemctl", "list-units", "--plain", "--no-legend", f"aitorrent-{kind}@*")
    ).out
    return [line.split()[0] for line in shown.splitlines()]


def test_worker_unit_ends_with_its_connection(probed: Machine) -> None:
    probed.call("probe.worker")
    until(lambda: not workers(probed, "worker"), 15)


def test_sandbox_runs_code_without_files_network_or_name(probed: Machine) -> None:
    done = probed.run(
        *("/usr/lib/aitorrentd/bin/python3", "-I", "-c", ASK, "/run/aitorrent/sandbox.sock"),
        user="aitorrent",
    )
    facts = json.loads(done.out)
    assert_refused(
        facts, "write state", "read identity", "control socket", "network", "executable memory"
    )
    known = probed.run("cut", "-d:", "-f3", "/etc/passwd").out.split()
    assert facts["uid"] not in known
    assert facts["unit"].startswith("aitorrent-sandbox@")
    assert facts["interfaces"] in ("", "lo")
    until(lambda: not workers(probed, "sandbox"), 15)


def test_sandbox_sees_the_program_and_can_write_nothing(probed: Machine) -> None:
    look = """
import os
def under(top):
    return [d for d, _, _ in os.walk(top) if not d.startswith(('/proc/', '/usr/'))]
result = [
    sorted(os.listdir('/etc')), os.path.exists('/var/lib'), os.path.exists('/srv'),
    [d for d in under('/') if os.access(d, os.W_OK)],
    os.access('/usr/local/lib/aitorrentd/plugins/requirements.txt', os.R_OK),
]
"""
    found = probed.call("probe.run", f"code={json.dumps(look)}")["result"]
    assert found == "[[], False, False, [], False]"
    made = probed.run("find", "/usr/lib/aitorrentd/sandbox", "-mindepth", "1").out.splitlines()
    owned = probed.run("dpkg", "-L", "aitorrentd").out.splitlines()
    assert made and set(made) <= set(owned), "systemd made mount points that dpkg does not know"


def test_only_the_daemon_may_start_workers(machine: Machine) -> None:
    for name in ("worker", "sandbox"):
        shown = machine.run("stat", "-c", "%U %a", f"/run/aitorrent/{name}.sock").out
        assert shown == "aitorrent 600\n"


def test_workers_end_when_the_daemon_is_stopped(probed: Machine) -> None:
    script = ASK.replace("await worker.request", "print(1, flush=True); await asyncio.sleep(60) #")
    probed.sh(
        f"""cat > /tmp/hold.py <<'END'
{script}
END
        systemd-run --quiet --unit=hold --uid=aitorrent --collect \
            /usr/lib/aitorrentd/bin/python3 -I /tmp/hold.py /run/aitorrent/worker.sock"""
    )
    until(lambda: workers(probed, "worker"), 15)
    probed.run("systemctl", "stop", "aitorrentd.service")
    until(lambda: not workers(probed, "worker"), 15)
    assert probed.unit("ActiveState", "aitorrent-worker.socket") == "inactive"
    probed.run("systemctl", "stop", "hold.service", check=False)
