"""What programs have to be told so that they use the node; their files stay as they are. No I/O."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

_PROVIDER: Final = "aitorrentd"


@dataclass(frozen=True, slots=True)
class Place:
    """Where the node is, for a program."""

    url: str
    "Such as http://127.0.0.1:8000."
    token: str = ""
    "Empty if none is needed."

    @property
    def key(self) -> str:
        """What a program sends that demands a key."""
        return self.token or "none"


@dataclass(frozen=True, slots=True)
class Model:
    """The model that a program shall use."""

    name: str
    context_length: int | None = None


@dataclass(frozen=True, slots=True)
class Start:
    """How a program is started."""

    arguments: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    unset: tuple[str, ...] = ()
    "Variables that would lead it elsewhere."


@dataclass(frozen=True, slots=True)
class Program:
    """A program that can be started."""

    command: str
    install: str
    start: Callable[[Place, Model], Start]
    least_context: int
    "Tokens; with less it hardly gets beyond its own instructions."


def reachable(environ: Mapping[str, str], place: Place) -> dict[str, str]:
    """What keeps programs from asking a proxy for the node."""
    has_proxy = any(name.upper().endswith("_PROXY") for name in environ)
    host = urlsplit(place.url).hostname or ""
    if not has_proxy:
        return {}
    return {
        name: ",".join(filter(None, (environ.get(name), host))) for name in ("NO_PROXY", "no_proxy")
    }


def openai_variables(place: Place) -> dict[str, str]:
    """For OpenAI's SDKs; the last is for programs that know only its older name."""
    url = f"{place.url}/v1"
    return {"OPENAI_BASE_URL": url, "OPENAI_API_KEY": place.key, "OPENAI_API_BASE": url}


def anthropic_variables(place: Place) -> dict[str, str]:
    """For Anthropic's SDKs."""
    return {"ANTHROPIC_BASE_URL": place.url, "ANTHROPIC_API_KEY": place.key}


def ollama_variables(place: Place) -> dict[str, str]:
    """For Ollama's SDKs and command line."""
    key = {"OLLAMA_API_KEY": place.token} if place.token else {}
    return {"OLLAMA_HOST": place.url, **key}


VARIABLES: Final[dict[str, Callable[[Place], dict[str, str]]]] = {
    "openai": openai_variables,
    "ollama": ollama_variables,
    "anthropic": anthropic_variables,
}
"By API."


def _aider(place: Place, model: Model) -> Start:
    """It asks about models that its own list lacks, before it begins."""
    words = ("--no-show-model-warnings", "--model", f"openai/{model.name}")
    return Start(words, openai_variables(place))


def _claude(place: Place, model: Model) -> Start:
    """Every size of Claude is the same model. A key in ANTHROPIC_API_KEY would have to be confirmed
    by the user, and the line that differs with each release would spoil caches of the prompt."""
    sizes = ("OPUS", "SONNET", "HAIKU")
    environment = {
        "ANTHROPIC_BASE_URL": place.url,
        "ANTHROPIC_AUTH_TOKEN": place.key,
        "ANTHROPIC_MODEL": model.name,
        **{f"ANTHROPIC_DEFAULT_{size}_MODEL": model.name for size in sizes},
        "CLAUDE_CODE_SUBAGENT_MODEL": model.name,
        "CLAUDE_CODE_ATTRIBUTION_HEADER": "0",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    }
    if model.context_length is not None:
        environment["CLAUDE_CODE_MAX_CONTEXT_TOKENS"] = str(model.context_length)
    unset = ("ANTHROPIC_API_KEY", "CLAUDE_CODE_USE_BEDROCK", "CLAUDE_CODE_USE_VERTEX")
    return Start((), environment, unset)


def _codex(place: Place, model: Model) -> Start:
    provider = {"name": _PROVIDER, "base_url": f"{place.url}/v1", "wire_api": "responses"}
    if place.token:
        provider["env_key"] = "AITORRENT_TOKEN"
    settings = [("model_provider", json.dumps(_PROVIDER))]
    settings += [
        (f"model_providers.{_PROVIDER}.{name}", json.dumps(value))
        for name, value in provider.items()
    ]
    if model.context_length is not None:
        settings.append(("model_context_window", str(model.context_length)))
    options = [word for name, value in settings for word in ("-c", f"{name}={value}")]
    environment = {"AITORRENT_TOKEN": place.token} if place.token else {}
    return Start((*options, "-m", model.name), environment)


def _opencode(place: Place, model: Model) -> Start:
    shown: dict[str, object] = {"name": model.name}
    if model.context_length is not None:
        shown["limit"] = {"context": model.context_length, "output": model.context_length // 4}
    name = f"{_PROVIDER}/{model.name}"
    config = {
        "provider": {
            _PROVIDER: {
                "npm": "@ai-sdk/openai-compatible",
                "name": _PROVIDER,
                "options": {"baseURL": f"{place.url}/v1", "apiKey": place.key},
                "models": {model.name: shown},
            }
        },
        "model": name,
        "small_model": name,
    }
    return Start((), {"OPENCODE_CONFIG_CONTENT": json.dumps(config)})


def _qwen(place: Place, model: Model) -> Start:
    return Start((), {**openai_variables(place), "OPENAI_MODEL": model.name})


PROGRAMS: Final = {
    "aider": Program("aider", "pip install aider-chat", _aider, 8_192),
    "claude": Program("claude", "npm install -g @anthropic-ai/claude-code", _claude, 49_152),
    "codex": Program("codex", "npm install -g @openai/codex", _codex, 32_768),
    "opencode": Program("opencode", "npm install -g opencode-ai", _opencode, 32_768),
    "qwen": Program("qwen", "npm install -g @qwen-code/qwen-code", _qwen, 32_768),
}
"By the name of the command."
