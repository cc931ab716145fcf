"""Parameters and results of the control methods of seeding."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from aitorrentd.api import Rate

MAX_TORRENT_BYTES = 8 * 2**20
"A .torrent file on the control socket; larger ones are fetched from peers by their info-hash."
Which = Annotated[
    str,
    Field(
        min_length=1,
        max_length=1024,
        description="SHA-256, info-hash or name of a torrent here, or the first digits of a hash",
    ),
]


class _Shape(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ShareParams(_Shape):
    """What to share."""

    path: str = Field(
        min_length=1, max_length=4096, description="absolute path of a file or a folder"
    )
    sha256: str = Field(
        "", max_length=64, description="digest that the file must have; empty = any"
    )
    repo_id: str = Field("", max_length=256, description="model it belongs to, such as org/name")
    revision: str = Field("", max_length=256, description="revision of that model")
    hybrid: bool = Field(False, description="also make it a torrent of version 2 (BEP 52)")
    trackers: list[str] = Field(
        default_factory=list, max_length=32, description="URLs of trackers to announce to"
    )


class SharedFile(_Shape):
    """A file that is shared."""

    path: str = Field(description="where it lies")
    sha256: str = Field(description="its digest")
    info_hash: str = Field(description="info-hash of its canonical torrent")
    size: int = Field(description="bytes")
    magnet: str = Field(description="magnet link")


class ShareResult(_Shape):
    """What is shared now."""

    files: list[SharedFile] = Field(description="the file, or the files of the folder")
    skipped: list[str] = Field(description="empty files, which make no torrent")


class DownloadParams(_Shape):
    """What to fetch: one of `what` and `torrent`."""

    what: str = Field(
        "",
        max_length=8192,
        description="magnet link, info-hash, SHA-256, or a name such as hf://org/model",
    )
    torrent: bytes = Field(
        b"", max_length=MAX_TORRENT_BYTES, description="content of a .torrent file"
    )
    urls: list[str] = Field(
        default_factory=list,
        max_length=16,
        description="web addresses of the file, for a SHA-256",
    )


class DownloadProgress(_Shape):
    """How far a download is; bytes."""

    file: str = Field(description="the file that is fetched now")
    done: int = Field(description="bytes of it that are here")
    total: int = Field(description="its size; 0 = unknown")
    bytes_per_s: float = Field(description="rate of the last second")
    peers: int = Field(description="peers that are connected")
    from_peers: int = Field(description="bytes that came from peers")
    from_web: int = Field(description="bytes that came from the web")
    path: str = Field(description="where it lies, once it is verified; empty before")
    name: str = Field(description="its path in the model or torrent")


class WhichParams(_Shape):
    """A torrent of this node."""

    which: Which


class RemoveParams(_Shape):
    """A torrent of this node, and what to do with its files."""

    which: Which
    files: bool = Field(
        False, description="also delete what was fetched; files that you shared always stay"
    )


class LimitParams(_Shape):
    """Limits; what is left out stays as it is."""

    which: Which
    upload_bps: Rate | None = Field(
        None, ge=0, description="bytes per second, also as text such as 2MiB/s; 0 = unlimited"
    )
    download_bps: Rate | None = Field(None, ge=0, description="the same for what is received")
    ratio: float | None = Field(
        None, ge=0, description="stop seeding after this many times the size; 0 = never"
    )
    seed_time_s: float | None = Field(
        None, ge=0, description="stop seeding after this many seconds; 0 = never"
    )


class TorrentLimits(_Shape):
    """The limits of one torrent."""

    upload_bps: int = Field(description="bytes per second; 0 = none but that of all torrents")
    download_bps: int = Field(description="the same for what is received")
    ratio: float | None = Field(
        description="seeding stops after this many times the size; 0 = never, null = as configured"
    )
    seed_time_s: float | None = Field(
        description="seeding stops after this many seconds; 0 = never, null = as configured"
    )


class TorrentRow(_Shape):
    """A torrent of this node."""

    name: str = Field(description="what people call it")
    sha256: str = Field(description="digest of its file; empty for torrents that others made")
    info_hash: str = Field(description="its info-hash")
    path: str = Field(description="where the file, or the folder, lies")
    state: str = Field(
        description="downloading, verifying, seeding, checking, paused, stopped or missing"
    )
    problem: str = Field(
        description="why it stopped or is missing, such as a limit; empty if all is well"
    )
    size: int = Field(description="bytes")
    done: int = Field(description="bytes that are here")
    partial: bool = Field(description="whether only some ranges are wanted")
    peers: int = Field(description="peers that are connected")
    download_bps: int = Field(description="bytes per second from peers")
    upload_bps: int = Field(description="bytes per second to peers")
    downloaded: int = Field(description="bytes from peers, over all runs")
    uploaded: int = Field(description="bytes to peers, over all runs")
    tracker_problem: str = Field(description="what its tracker said last; empty if all is well")
    limits: TorrentLimits = Field(description="its own limits")


class TorrentFile(_Shape):
    """A .torrent file."""

    name: str = Field(description="what people call the torrent")
    info_hash: str = Field(description="its info-hash")
    content: str = Field(description="the file, in base64")


class TorrentsResult(_Shape):
    """All torrents of this node."""

    torrents: list[TorrentRow] = Field(description="in the order in which they were added")
    port: int = Field(description="TCP port for BitTorrent peers; 0 = none is bound now")
    directory: str = Field(description="where fetched files are kept")
