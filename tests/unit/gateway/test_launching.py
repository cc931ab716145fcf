"""What programs are told so that they use the node."""

from __future__ import annotations

import json
import re
import tomllib

import pytest

from aitorrent_gateway.launching.programs import PROGRAMS, VARIABLES, Model, Place, reachable
from tests.support.gateway_nodes import DOCS

HERE = Place("http://127.0.0.1:8000")
THERE = Place("https://ai.example.org", "ait_x")
MODEL = Model('org/m "1"', 65_536)


@pytest.mark.parametrize(
    ("api", "place", "expected"),
    [
        (
            "openai",
            HERE,
            {
                "OPENAI_BASE_URL": "http://127.0.0.1:8000/v1",
                "OPENAI_API_KEY": "none",
                "OPENAI_API_BASE": "http://127.0.0.1:8000/v1",
            },
        ),
        (
            "anthropic",
            THERE,
            {"ANTHROPIC_BASE_URL": "https://ai.example.org", "ANTHROPIC_API_KEY": "ait_x"},
        ),
        ("ollama", HERE, {"OLLAMA_HOST": "http://127.0.0.1:8000"}),
        ("ollama", THERE, {"OLLAMA_HOST": "https://ai.example.org", "OLLAMA_API_KEY": "ait_x"}),
    ],
)
def test_variables(api: str, place: Place, expected: dict[str, str]) -> None:
    assert VARIABLES[api](place) == expected


def test_claude_has_the_one_model_in_every_size_and_no_key_to_confirm() -> None:
    start = PROGRAMS["claude"].start(THERE, MODEL)
    told = start.environment
    assert (told["ANTHROPIC_BASE_URL"], told["ANTHROPIC_AUTH_TOKEN"]) == (THERE.url, "ait_x")
    assert [v for k, v in told.items() if k.endswith("_MODEL")] == [MODEL.name] * 5
    assert told["CLAUDE_CODE_MAX_CONTEXT_TOKENS"] == "65536"
    assert "ANTHROPIC_API_KEY" in start.unset


def test_codex_is_told_by_settings_on_its_command_line() -> None:
    start = PROGRAMS["codex"].start(THERE, MODEL)
    settings = tomllib.loads("\n".join(start.arguments[1:-2:2]))
    assert settings == {
        "model_provider": "aitorrentd",
        "model_providers": {
            "aitorrentd": {
                "name": "aitorrentd",
                "base_url": "https://ai.example.org/v1",
                "wire_api": "responses",
                "env_key": "AITORRENT_TOKEN",
            }
        },
        "model_context_window": 65_536,
    }
    assert set(start.arguments[:-2:2]) == {"-c"}
    assert start.arguments[-2:] == ("-m", MODEL.name)
    assert start.environment == {"AITORRENT_TOKEN": "ait_x"}
    assert "ait_x" not in " ".join(start.arguments)  # every user sees arguments
    assert PROGRAMS["codex"].start(HERE, MODEL).environment == {}


def test_opencode_is_told_by_its_configuration_in_the_environment() -> None:
    start = PROGRAMS["opencode"].start(THERE, MODEL)
    config = json.loads(start.environment["OPENCODE_CONFIG_CONTENT"])
    provider = config["provider"]["aitorrentd"]
    assert provider["options"] == {"baseURL": "https://ai.example.org/v1", "apiKey": "ait_x"}
    assert provider["models"][MODEL.name]["limit"] == {"context": 65_536, "output": 16_384}
    assert config["model"] == config["small_model"] == f"aitorrentd/{MODEL.name}"


def test_aider_and_qwen_are_told_by_what_openai_clients_read() -> None:
    aider, qwen = (PROGRAMS[name].start(HERE, Model("m")) for name in ("aider", "qwen"))
    assert aider.arguments == ("--no-show-model-warnings", "--model", "openai/m")
    assert qwen.environment["OPENAI_MODEL"] == "m"
    for start in (aider, qwen):
        assert start.environment["OPENAI_BASE_URL"] == "http://127.0.0.1:8000/v1"


@pytest.mark.parametrize(
    ("environ", "place", "expected"),
    [
        ({}, HERE, None),
        ({"HTTPS_PROXY": "http://p"}, HERE, "127.0.0.1"),
        ({"http_proxy": "http://p", "NO_PROXY": "a,b"}, HERE, "a,b,127.0.0.1"),
        ({"http_proxy": "http://p"}, THERE, "ai.example.org"),
    ],
)
def test_no_proxy_is_asked_for_the_node(
    environ: dict[str, str], place: Place, expected: str | None
) -> None:
    assert reachable(environ, place).get("NO_PROXY") == expected


def test_the_page_lists_every_program() -> None:
    text = (DOCS / "programs.md").read_text(encoding="utf-8")
    assert set(re.findall(r"(?m)^\| `(\w+)`", text)) == set(PROGRAMS)
    assert set(re.findall(r"aitorrentctl env (\w+)", text)) == set(VARIABLES)
