"""The image and the compose files, on a real Docker Engine in a network namespace of its own."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from tests.support.packaging.container_engine import (
    KEEP_LAYERS,
    Engine,
    build_context,
    compose,
    engine,
    import_base,
    require_docker,
    run,
    until,
)

pytestmark = [pytest.mark.docker, pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(900)]

IMAGE: Final = "aitorrentd:latest"
TORCH_IMAGE: Final = "aitorrentd:torch"
NODES: Final = ("node1", "node2", "node3")
PROJECT: Final = "aitorrentd-nodes"
# Over the base, which is larger here than the official slim image of 75 MB. The libraries of NAT
# traversal (aiohttp for UPnP, aioquic, aioice and what they need) are 24 MB of it, llguidance 8 MB.
MAX_ADDED_BYTES: Final = 220e6
HEALTH: Final = ("--health-interval=1s", "--health-timeout=3s", "--health-retries=2")
LOADED_S: Final = 240.0
"Three nodes import torch, which takes each of them seconds of a processor that others use, too."
QUICK: Final = ("-c", "import sys; sys.exit(0)")


@pytest.fixture(scope="module")
def context() -> Iterator[Path]:
    """A build context in which builds use the machine's network, which has packages."""
    require_docker()
    at = Path(tempfile.mkdtemp(prefix="aitc-src-", dir="/tmp"))
    try:
        build_context(at)
        for name in ("compose.yaml", "compose.ollama.yaml"):
            file = at / "packaging/container" / name
            tree = yaml.safe_load(file.read_text())
            for service in tree["services"].values():
                if "build" in service:
                    service["build"]["network"] = "host"
            file.write_text(yaml.safe_dump(tree))
        yield at
    finally:
        shutil.rmtree(at)


def stack(of: Engine, context: Path, verb: str, what: str = "nodes", **options: Any) -> str:
    """`make up`, `down` or `rebuild` as a person types it."""
    environ = {**of.environ, "PIP_NO_INDEX": "1"}
    done = run("make", "-C", context, verb, f"STACK={what}", env=environ, **options)
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def images(context: Path) -> None:
    """Both images, built as `make rebuild` builds them."""
    with engine(isolated=False) as builder:
        import_base(builder)
        script = context / "packaging/container/stack"
        environ = {**builder.environ, "PIP_NO_INDEX": "1"}
        for what in ("ollama", "nodes"):
            run(script, "build", what, timeout_s=600, env=environ)
        builder.docker("image", "prune", "-f")
        prune = ("builder", "prune", "-f", "--keep-storage", KEEP_LAYERS)
        builder.docker(*prune, timeout_s=600)


@pytest.fixture(scope="module")
def docker(images: None) -> Iterator[Engine]:
    """An engine that has the images and reaches nothing."""
    with engine(isolated=True) as made:
        yield made


@pytest.fixture
def container(docker: Engine) -> Iterator[str]:
    """The name of a container that is removed afterwards."""
    yield "one"
    docker.docker("rm", "-f", "-v", "one", check=False)


@pytest.fixture(scope="module")
def nodes(docker: Engine, context: Path) -> Iterator[Engine]:
    """The three nodes, up by `make up`."""
    said = stack(docker, context, "up", timeout_s=240)
    assert "exec node1 aitorrentctl ask" in said
    yield docker
    stack(docker, context, "down", timeout_s=120)
    compose(docker, context / "packaging/container/compose.yaml", "-p", PROJECT, "down", "-v")


def in_image(docker: Engine, script: str, *options: str, image: str = IMAGE) -> str:
    """What a shell script in a fresh container prints."""
    done = docker.docker(
        "run", "--rm", "--network=none", *options, "--entrypoint", "sh", image, "-c", script
    )
    return done.stdout.strip()


def is_healthy(docker: Engine, name: str, wanted: str = "healthy") -> bool:
    return docker.inspect(name, "{{.State.Health.Status}}") == wanted


def ctl(docker: Engine, name: str, *words: str, **options: Any) -> str:
    """`aitorrentctl` in a running container."""
    done = docker.docker("exec", name, "aitorrentctl", *words, **options)
    return done.stdout


def signal_daemon(docker: Engine, name: str, signal: str) -> None:
    """Send a signal to the daemon, which is the first child of process 1."""
    script = f"read pid _ < /proc/1/task/1/children; kill -{signal} $pid"
    docker.docker("exec", name, "sh", "-c", script)


def of_node(name: str) -> str:
    return f"{PROJECT}_{name}_1"


def test_image_runs_as_a_user_without_rights(docker: Engine) -> None:
    assert in_image(docker, "id -u; id -un").split() == ["10001", "aitorrent"]
    script = "for at in / /etc /usr/bin /opt/aitorrentd /models; do [ -w $at ] && echo $at; done; :"
    assert in_image(docker, script) == ""
    # `su` and the like come with Debian's base; nothing else may gain rights.
    found = in_image(docker, "find /opt /etc /models -perm /6000 2>/dev/null; :")
    assert found == ""


def test_image_is_small_and_carries_no_build_tools(docker: Engine) -> None:
    sizes = [int(docker.inspect(name, "{{.Size}}")) for name in (IMAGE, "debian:bookworm-slim")]
    print(f"image {sizes[0] / 1e6:.0f} MB, of it above the base {(sizes[0] - sizes[1]) / 1e6:.0f}")
    print(f"with torch {int(docker.inspect(TORCH_IMAGE, '{{.Size}}')) / 1e6:.0f} MB")
    assert sizes[0] - sizes[1] < MAX_ADDED_BYTES
    for image in (IMAGE, TORCH_IMAGE):
        tools = in_image(docker, "for t in gcc cc make git curl; do which $t; done; :", image=image)
        assert tools == ""
        caches = "/root/.cache /wheels /source /opt/build /tmp/* /var/lib/apt/lists/*"
        assert in_image(docker, f"ls -d {caches} 2>/dev/null; :", image=image) == ""


def test_image_has_torch_only_when_asked(docker: Engine) -> None:
    script = "/opt/aitorrentd/bin/python3 -c 'import torch; print(torch.__version__)' 2>&1; :"
    assert "No module named" in in_image(docker, script)
    assert in_image(docker, script, image=TORCH_IMAGE).startswith("2.")


def test_health_follows_the_daemon(docker: Engine, container: str) -> None:
    docker.docker("run", "-d", "--name", container, "--network=none", *HEALTH, IMAGE)
    assert until(lambda: is_healthy(docker, container), 60.0), docker.logs(container)
    # Process 1 hands on every signal but these two.
    signal_daemon(docker, container, "STOP")
    assert until(lambda: is_healthy(docker, container, "unhealthy"), 30.0)
    signal_daemon(docker, container, "CONT")
    assert until(lambda: is_healthy(docker, container), 30.0)


def test_environment_and_mounted_file_configure_the_node(docker: Engine, container: str) -> None:
    with tempfile.NamedTemporaryFile("w", suffix=".yaml", dir="/tmp") as file:
        file.write("node: {name: moored}\n")
        file.flush()
        os.chmod(file.name, 0o644)
        mount = f"{file.name}:/etc/aitorrent.yaml.d/50-name.yaml:ro"
        given = {
            "PORT": "9001",
            "AI_TORRENT_ADDR": "203.0.113.9:9001",
            "BOOTSTRAP_ADDR": "192.0.2.1:8468,192.0.2.2:8468",
        }
        variables = [word for key, value in given.items() for word in ("-e", f"{key}={value}")]
        docker.docker("run", "-d", "--name", container, "-v", mount, *variables, IMAGE)
        waited = docker.docker("exec", container, "aitorrentctl", "wait", check=False)
        assert waited.returncode == 0, docker.logs(container)
    shown = json.loads(ctl(docker, container, "--json", "config", "show"))["config"]
    assert shown["node"]["name"] == "moored"
    assert shown["plugins"]["transport"]["port"] == 9001
    assert shown["plugins"]["transport"]["bootstrap"] == ["192.0.2.1:8468", "192.0.2.2:8468"]
    assert "/ip4/203.0.113.9/tcp/9001" in ctl(docker, container, "id")


def test_wrong_configuration_ends_with_78_and_one_line(docker: Engine, container: str) -> None:
    done = docker.docker(
        "run", "--name", container, "--network=none", "-e", "PORT=many", IMAGE, check=False
    )
    assert done.returncode == 78
    assert done.stderr.strip().splitlines() == [
        "aitorrentd: plugins.transport.port: 'many' is not a port (0 to 65535); correct or "
        "unset it "
        "(in environment variable PORT)"
    ]


def test_sigterm_stops_in_order_and_the_volume_keeps_the_identity(
    docker: Engine, container: str
) -> None:
    volume = ("-v", "state-of-one:/var/lib/aitorrent")
    identities = []
    for _ in range(2):
        docker.docker("run", "-d", "--name", container, "--network=none", *volume, IMAGE)
        ctl(docker, container, "wait")
        identities.append(json.loads(ctl(docker, container, "--json", "id"))["id"])
        assert docker.docker("exec", container, "cat", "/proc/1/comm").stdout.strip() == "tini"
        began = time.monotonic()
        docker.docker("stop", container)
        # Docker kills after 10 s; then the code would be 137.
        assert time.monotonic() - began < 10
        assert docker.inspect(container, "{{.State.ExitCode}}") == "0"
        log = docker.logs(container)
        stopped = re.findall(r"plugin (\w+) is stopped", log)
        assert "SIGTERM: stopping" in log
        assert stopped.index("inference") < stopped.index("transport")
        docker.docker("rm", container)
    docker.docker("volume", "rm", "state-of-one")
    assert identities[0] == identities[1]


def test_sigterm_of_the_first_moments_is_not_lost(docker: Engine, container: str) -> None:
    """Before Python has its handlers, a process 1 without one would never hear of it."""
    for _ in range(3):
        docker.docker("run", "-d", "--name", container, "--network=none", IMAGE)
        docker.docker("kill", "-s", "TERM", container)
        assert until(lambda: docker.inspect(container, "{{.State.Running}}") == "false", 20.0)
        # Ended by the signal itself, or in order when it was quicker than we were.
        assert docker.inspect(container, "{{.State.ExitCode}}") in ("143", "0")
        docker.docker("rm", container)


def test_memory_limit_is_enforced(docker: Engine, container: str) -> None:
    greedy = ("-c", "print(len(b'x' * (256 << 20)))")
    limit = ("--memory=64m", "--memory-swap=64m", "--entrypoint", "python3")
    options = ("run", "--name", container, "--network=none", *limit, IMAGE)
    assert docker.docker(*options, *QUICK).returncode == 0
    docker.docker("rm", container)
    assert docker.docker(*options, *greedy, check=False).returncode == 137
    assert docker.inspect(container, "{{.State.OOMKilled}}") == "true"


def test_three_nodes_are_confined_and_healthy(nodes: Engine) -> None:
    for name in NODES:
        container = of_node(name)
        assert until(lambda c=container: is_healthy(nodes, c), 60.0), nodes.logs(container)  # type: ignore[misc]
        assert nodes.inspect(container, "{{.HostConfig.Memory}}") == str(2**30)
        assert nodes.inspect(container, "{{.HostConfig.NanoCpus}}") == str(10**9)
        assert nodes.inspect(container, "{{.HostConfig.PortBindings}}") == "map[]"
        status = nodes.docker("exec", container, "cat", "/proc/1/status").stdout
        assert re.search(r"^CapBnd:\s+0+$", status, re.M)
        assert re.search(r"^NoNewPrivs:\s+1$", status, re.M)
        touched = nodes.docker("exec", container, "touch", "/opt/x", check=False)
        assert "Read-only file system" in touched.stderr


def ask(nodes: Engine, **options: Any) -> subprocess.CompletedProcess[str]:
    """Ask the demo model, which may have to be loaded first."""
    words = ("aitorrentctl", "ask", "What is aitorrentd?")
    return nodes.docker("exec", of_node("node1"), *words, timeout_s=LOADED_S, **options)


def test_three_nodes_answer_a_prompt_together(nodes: Engine) -> None:
    asked = ask(nodes)
    assert "BitTorrent for AI" in asked.stdout
    for layers in ("0-3", "3-6", "6-9"):
        assert f"layers {layers}" in asked.stderr
    status = json.loads(ctl(nodes, of_node("node1"), "--json", "status"))
    assert status["peers"] == 2


def test_a_killed_node_comes_back_and_the_model_is_whole_again(nodes: Engine) -> None:
    container = of_node("node2")
    before = json.loads(ctl(nodes, container, "--json", "id"))["id"]
    os.kill(int(nodes.inspect(container, "{{.State.Pid}}")), 9)

    def is_back() -> bool:
        again = nodes.inspect(container, "{{.RestartCount}} {{.State.Running}}")
        asked = ask(nodes, check=False)
        return again == "1 true" and "BitTorrent for AI" in asked.stdout

    assert until(is_back, LOADED_S), nodes.logs(container)
    assert json.loads(ctl(nodes, container, "--json", "id"))["id"] == before


def test_rebuild_keeps_what_did_not_change(nodes: Engine, context: Path) -> None:
    container = of_node("node1")
    before = nodes.inspect(container, "{{.Id}}")
    # Without a network only cached layers can be used, so this also shows that all of them are.
    said = stack(nodes, context, "rebuild", timeout_s=240)
    assert "exec node1 aitorrentctl ask" in said
    assert nodes.inspect(container, "{{.Id}}") == before


def test_nodes_log_no_errors_and_stop_in_order(nodes: Engine, context: Path) -> None:
    file = context / "packaging/container/compose.yaml"
    compose(nodes, file, "-p", PROJECT, "stop", timeout_s=120)
    for name in NODES:
        assert nodes.inspect(of_node(name), "{{.State.ExitCode}}") == "0"
        log = nodes.logs(of_node(name))
        assert "plugin transport is stopped" in log
        assert not re.search(r"^\S+ \S+ (error|critical) |^Traceback", log, re.M), log


def test_ollama_stack_pulls_once_and_serves_the_model(
    docker: Engine, context: Path, ollama_file: Path
) -> None:
    """With a fake Ollama that speaks the same API, and without the GPU."""
    modelfile = context / "packaging/container/Modelfile"
    good = modelfile.read_text()
    modelfile.write_text(good.replace("llama3.2:3b", "nonesuch:3b"))
    said = stack(docker, context, "up", "ollama", timeout_s=180, check=False)
    assert "pull_model: Ollama: pull model manifest: file does not exist" in said
    assert "could not be pulled" in said
    assert "Ask:" not in said
    # Else one of its later tries, which reads the file anew, may pull before the next `up`.
    docker.docker("rm", "--force", "aitorrentd-ollama_pull_1")
    modelfile.write_text(good)
    said = stack(docker, context, "up", "ollama", timeout_s=180)
    assert "Pulling llama3.2:3b" in said
    assert re.search(r"\[#{15}\.{15}\]  50 %", said), said
    assert "assistant is ready" in said
    node = "aitorrentd-ollama_node_1"
    assert until(lambda: '"assistant:latest"' in ctl(docker, node, "--json", "models"), 60.0)
    answer = ctl(docker, node, "ask", "Why is the sky blue?")
    assert answer.strip() == "The sky is blue"
    ollama = "aitorrentd-ollama_ollama_1"
    assert docker.inspect(ollama, "{{.HostConfig.NanoCpus}}") == str(2 * 10**9)
    assert until(lambda: is_healthy(docker, node), 60.0)
    # The second start finds it.
    docker.docker("start", "-a", "aitorrentd-ollama_pull_1")
    assert "llama3.2:3b is already present" in docker.logs("aitorrentd-ollama_pull_1")


@pytest.fixture
def ollama_file(docker: Engine, context: Path) -> Iterator[Path]:
    """compose.ollama.yaml with the fake in the place of Ollama; put back afterwards."""
    file = context / "packaging/container/compose.ollama.yaml"
    original = file.read_text()
    tree = yaml.safe_load(original)
    ollama = tree["services"]["ollama"]
    del ollama["deploy"]["resources"]["reservations"]
    probe = "import socket; socket.create_connection(('127.0.0.1', 11434), 3)"
    ollama |= {
        "image": IMAGE,
        "entrypoint": ["python3", "-m", "tests.support.packaging.container_ollama"],
        "working_dir": "/fake",
        # Python as process 1 has no handler for SIGTERM.
        "stop_signal": "SIGKILL",
        "volumes": [f"{context}/tests:/fake/tests:ro"],
        "healthcheck": {"test": ["CMD", "python3", "-c", probe], "interval": "1s"},
    }
    file.write_text(yaml.safe_dump(tree))
    yield file
    compose(docker, file, "-p", "aitorrentd-ollama", "down", "-v", timeout_s=120)
    file.write_text(original)


@pytest.mark.parametrize("name", ["compose.yaml", "compose.ollama.yaml"])
def test_compose_files_are_valid(docker: Engine, context: Path, name: str) -> None:
    shown = compose(docker, context / "packaging/container" / name, "config").stdout
    services = yaml.safe_load(shown)["services"]
    for service in services.values():
        assert service.get("restart")
    if "ollama" in services:
        devices = services["ollama"]["deploy"]["resources"]["reservations"]["devices"]
        assert devices == [{"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}]
