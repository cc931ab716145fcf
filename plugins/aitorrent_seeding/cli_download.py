"""`download`: a progress line while files arrive, and where they are."""

from __future__ import annotations

import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from aitorrent_seeding.cli_placing import place
from aitorrentd.cli import toolkit

_WIDTH: Final = 20
_MAX_TORRENT: Final = 8 * 2**20
_SEARCH: Final = "looking for peers that have it"
_PATIENCE_S: Final = 2.0


def download(
    what: Annotated[
        str, typer.Argument(help="Link, digest, name, or path of a .torrent file.", metavar="WHAT")
    ],
    to: Annotated[
        str, typer.Option("--to", metavar="FOLDER", help="Place the files in this folder, too.")
    ] = "",
    url: Annotated[
        list[str] | None,
        typer.Option("--url", metavar="URL", help="Web address of the file, for a SHA-256."),
    ] = None,
) -> None:
    """Fetch and verify."""
    params: dict[str, Any] = {"what": what, "urls": url or []}
    if what.endswith(".torrent") and "://" not in what:
        params = {"torrent": _read(what)}
    done: list[tuple[str, str]] = []
    with (
        toolkit.connect() as client,
        client.stream("seeding.download", params) as stream,
        Line() as line,
    ):
        for item in stream:
            line.show(item)
            if toolkit.options.json:
                toolkit.echo(toolkit.json_text(item))
            if item["path"]:
                done.append((item["name"], item["path"]))
    if not toolkit.options.json and not to:
        for _, path in done:
            toolkit.echo(toolkit.clean(path))
    for name, path in done if to else ():
        placed = place(Path(path), Path(to), name)
        if not toolkit.options.json:
            toolkit.echo(toolkit.clean(placed))


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            content = file.read(_MAX_TORRENT + 1)
    except OSError as e:
        toolkit.fail(f"cannot read {path}: {e.strerror}")
    if len(content) > _MAX_TORRENT:
        toolkit.fail(f"{path} has over {_MAX_TORRENT} bytes; pass its info-hash instead")
    return content


class Line:
    """The line of progress on standard error. Elsewhere than on a terminal, only a search that
    takes long is told of."""

    def __init__(self) -> None:
        self._progress: Any = None
        self._task: Any = None
        self._search = threading.Timer(_PATIENCE_S, _tell_of_search)
        self._search.daemon = True

    def __enter__(self) -> Line:
        if sys.stderr.isatty() and not toolkit.options.json:
            from rich.console import Console
            from rich.progress import Progress, TextColumn

            self._progress = Progress(
                TextColumn("{task.description}", markup=False),
                console=Console(stderr=True, no_color=not toolkit.options.color),
                transient=True,
            )
            self._task = self._progress.add_task(_SEARCH)
            self._progress.start()
        else:
            self._search.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._search.cancel()
        if self._progress:
            self._progress.stop()

    def show(self, item: Mapping[str, Any]) -> None:
        """Draw the state of a download."""
        self._search.cancel()
        if self._progress:
            self._progress.update(self._task, description=progress_text(item))


def _tell_of_search() -> None:
    sys.stderr.write(f"{_SEARCH}\n")
    sys.stderr.flush()


def progress_text(item: Mapping[str, Any]) -> str:
    """`[=====>......] 45% (2.5 MiB/s) | Peers: 5`."""
    share = min(1.0, item["done"] / item["total"]) if item["total"] else 0.0
    filled = round(share * _WIDTH)
    bar = ("=" * filled + ">")[:_WIDTH].ljust(_WIDTH, ".")
    rate = toolkit.bytes_text(item["bytes_per_s"])
    return f"[{bar}] {share:.0%} ({rate}/s) | Peers: {item['peers']}"
