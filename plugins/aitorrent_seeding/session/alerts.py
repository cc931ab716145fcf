"""What happens to a torrent, as its session hears of it from libtorrent's alerts."""

from __future__ import annotations

from typing import Any, Final

import libtorrent as lt

from aitorrent_seeding.session import counting
from aitorrent_seeding.session.torrent import Torrent
from aitorrentd.api import Unavailable

MASK: Final = int(
    lt.alert_category.error
    | lt.alert_category.status
    | lt.alert_category.storage
    | lt.alert_category.piece_progress
    | lt.alert_category.tracker
    | counting.MASK
)


def hear(torrent: Torrent, alert: Any) -> None:
    """Tell `torrent` what `alert` says."""
    kind = type(alert).__name__
    if handler := _HANDLERS.get(kind):
        handler(torrent, alert)


def _checked(torrent: Torrent, alert: Any) -> None:
    torrent.handle.post_status(lt.status_flags_t.query_pieces)


def _piece(torrent: Torrent, alert: Any) -> None:
    torrent.has_piece(alert.piece_index)


def _bad_piece(torrent: Torrent, alert: Any) -> None:
    torrent.failed_piece(alert.piece_index)


def _read(torrent: Torrent, alert: Any) -> None:
    error = alert.error.message() if alert.error.value() else ""
    torrent.was_read(alert.piece, b"" if error else bytes(alert.buffer), error)


def _flushed(torrent: Torrent, alert: Any) -> None:
    torrent.flushed.settle(None)


def _saved(torrent: Torrent, alert: Any) -> None:
    torrent.saved.settle(bytes(lt.write_resume_data_buf(alert.params)))


def _not_saved(torrent: Torrent, alert: Any) -> None:
    torrent.saved.fail(Unavailable(f"the state was not saved: {alert.error.message()}"))


def _metadata(torrent: Torrent, alert: Any) -> None:
    torrent.metadata.settle(bytes(torrent.handle.torrent_file().info_section()))


def _file_error(torrent: Torrent, alert: Any) -> None:
    torrent.stopped_by(alert.error.value(), alert.error.message(), alert.filename())


def _error(torrent: Torrent, alert: Any) -> None:
    torrent.stopped_by(alert.error.value(), alert.error.message(), "")


def _tracker_error(torrent: Torrent, alert: Any) -> None:
    torrent.tracker_problem = str(alert.error_message() or alert.error.message())[:200]


def _tracker_reply(torrent: Torrent, alert: Any) -> None:
    torrent.tracker_problem = ""


def _resume_rejected(torrent: Torrent, alert: Any) -> None:
    torrent.resume_was_rejected = True


_HANDLERS: Final = {
    "torrent_checked_alert": _checked,
    "piece_finished_alert": _piece,
    "hash_failed_alert": _bad_piece,
    "read_piece_alert": _read,
    "cache_flushed_alert": _flushed,
    "save_resume_data_alert": _saved,
    "save_resume_data_failed_alert": _not_saved,
    "metadata_received_alert": _metadata,
    "file_error_alert": _file_error,
    "torrent_error_alert": _error,
    "tracker_error_alert": _tracker_error,
    "tracker_reply_alert": _tracker_reply,
    "fastresume_rejected_alert": _resume_rejected,
}
