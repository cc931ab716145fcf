"""A disk of its own for a daemon, whose power a test can cut.

ext4 on a loop device. Its shutdown (the ioctl that xfstests use) throws away what was not written
yet, as a power cut does; the journal is replayed at the next mount.
"""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
from pathlib import Path
from typing import Final

_EXT4_IOC_SHUTDOWN: Final = 0x8004587D
_WITHOUT_FLUSH: Final = 2


class Disk:
    """`size_mib` MiB, mounted at `place` until `close`."""

    def __init__(self, image: Path, place: Path, *, size_mib: int = 256) -> None:
        self.place = place
        self._image = image
        with image.open("wb") as file:
            file.truncate(size_mib * 2**20)
        subprocess.run(["mkfs.ext4", "-q", "-F", image], check=True)
        place.mkdir(mode=0o700)
        # Daemons with mounts of their own let go of it, too.
        subprocess.run(["mount", "--bind", place.parent, place.parent], check=True)
        subprocess.run(["mount", "--make-shared", place.parent], check=True)
        self.mount()
        place.chmod(0o700)

    def mount(self) -> None:
        """Switch it on."""
        subprocess.run(["mount", "-o", "loop", self._image, self.place], check=True)

    def cut_power(self) -> None:
        """Nothing more is written, and what was not written is lost; kill who used it, then
        `restore`."""
        fd = os.open(self.place, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.ioctl(fd, _EXT4_IOC_SHUTDOWN, struct.pack("I", _WITHOUT_FLUSH))
        finally:
            os.close(fd)

    def restore(self) -> None:
        """What is on the disk after the power cut; nobody uses it."""
        subprocess.run(["umount", self.place], check=True)
        self.mount()

    def close(self) -> None:
        """Switch it off."""
        for path in (self.place, self.place.parent):
            subprocess.run(["umount", "-l", path], check=False, capture_output=True)


def reaches_the_disk(path: Path) -> None:
    """The kernel writes this file before it writes others."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
