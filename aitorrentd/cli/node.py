"""`status`, `id`, `version`, `wait`: the node as a whole."""

from __future__ import annotations

import select
import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aitorrentd.cli import tables, toolkit
from aitorrentd.cli.toolkit import duration_text, examples, styled
from aitorrentd.errors import AitorrentError
from aitorrentd.exit_codes import ExitCode

if TYPE_CHECKING:
    from aitorrentd.control.client import Client

_WATCH_S = 2.0
_RETRY_S = 0.2
_MAX_WAIT_S = 3600.0
_DRAIN_S = 300.0
_MAX_DRAIN_S = 86_400.0
_DRAIN_GRACE_S = 5.0
_SHOWN_WORKERS = 8
_SHOWN_MODELS = 5
_MODELS_S = 2.0
_SEVERITY_STYLE = {"error": "red", "warning": "yellow", "info": "dim"}


def status(
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Refresh every 2 s.")] = False,
) -> None:
    """Show the node's status, warnings first."""
    with toolkit.connect() as client:
        if toolkit.options.json:
            toolkit.emit(client.call("node.status"), render_status)
        else:
            toolkit.echo(_shown_status(client))
        while watch:
            # The socket becomes readable only when the daemon hangs up; the call then reports that.
            select.select([client], [], [], _WATCH_S)
            if toolkit.options.json:
                toolkit.echo(toolkit.json_text(client.call("node.status")))
            else:
                toolkit.redraw(_shown_status(client))


def _shown_status(client: Client) -> str:
    reply = client.call("node.status")
    try:
        models = client.call("inference.models", timeout=toolkit.timeout_s(_MODELS_S))
    except AitorrentError:  # the inference plugin does not run, or a backend is slow
        models = None
    return render_status(reply, models)


def _plugins_text(plugins: Mapping[str, Any]) -> str:
    known = {state: plugins.get(state, 0) for state in ("running", "skipped", "disabled")}
    counts = {
        "running": known["running"],
        "not running": plugins.get("total", 0) - sum(known.values()),
        "skipped": known["skipped"],
        "disabled": known["disabled"],
    }
    texts = [f"{n} {state}" for state, n in counts.items() if n or state == "running"]
    return ", ".join(texts)


def _model_lines(models: Mapping[str, Any]) -> list[str]:
    """`demo ready`: each model once, in its best state; those that can answer come first."""
    states = {row["name"]: "ready" for row in models["models"]}
    for row in models.get("pending", []):
        states.setdefault(row["name"], row["state"])
    lines = [toolkit.clean(f"{name} {state}") for name, state in states.items()]
    if len(lines) > _SHOWN_MODELS:
        more = len(lines) - _SHOWN_MODELS
        lines[_SHOWN_MODELS:] = [f"{more} more; see aitorrentctl models"]
    return lines or ["none"]


def render_status(reply: Mapping[str, Any], models: Mapping[str, Any] | None = None) -> str:
    """The answers of node.status and, if there is one, of inference.models for display."""
    plugins = reply.get("plugins", {})
    lines = [
        styled(f"aitorrentd {toolkit.clean(reply.get('version', ''))}", "bold")
        + f", {toolkit.clean(reply.get('state', ''))} for {duration_text(reply.get('uptime_s', 0))}"
    ]
    works = toolkit.clean(work_text(reply.get("under_way") or []))
    if reply.get("draining"):
        lines.append(
            styled("draining: ", "yellow") + f"no new work is accepted; {works} still running"
        )
    # an error is often the cause of the warnings beside it
    for warning in sorted(reply.get("warnings", []), key=lambda w: w["severity"] != "error"):
        label = f"{toolkit.clean(warning['severity'])}: "
        text = toolkit.clean(f"{warning['plugin']}: {warning['text']}")
        first, *more = tables.wrapped(label + text)
        style = _SEVERITY_STYLE.get(warning["severity"], "yellow")
        lines += [styled(label, style) + first.removeprefix(label), *more]
    pairs = [
        ("node", reply.get("id")),
        ("name", reply.get("name")),
        ("network", reply.get("network")),
        *([("models", _model_lines(models))] if models is not None else []),
        ("peers", reply.get("peers")),
        *([("reach", _reach_text(reply["reach"]))] if reply.get("reach") else []),
        ("plugins", _plugins_text(plugins)),
        # The id at the end of each is the line above; one before it is that of a relay.
        (
            "addresses",
            [a.rpartition("/p2p/")[0] or a for a in reply.get("addresses") or []] or None,
        ),
        *([("under way", works)] if reply.get("under_way") else []),
        ("memory", _memory(reply)),
        ("loop lag", toolkit.ms_text(reply.get("loop_lag_s", 0))),
        ("process", reply.get("pid")),
        ("socket", reply.get("control_socket")),
        ("config", reply.get("config_files") or "defaults only"),
    ]
    lines.append(toolkit.fields(pairs))
    return "\n".join(lines)


def _reach_text(reach: Mapping[str, Any]) -> str:
    return toolkit.clean(f"{reach['word']}: {reach['reason']}")


def _memory(reply: Mapping[str, Any]) -> list[str]:
    """The daemon's memory, each worker's, and the sum if there are workers."""
    own, workers = reply.get("rss_bytes", 0), reply.get("workers") or []
    if not workers:
        return [toolkit.bytes_text(own)]
    told = [worker["rss_bytes"] for worker in workers]
    rows = [{"name": "daemon", "rss_bytes": own}, *workers]
    lines = [
        f"{toolkit.clean(row['name'])} "
        + ("unknown" if row["rss_bytes"] is None else toolkit.bytes_text(row["rss_bytes"]))
        for row in rows[: _SHOWN_WORKERS + 1]
    ]
    if len(workers) > _SHOWN_WORKERS:
        lines.append(f"{len(workers) - _SHOWN_WORKERS} more workers")
    at_least = "at least " if None in told else ""
    return [f"{at_least}{toolkit.bytes_text(own + sum(n or 0 for n in told))} in total", *lines]


def work_text(works: Iterable[Mapping[str, Any]]) -> str:
    """`2 answers, 1 session`; `nothing` for no work."""
    parts = [f"{w['count']} {w['what']}{'s' * (w['count'] != 1)}" for w in works]
    return ", ".join(parts) or "nothing"


def show_id() -> None:
    """Show this node's id and listening addresses."""
    with toolkit.connect() as client:
        toolkit.emit(client.call("node.id"), _render_id)


def _render_id(reply: Mapping[str, Any]) -> str:
    return toolkit.fields(
        [
            ("id", reply.get("id")),
            ("name", reply.get("name")),
            ("public key", reply.get("public_key")),
            ("DHT id", reply.get("dht_id")),
            ("addresses", reply.get("addresses") or None),
        ]
    )


def version() -> None:
    """Show the versions of this program and the daemon."""
    from aitorrentd import __version__

    if not toolkit.options.json:
        toolkit.echo(f"aitorrentctl  {__version__}")
    with toolkit.connect() as client:
        toolkit.emit(client.call("node.version"), _render_version)


def _render_version(reply: Mapping[str, Any]) -> str:
    low, high = reply.get("proto", [0, 0])
    libraries = reply.get("libraries", {})
    pairs = [
        ("aitorrentd", reply.get("version")),
        ("protocol", f"{low} to {high}"),
        ("Python", reply.get("python")),
        *sorted(libraries.items()),
    ]
    return toolkit.fields(pairs)


def wait(
    plugin: Annotated[str, typer.Option(help="Wait for this plugin.", metavar="NAME")] = "",
    state: Annotated[str, typer.Option(help="The state to wait for.", metavar="STATE")] = "running",
    model: Annotated[
        str, typer.Option(help="Wait until this model can answer.", metavar="NAME")
    ] = "",
) -> None:
    """Wait until the daemon, one of its plugins or a model is ready.

    Also waits for a daemon that is not running yet. Exits with 75 when --timeout (default 30 s)
    passes.
    """
    deadline = time.monotonic() + toolkit.timeout_s()
    params = {"state": state, **({"plugin": plugin} if plugin else {})}
    while True:
        try:
            with toolkit.connect() as client:
                if model:
                    with toolkit.Progress() as bar:
                        reply = _wait_for_model(client, model, deadline, bar)
                    break
                left = min(max(0.05, deadline - time.monotonic()), _MAX_WAIT_S)
                reply = client.call("node.wait", {**params, "timeout_s": left}, timeout=left + 1)
            break
        except AitorrentError as e:
            if not _may_come(e):
                raise
            if time.monotonic() >= deadline:
                toolkit.fail(f"not ready in time: {e.message}", ExitCode.TRY_LATER)
        select.select([], [], [], _RETRY_S)
    toolkit.emit(reply, lambda r: f"{toolkit.clean(r['name'])} is {toolkit.clean(r['state'])}")


def _wait_for_model(
    client: Client, name: str, deadline: float, bar: toolkit.Progress
) -> dict[str, Any]:
    while True:
        reply = client.call("inference.models")
        rows = reply["models"]
        if any(row["name"] == name for row in rows):
            return {"name": name, "state": "ready"}
        pending = [row for row in reply.get("pending", []) if row["name"] == name]
        if time.monotonic() >= deadline:
            known = ", ".join(sorted({str(row["name"]) for row in rows}))
            others = f"; available models: {toolkit.clean(known)}" if known else ""
            why = "".join(f": {toolkit.clean(row['detail'])}" for row in pending[:1])
            toolkit.fail(f"no model {name!r} in time{why}{others}", ExitCode.TRY_LATER)
        for row in pending[:1]:
            text = f"model {name} is loading" if row["state"] == "loading" else row["detail"]
            done, total = row["done_bytes"], row["total_bytes"]
            bar({"text": text, "done": done or None, "total": total, "unit": "B"})
        select.select([], [], [], _RETRY_S)


def _may_come(error: AitorrentError) -> bool:
    """Whether retrying later may help: the daemon is starting or restarting."""
    from aitorrentd.control.client import LostDaemon, NoDaemon

    is_between = error.code == "shutting_down" or bool(error.data.get("starting"))
    return is_between or isinstance(error, (NoDaemon, LostDaemon))


def drain(
    undo: Annotated[bool, typer.Option("--undo", help="Take new work again.")] = False,
) -> None:
    """Stop taking new work and wait for running work to finish.

    Waits up to --timeout seconds (default 300); exits with 75 if work is still
    running then. The daemon keeps running and draining until --undo or a restart.
    """
    with toolkit.connect() as client:
        if undo:
            toolkit.emit(client.call("node.undrain"), lambda _: "taking new work again")
            return
        patience_s = min(toolkit.timeout_s(_DRAIN_S), _MAX_DRAIN_S)
        with toolkit.Progress() as bar:
            reply = client.call(
                "node.drain",
                {"timeout_s": patience_s},
                timeout=patience_s + _DRAIN_GRACE_S,
                progress=bar,
            )
    toolkit.emit(reply, _render_drained)
    if reply["under_way"] or not reply["draining"]:
        raise typer.Exit(ExitCode.TRY_LATER)


def _render_drained(reply: Mapping[str, Any]) -> str:
    works = toolkit.clean(work_text(reply["under_way"]))
    if not reply["draining"]:
        return f"the drain was cancelled; {works} still running"
    if reply["under_way"]:
        return (
            f"still draining: {works} running; see aitorrentctl status, or cancel with drain --undo"
        )
    return "drained: no work is running; stop the daemon now, or cancel with drain --undo"


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command("drain", epilog=examples("drain --timeout 60", "drain --undo"))(drain)
    app.command("status", epilog=examples("status", "status --watch"))(status)
    app.command("id", epilog=examples("id", "id --json"))(show_id)
    app.command("version", epilog=examples("version"))(version)
    app.command("wait", epilog=examples("wait --plugin shards", "wait --model demo --timeout 120"))(
        wait
    )
