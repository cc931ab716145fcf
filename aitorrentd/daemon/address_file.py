"""The address file: tells other programs on the machine where to dial this node.

One multiaddr per line, in `<runtime directory>/daemon.addr`. It exists while the daemon runs and
its transport listens. It is replaced atomically, so readers never see a partial file. Another
daemon accepts its path as a bootstrap address.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from aitorrentd.api.events import PluginChanged
from aitorrentd.api.network.addresses import SUFFIX
from aitorrentd.errors import AitorrentError
from aitorrentd.kernel.context.bus import EventBus
from aitorrentd.system.files import make_directory, replace_file
from aitorrentd.system.paths import is_system

NAME: Final = f"daemon{SUFFIX}"
REFRESH_S: Final = 10.0
"Interfaces, and files, come and go without notification."


class AddressFile:
    """Keeps one address file up to date."""

    def __init__(
        self, path: Path, addresses: Callable[[], Sequence[str]], log: logging.Logger
    ) -> None:
        """`addresses` returns the current listening addresses; none means no file."""
        self._path = path
        self._addresses = addresses
        self._log = log
        self._text: str | None = None
        "The file's contents; None before the first `refresh`."
        self._trouble = ""
        "Why it could not be written; empty on success."

    def refresh(self) -> None:
        """Bring the file up to date; a write failure is logged once."""
        text = "".join(f"{address}\n" for address in self._addresses())
        if text == self._text and (not text or self._path.exists()):
            return
        was_removed = text == self._text and not self._trouble
        try:
            self._put(text)
        except (OSError, AitorrentError) as e:
            reason = e.message if isinstance(e, AitorrentError) else str(e.strerror)
            if reason != self._trouble and (self._text is not None or text):
                self._log.warning("cannot write %s: %s", self._path, reason)
            self._trouble = reason
        else:
            self._trouble = ""
            if was_removed:
                self._log.warning("%s was removed; writing it again", self._path)
        self._text = text

    def remove(self) -> None:
        """Remove the file; does nothing if `refresh` was never called."""
        if self._text is not None:
            self._text = ""
            with contextlib.suppress(OSError):
                self._path.unlink()

    async def follow(self, bus: EventBus) -> None:
        """Refresh when a plugin changes state, and every 10 s, until cancelled."""
        while True:
            with bus.subscribe(PluginChanged) as changes:
                self.refresh()  # inside the subscription, so no change is lost between rounds
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(REFRESH_S):
                        await anext(changes)

    def _put(self, text: str) -> None:
        if not text:
            self._path.unlink(missing_ok=True)
            return
        # A cleaner of temporary files may remove the whole directory.
        make_directory(
            self._path.parent, setting="node.runtime_dir", mode=0o755 if is_system() else 0o700
        )
        # Any local user may know where the node listens.
        replace_file(self._path, text.encode("ascii"), mode=0o644, durable=False)
