"""`aitorrentctl model add`: from a name, a digest, or a folder of this machine."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from typing import Annotated, Any, Final

import typer

from aitorrentd.cli import toolkit

FETCH_S: Final = 7 * 24 * 3600.0
"Fetching may take as long as it takes."
_DIGEST: Final = re.compile(r"[0-9a-fA-F]{64}")
_NAMED: Final = re.compile(r"[a-z][a-z0-9+-]*:")
_REPO: Final = re.compile(r"[\w.-]+/[\w.-]+(@\S+)?")
_PATHS: Final = ("/", "./", "../", "~")
_STEP: Final = 0.01
"With --json, bytes are told each time that this share of them arrived."

Name = Annotated[str, typer.Argument(help="Name that clients use.", metavar="NAME")]


def add(
    name: Name,
    source: Annotated[
        str,
        typer.Argument(
            help="hf://ORG/NAME, hf://ORG/NAME@REVISION, a model's folder on this machine, or the"
            " digest of a model that peers hold.",
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

    Only the bytes of these layers are fetched, and the node seeds what it holds. A
    folder is used where it lies, and not seeded unless you share it. The node serves
    the model again after a restart. Interrupting the wait leaves the model added.
    """
    params = {"name": name, **where(source), "layers": layers, "dtype": dtype, "wait": wait}
    try:
        with toolkit.connect(FETCH_S) as client, Told() as told:
            reply = client.call("shards.add_model", params, timeout=FETCH_S, progress=told)
    except KeyboardInterrupt:
        sys.stderr.write(
            f"model {toolkit.clean(name)} stays added and the node goes on; see"
            f' "{toolkit.PROGRAM} model list"\n'
        )
        raise
    toolkit.emit(reply, _render_added)


def where(source: str) -> dict[str, str]:
    """`path` of what lies on this machine, else `source`, as the daemon wants them.

    Raises:
        CommandFailed: a name of the Hub without its scheme.
    """
    if source.startswith(_PATHS) or source in (".", ".."):
        return {"path": os.path.abspath(os.path.expanduser(source))}
    if _DIGEST.fullmatch(source) or _NAMED.match(source):
        return {"source": source}
    if os.path.exists(source):
        return {"path": os.path.abspath(source)}
    if _REPO.fullmatch(source):
        toolkit.fail(
            f"there is no folder {source} here; for the model of the Hugging Face Hub, write"
            f" hf://{source}"
        )
    return {"source": source}


def _render_added(reply: Mapping[str, Any]) -> str:
    name, state = toolkit.clean(reply["name"]), toolkit.clean(reply["state"])
    size = f", {toolkit.bytes_text(reply['bytes'])} of weights" if reply["bytes"] else ""
    if state == "ready":
        return f"model {name} is ready{size}"
    return f"model {name} is {state}; see aitorrentctl model list"


class Told:
    """What the daemon does meanwhile, on standard error.

    On a terminal a line that is drawn again; elsewhere a line for each new text; with --json an
    object `{"progress": {"text", "done", "total", "unit"}}` on a line of its own.
    """

    def __init__(self) -> None:
        self._bar = toolkit.Progress()
        self._last = ("", 0.0)

    def __enter__(self) -> Told:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.clear()

    def __call__(self, state: Mapping[str, Any]) -> None:
        """Show a state of the call."""
        if self._bar.is_shown:
            self._bar(state)
            return
        text, done, total = str(state.get("text", "")), state.get("done"), state.get("total")
        share = done / total if done is not None and total else 0.0
        is_news = text != self._last[0]
        if toolkit.options.json:
            is_news = is_news or share - self._last[1] >= _STEP
        if not is_news:
            return
        self._last = (text, share)
        told = {key: state.get(key) for key in ("text", "done", "total", "unit")}
        line = toolkit.json_text({"progress": told}) if toolkit.options.json else text
        sys.stderr.write(f"{line if toolkit.options.json else toolkit.clean(line)}\n")
        sys.stderr.flush()
