"""What the service runs: each room of the plugin is a part."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from aitorrentd.api import HealthWarning, WireProtocol


class Part(Protocol):
    """A room of the plugin at work. Parts start in the order of `NatService.parts`."""

    @property
    def name(self) -> str:
        """What it is called in `nat status`: one or two words, lower case."""

    def running(self) -> AbstractAsyncContextManager[None]:
        """Work while the block runs."""

    def protocols(self) -> Iterable[WireProtocol]:
        """What it serves to peers."""

    def state(self) -> str:
        """What it does now, in one line."""

    def warnings(self) -> Iterable[HealthWarning]:
        """Current problems, each with its remedy."""
