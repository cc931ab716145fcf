from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from aitorrent_transport import cli
from aitorrent_transport.methods import (
    BroadcastParams,
    BroadcastResult,
    ConnectParams,
    ConnectResult,
    DisconnectResult,
    KnownResult,
    KnownRow,
    PeerParams,
    PeerRow,
    PeersResult,
    PingParams,
    PingResult,
)
from aitorrent_transport.methods_bans import (
    BanParams,
    BanRow,
    BansResult,
    OffenceRow,
    SubjectParams,
    TrustParams,
    TrustResult,
    UnbanResult,
)
from aitorrent_transport.methods_why import AttemptRow, WhyParams, WhyResult
from aitorrentd.api import Method, Unavailable
from aitorrentd.cli import toolkit
from aitorrentd.cli.toolkit import CommandFailed, Options
from tests.support.control_server import ServerThread

ID = "12D3KooWEm7uV2BNFTjUJ7XxLm5kDq3vPZfBxjNBRYsGyJWnN3Zc"
ROW = PeerRow(
    id=ID,
    address="/ip4/192.0.2.1/tcp/8468",
    outbound=True,
    connected_s=61.0,
    rtt_s=0.0042,
    streams=2,
    bytes_in=2048,
    bytes_out=1,
    agent="evil\x1b[31m/1",
)


BAN = BanRow(subject=ID, left_s=5400.0, reason="spam\x1b[31m", times=2, by_operator=False)


def ban(call: Any, params: BanParams) -> BanRow:
    return BAN.model_copy(update={"subject": params.subject, "left_s": params.seconds})


def trust(call: Any, params: TrustParams) -> TrustResult:
    offences = [OffenceRow(at=0.0, offence="flood", detail="more than\x1b 200 streams")]
    is_bad = params.peer == "bad0"
    return TrustResult(
        id=ID,
        score=99.5 if is_bad else 0.0,
        ban_at=100.0,
        ban=BAN if is_bad else None,
        offences=offences if is_bad else [],
    )


def why(call: Any, params: WhyParams) -> WhyResult:
    dialled = AttemptRow(
        at=0.0,
        way="direct",
        where=ROW.address,
        ok=False,
        outcome="refused\x1b[31m",
        took_s=0.25,
        in_use=False,
    )
    relay = AttemptRow(
        at=1.0, way="relay", where="", ok=True, outcome="connected", took_s=0.1, in_use=True
    )
    return WhyResult(
        id=ID,
        summary="connected by relay\x1b[31m; 1 attempt failed",
        route="relay",
        address="/ip4/192.0.2.9/tcp/7",
        relayed=True,
        attempts=[] if params.peer == "new0" else [dialled, relay],
    )


def connect(call: Any, params: ConnectParams) -> ConnectResult:
    if params.address.startswith("192"):
        raise Unavailable(f"{params.address} cannot be reached: connection refused")
    is_new = params.address == "new.example.org:1"
    return ConnectResult(peer=ROW.model_copy(update={"connected_s": 0.0}) if is_new else ROW)


def ping(call: Any, params: PingParams) -> PingResult:
    answers: list[float | None] = [1.5, None, 0.5, 3.0]
    times = [None] * params.count if params.peer == "dead" else answers[: params.count]
    return PingResult(id=ID, address=ROW.address, rtt_ms=times)


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[None]:
    known = KnownRow(
        id=ID, address=ROW.address, last_seen=1.0, fails=2, wanted=True, connected=False
    )
    methods = [
        Method("transport.peers", lambda c, p: PeersResult(peers=[ROW]), "", result=PeersResult),
        Method("transport.known", lambda c, p: KnownResult(known=[known]), "", result=KnownResult),
        Method("transport.connect", connect, "", ConnectParams, ConnectResult),
        Method(
            "transport.disconnect",
            lambda c, p: DisconnectResult(id=ID),
            "",
            PeerParams,
            DisconnectResult,
        ),
        Method("transport.ping", ping, "", PingParams, PingResult),
        Method("transport.ban", ban, "", BanParams, BanRow),
        Method(
            "transport.unban", lambda c, p: UnbanResult(subject=ID), "", SubjectParams, UnbanResult
        ),
        Method("transport.bans", lambda c, p: BansResult(bans=[BAN]), "", result=BansResult),
        Method("transport.trust", trust, "", TrustParams, TrustResult),
        Method("transport.why", why, "", WhyParams, WhyResult),
        Method(
            "transport.broadcast",
            lambda c, p: BroadcastResult(sent=1),
            "",
            BroadcastParams,
            BroadcastResult,
        ),
    ]
    toolkit.set_options(Options(socket=str(tmp_path / "s")))
    with ServerThread(tmp_path / "s", *methods):
        yield
    toolkit.start_over()


def run(*arguments: str) -> None:
    app = typer.Typer()
    cli.register(app)
    app(list(arguments), standalone_mode=False)


@pytest.mark.usefixtures("daemon")
def test_peers_are_a_table_without_what_a_terminal_would_obey(
    capsys: pytest.CaptureFixture[str],
) -> None:
    run("peers")
    out = capsys.readouterr().out
    for part in (
        "PEER",
        "…" + ID[-8:],
        ROW.address,
        "4.20 ms",
        "1 min 1 s",
        "2.0 KiB",
        "out",
        "direct",
    ):
        assert part in out
    assert "\x1b[31m" not in out
    run("peers", "--known")
    assert "KEPT" in capsys.readouterr().out


def test_a_node_that_dialled_nobody_says_where_connected_peers_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nobody = Method("transport.known", lambda c, p: KnownResult(known=[]), "", result=KnownResult)
    toolkit.set_options(Options(socket=str(tmp_path / "s")))
    with ServerThread(tmp_path / "s", nobody):
        run("peers", "--known")
    toolkit.start_over()
    assert "dialled no peer yet. For connected peers: aitorrentctl peers" in capsys.readouterr().out


@pytest.mark.usefixtures("daemon")
def test_json_is_the_reply_unchanged(capsys: pytest.CaptureFixture[str]) -> None:
    toolkit.set_options(Options(socket=toolkit.options.socket, json=True))
    run("peers")
    assert PeersResult.model_validate_json(capsys.readouterr().out) == PeersResult(peers=[ROW])


@pytest.mark.usefixtures("daemon")
def test_connect_disconnect_and_broadcast_say_what_happened(
    capsys: pytest.CaptureFixture[str],
) -> None:
    run("connect", "new.example.org:1")
    run("connect", "example.org:1")
    run("disconnect", ID)
    run("broadcast", "hello")
    assert capsys.readouterr().out.splitlines() == [
        f"connected to {ID} at {ROW.address}",
        f"already connected to {ID} at {ROW.address}",
        f"disconnected from {ID}",
        "sent to 1 peer",
    ]
    with pytest.raises(Unavailable, match="connection refused"):
        run("connect", "192.0.2.9:1")


@pytest.mark.usefixtures("daemon")
def test_ping_lists_answers_and_fails_when_there_is_none(
    capsys: pytest.CaptureFixture[str],
) -> None:
    run("ping", "-c", "4", ID)
    out = capsys.readouterr().out
    assert "no answer" in out
    assert "3 of 4 answered; min 0.50, median 1.50, max 3.00 ms" in out
    with pytest.raises(CommandFailed, match="does not answer"):
        run("ping", "-c", "2", "dead")


@pytest.mark.usefixtures("daemon")
def test_bans_are_set_shown_and_lifted(capsys: pytest.CaptureFixture[str]) -> None:
    run("peers", "ban", "203.0.113.0/24", "--for", "12h")
    run("peers", "unban", "203.0.113.0/24")
    assert capsys.readouterr().out.splitlines() == [
        "banned 203.0.113.0/24 for 12 h 0 min",
        f"{ID} is no longer banned",
    ]
    run("peers", "--banned")
    out = capsys.readouterr().out
    for part in ("SUBJECT", "…" + ID[-8:], "1 h 30 min", "node", "spam"):
        assert part in out
    assert "\x1b" not in out
    with pytest.raises(CommandFailed, match="mutually exclusive"):
        run("peers", "--banned", "--known")


@pytest.mark.usefixtures("daemon")
@pytest.mark.parametrize("text", ["", "soon", "10", "0h", "-1d", "5 years", "1e9d"])
def test_what_is_no_duration_is_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    if text == "10":
        run("peers", "ban", ID, "--for", text)
        assert "for 10.0 s" in capsys.readouterr().out
        return
    with pytest.raises(CommandFailed, match="is not a duration; write 90s, 10m, 12h or 7d"):
        run("peers", "ban", ID, "--for", text)


@pytest.mark.usefixtures("daemon")
def test_trust_shows_offences_without_what_a_terminal_would_obey(
    capsys: pytest.CaptureFixture[str],
) -> None:
    run("trust", "bad0")
    out = capsys.readouterr().out
    for part in ("99.5 (banned at 100)", "1 h 30 min: spam", "OFFENCE", "flood", "200 streams"):
        assert part in out
    assert "\x1b" not in out
    run("trust", ID)
    assert "No offences since the daemon started" in capsys.readouterr().out


@pytest.mark.usefixtures("daemon")
def test_why_is_one_line_and_a_table_of_attempts(capsys: pytest.CaptureFixture[str]) -> None:
    run("peers", "why", ID)
    first, blank, head, dialled, relayed = capsys.readouterr().out.splitlines()
    assert first == f"…{ID[-8:]}: connected by relay\N{REPLACEMENT CHARACTER}[31m; 1 attempt failed"
    assert not blank
    assert head.split() == ["TIME", "WAY", "ADDRESS", "TOOK", "RESULT"]
    assert ROW.address in dialled and "250 ms" in dialled and "refused" in dialled
    assert relayed.endswith("connected, in use") and " - " in relayed
    assert "\x1b" not in dialled
    run("peers", "why", "new0")
    assert len(capsys.readouterr().out.splitlines()) == 1
    toolkit.set_options(Options(socket=toolkit.options.socket, json=True))
    run("peers", "why", ID)
    reply = WhyResult.model_validate_json(capsys.readouterr().out)
    assert reply == why(None, WhyParams(peer=ID))


def test_every_command_is_registered_with_its_line() -> None:
    app = typer.Typer()
    cli.register(app)
    groups = [group.name for group in app.registered_groups]
    assert [*groups, *(c.name for c in app.registered_commands)] == list(cli.COMMANDS)
