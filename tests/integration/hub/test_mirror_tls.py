"""The Hub speaks TLS: its certificate is verified, and nothing goes on without encryption."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from tests.support.nodes import NodeFactory
from tests.support.servers.hub.certificates import tls_for
from tests.support.servers.hub.fake_hub import FakeHub
from tests.support.servers.hub.mirrors import TOKEN, Program, mirror_config, mirror_of
from tests.support.servers.hub.repos import weights

FILES = {"config.json": b"{}", "model.safetensors": weights()}
PATH = "/org/model/resolve/main/model.safetensors"


async def test_files_come_over_tls(
    node_factory: NodeFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tls, certificate = tls_for(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with FakeHub(tls=tls) as hub:
        hub.add("org/model", FILES)
        node = await node_factory(mirror_config(hub))
        program = Program(await mirror_of(node))
        program.env["SSL_CERT_FILE"] = ""
        assert await program.snapshot() == FILES


async def test_a_hub_with_another_certificate_gets_nothing(
    node_factory: NodeFactory, tmp_path: Path
) -> None:
    tls, _ = tls_for(tmp_path)
    with FakeHub(tls=tls) as hub:
        hub.add("org/model", FILES)
        node = await node_factory(mirror_config(hub))
        async with httpx.AsyncClient(trust_env=False) as client:
            answer = await client.get(
                await mirror_of(node) + PATH, headers={"Authorization": f"Bearer {TOKEN}"}
            )
        assert (answer.status_code, hub.seen) == (503, [])
        assert "cannot be reached" in answer.json()["error"]


async def test_a_redirect_from_tls_to_plain_http_is_not_followed(
    node_factory: NodeFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tls, certificate = tls_for(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    monkeypatch.setattr("aitorrent_hub.files.download._ATTEMPTS", 1)
    with FakeHub(tls=tls, secured=("hub",)) as hub:
        hub.add("org/model", FILES)
        node = await node_factory(mirror_config(hub))
        async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
            answer = await client.get(await mirror_of(node) + PATH)
        assert answer.status_code == 503
        assert [seen for seen in hub.seen if seen.server == "cdn"] == []
