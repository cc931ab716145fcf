"""The address file: where this node can be dialled, for other programs on the machine.

One multiaddr a line, in `<runtime directory>/daemon.addr`. It is there while the daemon runs and
its transport listens; readers find it whole, as it is replaced and never written over. Another
daemon takes its path as a bootstrap address.
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
"Interfaces come and go without telling anybody, and so do files."


class AddressFile:
    """Keeps one file true."""

    def __init__(
        self, path: Path, addresses: Callable[[], Sequence[str]], log: logging.Logger
    ) -> None:
        """`addresses` says where the node listens now; none means that there is no file."""
        self._path = path
        self._addresses = addresses
        self._log = log
        self._text: str | None = None
        "What the file says; None before the first `refresh`."
        self._trouble = ""
        "Why it could not be written; empty when it could."

    def refresh(self) -> None:
        """Make the file say what is true now; a disk that takes nothing is logged once."""
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
                self._log.warning("%s was removed; it is written again", self._path)
        self._text = text

    def remove(self) -> None:
        """Take the file away; nothing happens when `refresh` was never called."""
        if self._text is not None:
            self._text = ""
            with contextlib.suppress(OSError):
                self._path.unlink()

    async def follow(self, bus: EventBus) -> None:
        """Refresh when a plugin changed, and every 10 s; ends when cancelled."""
        while True:
            with bus.subscribe(PluginChanged) as changes:
                self.refresh()  # in the subscription, so that no change falls between two rounds
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(REFRESH_S):
                        await anext(changes)

    def _put(self, text: str) -> None:
        if not text:
            self._path.unlink(missing_ok=True)
            return
        # A cleaner of temporary files may take the whole directory.
        make_directory(
            self._path.parent, setting="node.runtime_dir", mode=0o755 if is_system() else 0o700
        )
        # Anybody on the machine may know where the node listens.
        replace_file(self._path, text.encode("ascii"), mode=0o644, durable=False)
