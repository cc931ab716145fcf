"""`bugreport`: an archive for maintainers, without secrets."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from aitorrentd.cli import checking, toolkit
from aitorrentd.cli.toolkit import AitorrentError, clean
from aitorrentd.system.paths import expanded


def bugreport(
    out: Annotated[
        str, typer.Option("-o", "--output", help="Where to write the archive.", metavar="FILE")
    ] = "",
    config: Annotated[
        str,
        typer.Option(
            help="The daemon's configuration file, read to redact its secrets.", metavar="FILE"
        ),
    ] = "",
) -> None:
    """Write an archive for a bug report, without secrets; needs no daemon.

    Contains versions, the configuration, recent log records and the doctor's findings.
    """
    from aitorrentd.doctor.bugreport import ABOUT, gather, write

    name = time.strftime("aitorrent-bugreport-%Y%m%d-%H%M%S.tar.gz")
    path = expanded(Path(out or name))

    def doctor() -> Any:
        return {"checks": checking.checks("", config)}

    try:
        with toolkit.connect() as client:

            def ask(method: str, params: Mapping[str, Any]) -> Any:
                if method != "node.logs":
                    return client.call(method, params)
                with client.stream(method, params) as items:
                    return list(items)

            files = gather(ask, doctor, config_path=config or None)
    except AitorrentError as e:
        toolkit.warn(f"the daemon's own data is missing: {e.message}")
        files = gather(None, doctor, config_path=config or None)
    write(path, files)
    reply = {
        "file": str(path),
        "files": [
            {"name": n, "bytes": len(t.encode()), "about": ABOUT.get(n, "contents")}
            for n, t in files.items()
        ],
    }
    toolkit.emit(reply, _render)


def _render(reply: Mapping[str, Any]) -> str:
    columns: list[toolkit.Column] = [
        ("name", "FILE"),
        ("bytes", "SIZE", toolkit.bytes_text),
        ("about", "WHAT"),
    ]
    return "\n".join(
        [
            f"wrote {clean(reply['file'])}",
            toolkit.table(reply["files"], columns),
            "contains no keys, secrets or prompts; review it before you share it",
        ]
    )


def register(app: typer.Typer) -> None:
    """Add this module's command."""
    app.command(
        "bugreport", epilog=toolkit.examples("bugreport", "bugreport --output report.tar.gz")
    )(bugreport)
