"""`aitorrentctl model`: models that this node computes layers of, on the command line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final

import typer

from aitorrentd.cli import toolkit

HELP: Final = "Add, list, unload and remove models that this node computes layers of."
FETCH_S: Final = 7 * 24 * 3600.0
"Fetching may take as long as it takes."

Name = Annotated[str, typer.Argument(help="Name that clients use.", metavar="NAME")]


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
            "model add qwen hf://Qwen/Qwen3-0.6B",
            "model add llama hf://meta-llama/Llama-3.1-8B --layers 0-16",
        )
    )(add)
    group.command("list", epilog=toolkit.examples("model list", "model list --json"))(list_)
    group.command(epilog=toolkit.examples("model remove llama"))(remove)
    group.command(epilog=toolkit.examples("model unload llama"))(unload)
    group.command(epilog=toolkit.examples("model load llama"))(load)
    app.add_typer(group, name="model")


def add(
    name: Name,
    source: Annotated[
        str,
        typer.Argument(
            help="hf://ORG/NAME, hf://ORG/NAME@REVISION, or the digest of a model that peers hold.",
            metavar="SOURCE",
        ),
    ],
    layers: Annotated[
        str,
        typer.Option(
            help='"all", "none" (only ask others), or a range such as 0-16 for layers 0 to 15.'
        ),
    ] = "all",
    dtype: Annotated[
        str, typer.Option(help="auto (as in the files), float32, bfloat16 or float16.")
    ] = "auto",
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="Wait until the layers are loaded.")
    ] = True,
) -> None:
    """Fetch the weights of some layers, from peers and the web, and serve these layers.

    Only the bytes of these layers are fetched. The node seeds what it holds, and
    serves the model again after a restart. Interrupting the wait leaves the model
    added.
    """
    params = {"name": name, "source": source, "layers": layers, "dtype": dtype, "wait": wait}
    with toolkit.connect(FETCH_S) as client, toolkit.Progress() as bar:
        reply = client.call("shards.add_model", params, timeout=FETCH_S, progress=bar)
    toolkit.emit(reply, _render_added)


def _render_added(reply: Mapping[str, Any]) -> str:
    name, state = toolkit.clean(reply["name"]), toolkit.clean(reply["state"])
    size = f", {toolkit.bytes_text(reply['bytes'])} of weights" if reply["bytes"] else ""
    if state == "ready":
        return f"model {name} is ready{size}"
    return f"model {name} is {state}; see aitorrentctl model list"


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
    """Load a model into memory that was unloaded."""
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
