"""Prompts: what people ask a model to do with this node, worked out. No I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from aitorrent_gateway.mcp.messages import INVALID_PARAMS, RpcError
from aitorrent_gateway.mcp.strangers import plain

_MOST_CHARS: Final = 1000


@dataclass(frozen=True, slots=True)
class Prompt:
    """A text with one gap."""

    description: str
    argument: str
    about: str
    "What the argument is."
    required: bool
    text: str
    "`{}` is where the argument stands."
    otherwise: str = ""
    "Stands there if it is not given."


PROMPTS: Final[Mapping[str, Prompt]] = {
    "diagnose_node": Prompt(
        "Find out what is wrong with this node.",
        "symptom",
        "what the user noticed",
        False,
        "Find out what is wrong with this aitorrentd node. {}\nRead node_status first: its warnings"
        " and the states of plugins. Then, as far as these tools exist here, node_doctor,"
        " node_logs with level=warning, and nat_status if peers cannot connect. Name the most"
        " likely cause, the evidence for it, and one step for the user to take. Change nothing"
        " without being asked.",
        "The user named no symptom.",
    ),
    "plan_split": Prompt(
        "Plan how nodes could hold a model together.",
        "model",
        "the model",
        True,
        "Plan how this node and its peers could hold the model {} together. search_models shows"
        " whether it can answer already, and which layers are missing; shards_spans who holds"
        " which layers; shards_models what this node has loaded; transport_peers the round-trip"
        " times. Propose which node should add which layers, and say what you do not know.",
    ),
    "explain_slow_answer": Prompt(
        "Explain why answers are slow.",
        "model",
        "the model that is slow",
        False,
        "Explain why answers of {} are slow on this node. Compare shards_sessions, the round-trip"
        " times in transport_peers, the load in node_status, and monitor_metrics with"
        " prefix=aitorrent_inference. Distinguish waiting for a queue, computing, and the network."
        " Give figures with their units.",
        "the models in use",
    ),
}


def listed() -> list[dict[str, Any]]:
    """As `prompts/list` shows them."""
    return [
        {
            "name": name,
            "description": prompt.description,
            "arguments": [
                {
                    "name": prompt.argument,
                    "description": prompt.about,
                    "required": prompt.required,
                }
            ],
        }
        for name, prompt in PROMPTS.items()
    ]


def filled(name: object, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The result of `prompts/get`.

    Raises:
        RpcError: no such prompt, or its argument is missing.
    """
    prompt = PROMPTS[name] if isinstance(name, str) and name in PROMPTS else None
    if prompt is None:
        raise RpcError(INVALID_PARAMS, f"no such prompt; there are {', '.join(PROMPTS)}")
    given = arguments.get(prompt.argument)
    if given is not None and not isinstance(given, str):
        raise RpcError(INVALID_PARAMS, f"{prompt.argument} must be a string")
    if not given and prompt.required:
        raise RpcError(INVALID_PARAMS, f"the argument {prompt.argument} is missing")
    text = prompt.text.format(plain(given, _MOST_CHARS) if given else prompt.otherwise)
    return {
        "description": prompt.description,
        "messages": [{"role": "user", "content": {"type": "text", "text": text}}],
    }
