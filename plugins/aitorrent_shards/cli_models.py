"""`aitorrentctl model`: models that this node computes layers of, on the command line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final

import typer

from aitorrent_shards.cli_adding import FETCH_S, Name, add
from aitorrentd.cli import toolkit

HELP: Final = "Add, list, unload and remove models that this node computes layers of."


def register(app: typer.Typer) -> None:
    """Add the group `model` to `aitorrentctl`."""
    group = typer.Typer(
        no_args_is_help=True,
        help=HELP,
        epilog=toolkit.examples(
            "model add llama hf://meta-llama/Llama-3.1-8B --layers 0-16", "model list"
        ),
    )
    group.command(
        epilog=toolkit.examples(
            "model add llama hf://meta-llama/Llama-3.1-8B --layers 0-16",
            "model add llama ./Llama-3-70B --layers 0-16",
        )
    )(add)
    group.command("list", epilog=toolkit.examples("model list", "model list --json"))(list_)
    group.command(epilog=toolkit.examples("model remove llama"))(remove)
    group.command(epilog=toolkit.examples("model unload llama"))(unload)
    group.command(epilog=toolkit.examples("model load llama"))(load)
    app.add_typer(group, name="model")


def list_() -> None:
    """List the models of this node, and the layers it computes."""
    with toolkit.connect() as client:
        reply = client.call("shards.models")
    toolkit.emit(reply, _render_models)


def _render_models(reply: Mapping[str, Any]) -> str:
    if not reply["models"]:
        return "No models; add one: aitorrentctl model add NAME hf://ORG/NAME"
    rows = [
        {
            **row,
            "from": row["source"] or row["path"],
            "state": row["state"]
            + (f" {row['progress']:.0%}" if row["progress"] is not None else ""),
            "digest": row["digest"][:12],
            "problem": row["problem"] or "-",
        }
        for row in reply["models"]
    ]
    columns: list[toolkit.Column] = [
        ("name", "MODEL"),
        ("layers", "LAYERS"),
        ("state", "STATE"),
        ("weight_bytes", "LOADED", toolkit.bytes_text),
        ("digest", "DIGEST"),
        ("from", "FROM"),
        ("problem", "PROBLEM"),
    ]
    return toolkit.table(rows, columns, drop=("digest", "weight_bytes", "from"))


def remove(name: Name) -> None:
    """Stop serving a model that was added, and forget it.

    Its weights stay on disk and are seeded further; "seed stop" ends that.
    """
    with toolkit.connect() as client:
        reply = client.call("shards.remove_model", {"name": name})
    toolkit.emit(reply, lambda r: f"model {toolkit.clean(r['name'])} is removed")


Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until it is done.")]


def unload(name: Name, wait: Wait = True) -> None:
    """Free the memory that a model takes on this node.

    Answers that use it end first. The node loads the model again when a request of
    this machine needs it, and after a restart; peers are not offered it meanwhile.
    """
    _move("shards.unload_model", name, wait=wait)


def load(name: Name, wait: Wait = True) -> None:
    """Load a model into memory that was unloaded.

    Waits for a model whose files are still being fetched or read after a start.
    """
    _move("shards.load_model", name, wait=wait)


def _move(method: str, name: str, *, wait: bool) -> None:
    with toolkit.connect(FETCH_S) as client, toolkit.Progress() as bar:
        params = {"name": name, "wait": wait}
        reply = client.call(method, params, timeout=FETCH_S, progress=bar)
    toolkit.emit(reply, _render_moved)


def _render_moved(reply: Mapping[str, Any]) -> str:
    name, state = toolkit.clean(reply["name"]), toolkit.clean(reply["state"])
    if reply["users"] and state != "unloaded":
        return f"model {name} is {state}; {reply['users']} users"
    return f"model {name} is {state}"
