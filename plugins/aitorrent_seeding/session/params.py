"""How a torrent is added to libtorrent's session: where its files are, what is known of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import libtorrent as lt

from aitorrent_seeding.torrents import metainfo
from aitorrentd.api import ProtocolError

_LIMITS: Final = {
    "max_buffer_size": metainfo.MAX_BYTES,
    "max_pieces": metainfo.MAX_PIECES,
    "max_decode_depth": 16,
    "max_decode_tokens": 2_000_000,
}
_FLAGS: Final = lt.torrent_flags
_PRIORITY: Final = 4
"libtorrent's default."


def of_metainfo(
    raw: bytes,
    save_path: Path,
    *,
    renamed: Mapping[int, Path] | None = None,
    resume: bytes = b"",
    have: Sequence[bool] | None = None,
    seeds: bool = False,
    verified: bool = False,
    paused: bool = False,
    wanted: Sequence[int] | None = None,
    sequential: bool = False,
    allocate: bool = False,
    dht: bool = False,
    trackers: Sequence[str] = (),
    web_seeds: Sequence[str] = (),
) -> Any:
    """Parameters of a torrent from its .torrent file, which `metainfo.read` has accepted.

    `renamed` says where files lie under other names. `have` are pieces that are known to be here,
    and `wanted` those to fetch at first (None = all).
    With `seeds`, everything is here and nothing is ever written; libtorrent checks each piece when
    a peer first asks for it, unless all are `verified`.

    Raises:
        ProtocolError: libtorrent does not take it.
    """
    try:
        params = lt.load_torrent_buffer(raw, _LIMITS)
        if resume:
            saved = lt.read_resume_data(resume, _LIMITS)
            saved.ti = params.ti
            params = saved
    except RuntimeError as e:
        raise ProtocolError(f"the torrent file cannot be read: {e}") from None
    params.save_path = str(save_path)
    if renamed:
        params.renamed_files = {index: str(path) for index, path in renamed.items()}
    if have is not None:
        params.have_pieces = list(have)
    if wanted is not None:
        pieces = set(wanted)
        params.piece_priorities = [
            _PRIORITY if piece in pieces else 0 for piece in range(params.ti.num_pieces())
        ]
    if verified:
        params.verified_pieces = [True] * params.ti.num_pieces()
    params.trackers, params.tracker_tiers = list(trackers), [0] * len(trackers)
    params.url_seeds = list(web_seeds)
    params.flags = _flags(seeds=seeds, paused=paused, sequential=sequential, dht=dht)
    if allocate:
        params.storage_mode = lt.storage_mode_t.storage_mode_allocate
    return params


def pieces_in(resume: bytes) -> list[bool]:
    """The pieces that a fastresume says are here; empty if it cannot be read."""
    try:
        return list(lt.read_resume_data(resume, _LIMITS).have_pieces) if resume else []
    except RuntimeError:
        return []


def of_magnet(
    info_hash: str, save_path: Path, *, trackers: Sequence[str] = (), dht: bool = False
) -> Any:
    """Parameters that only fetch a torrent's metainfo from peers: no file is written."""
    params = lt.parse_magnet_uri(f"magnet:?xt=urn:btih:{info_hash}")
    params.trackers, params.tracker_tiers = list(trackers), [0] * len(trackers)
    params.save_path = str(save_path)
    params.flags = _flags(seeds=False, paused=False, sequential=False, dht=dht)
    params.flags |= _FLAGS.upload_mode | _FLAGS.default_dont_download
    return params


def _flags(*, seeds: bool, paused: bool, sequential: bool, dht: bool) -> int:
    flags = int(_FLAGS.update_subscribe | _FLAGS.apply_ip_filter | _FLAGS.duplicate_is_error)
    flags |= int(_FLAGS.disable_lsd)
    if not dht:
        flags |= int(_FLAGS.disable_dht)
    if seeds:
        flags |= int(_FLAGS.seed_mode | _FLAGS.upload_mode)
    if paused:
        flags |= int(_FLAGS.paused)
    if sequential:
        flags |= int(_FLAGS.sequential_download)
    return flags
