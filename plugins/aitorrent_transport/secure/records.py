"""Records: the encrypted unit of a channel after its handshake.

On the wire: `u32 length | ciphertext and tag`; the length is associated data and `suites` selects
the cipher. Inside: a one-byte kind, then the payload (at most 64 KiB). The nonce is a 64-bit
counter per direction that is never transmitted, so a replayed, reordered, dropped or damaged record
fails authentication and ends the channel.

A REKEY record is the last under its key; the next key comes from Noise's REKEY (rev. 34, 4.2) and
the counter continues. A sender rekeys after 2^20 records and whenever its owner asks (once an
hour); a reader accepts at most one per second, since each costs a key set-up.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from mmap import mmap
from typing import Final, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from aitorrent_transport.secure.noise import TAG_BYTES, CipherState
from aitorrent_transport.secure.suites import CHACHA, Aead, Suite
from aitorrentd.api import ProtocolError, TooLarge

DATA: Final = 0
REKEY: Final = 1
CLOSE: Final = 2
MAX_PLAINTEXT: Final = 65_536
REKEY_RECORDS: Final = 2**20
MIN_REKEY_INTERVAL_S: Final = 1.0
MAX_COUNTER: Final = 2**60
READ_BUFFER_BYTES: Final = 256 * 1024
WRITE_BUFFER_BYTES: Final = 512 * 1024

_MAX_PLAIN: Final = 1 + MAX_PLAINTEXT
_MAX_SEALED: Final = _MAX_PLAIN + TAG_BYTES
_MIN_SEALED: Final = 1 + TAG_BYTES
_U32: Final = struct.Struct(">I")
# Older versions of `cryptography` lack these; then each record costs an allocation.
_HAS_INTO: Final = hasattr(ChaCha20Poly1305, "decrypt_into")


class Record(NamedTuple):
    """A received record; the next one overwrites `payload`."""

    kind: int
    payload: memoryview


class _RecordKey:
    """The changing key of one direction."""

    __slots__ = ("_key", "_suite", "aead")

    def __init__(self, cipher: CipherState, suite: Suite) -> None:
        if cipher.key is None:
            raise RuntimeError("records need a key")
        self._suite = suite
        self._key = suite.first_key(cipher.key)
        self.aead: Aead = suite.aead(self._key)

    def advance(self) -> None:
        self._key = self._suite.next_key(self._key)
        self.aead = self._suite.aead(self._key)


class RecordWriter:
    """Seals records of one direction, contiguous in memory so that they can be sent together.

    `take()` returns the bytes sealed since the last call; they stay unchanged until `reuse()`
    declares all of them sent. A REKEY is sent automatically every `rekey_after` records.
    """

    def __init__(
        self,
        cipher: CipherState,
        suite: Suite = CHACHA,
        *,
        rekey_after: int = REKEY_RECORDS,
        buffer_bytes: int = WRITE_BUFFER_BYTES,
        in_place: bool = _HAS_INTO,
    ) -> None:
        self._key = _RecordKey(cipher, suite)
        self._nonce = suite.nonce.pack
        self._counter = cipher.counter
        self._rekey_after = rekey_after
        self._rekey_at = self._counter + rekey_after
        self._in_place = in_place
        # Anonymous maps use memory only for pages written to: little for quiet channels.
        self._buffer = memoryview(mmap(-1, buffer_bytes))
        self._plain = memoryview(mmap(-1, _MAX_PLAIN))
        self._start = 0
        self._end = 0
        self.rekeys = 0

    @property
    def rekey_due(self) -> bool:
        """Whether enough records were sent that `rekey` is due before the next."""
        return self._counter >= self._rekey_at

    @property
    def gathered(self) -> int:
        """Bytes sealed and not yet taken."""
        return self._end - self._start

    def seal(self, parts: tuple[bytes | memoryview, ...], kind: int = DATA) -> int:
        """Seal the concatenated parts as one record; return its size on the wire in bytes.

        Raises:
            TooLarge: more than MAX_PLAINTEXT bytes. ProtocolError: the counter is exhausted.
        """
        size = 1 + sum(map(len, parts))
        if size > _MAX_PLAIN:
            raise TooLarge(f"a record of {size - 1} bytes; the limit is {MAX_PLAINTEXT}")
        counter = self._counter
        if counter >= MAX_COUNTER:
            raise ProtocolError("this direction of the channel has exhausted its record numbers")
        plain = self._plain
        plain[0] = kind
        at = 1
        for part in parts:
            stop = at + len(part)
            plain[at:stop] = part
            at = stop
        body = self._room_for(4 + size + TAG_BYTES) + 4
        end = body + size + TAG_BYTES
        head = _U32.pack(size + TAG_BYTES)
        self._buffer[body - 4 : body] = head
        self._counter = counter + 1
        nonce = self._nonce(0, counter)
        if self._in_place:
            self._key.aead.encrypt_into(nonce, plain[:size], head, self._buffer[body:end])
        else:
            self._buffer[body:end] = self._key.aead.encrypt(nonce, plain[:size], head)
        self._end = end
        return end - body + 4

    def _room_for(self, size: int) -> int:
        """Make room for a record of `size` bytes; return its offset."""
        if self._end + size > len(self._buffer):
            # Bytes taken and not yet sent keep the old map alive.
            gathered = self._buffer[self._start : self._end]
            self._end -= self._start
            self._start = 0
            self._buffer = memoryview(mmap(-1, max(len(self._buffer), self._end + size)))
            self._buffer[: self._end] = gathered
        return self._end

    def take(self) -> memoryview:
        """The records sealed since the last `take`."""
        start, self._start = self._start, self._end
        return self._buffer[start : self._end]

    def reuse(self) -> None:
        """All taken bytes have been sent; allow overwriting their memory."""
        if self._start == self._end:
            self._start = self._end = 0

    def rekey(self) -> int:
        """Seal a REKEY record and switch to the next key; return its size on the wire."""
        size = self.seal((), REKEY)
        self._key.advance()
        self._rekey_at = self._counter + self._rekey_after
        self.rekeys += 1
        return size


class RecordReader:
    """Opens records of one direction, in a buffer that the socket writes into.

    `space()` is where the next bytes go, `feed(n)` reports that n arrived, `next()` returns one
    record at a time. `now` is a monotonic clock in seconds.
    """

    def __init__(
        self,
        cipher: CipherState,
        now: Callable[[], float],
        suite: Suite = CHACHA,
        *,
        buffer_bytes: int = READ_BUFFER_BYTES,
        in_place: bool = _HAS_INTO,
        min_rekey_s: float = MIN_REKEY_INTERVAL_S,
    ) -> None:
        self._key = _RecordKey(cipher, suite)
        self._nonce = suite.nonce.pack
        self._counter = cipher.counter
        self._now = now
        self._min_rekey_s = min_rekey_s
        self._rekeyed_at = float("-inf")
        # Anonymous maps use memory only for pages written to: little for quiet channels.
        self._buffer = memoryview(mmap(-1, max(buffer_bytes, 2 * (4 + _MAX_SEALED))))
        self._plain = memoryview(mmap(-1, _MAX_SEALED)) if in_place else None
        self._start = 0
        self._end = 0

    @property
    def buffered(self) -> int:
        """Bytes received and not yet opened."""
        return self._end - self._start

    @property
    def space_left(self) -> int:
        """Bytes that fit before `next()` has to make room."""
        return len(self._buffer) - self._end

    def space(self) -> memoryview:
        """Where the next bytes go; never empty if `next()` has been called until None."""
        start, end = self._start, self._end
        if start == end:
            self._start = self._end = 0
        elif start:
            self._buffer[: end - start] = self._buffer[start:end]
            self._start, self._end = 0, end - start
        return self._buffer[self._end :]

    def feed(self, n: int) -> None:
        """Report that `n` bytes were written at the start of `space()`."""
        self._end += n

    def next(self) -> Record | None:
        """The next complete record, or None until more bytes arrive.

        Raises:
            ProtocolError: an invalid length, failed authentication, an unknown kind, an exhausted
                counter, or rekeying too often.
        """
        while True:
            start = self._start
            have = self._end - start
            if have < 4:
                return None
            (length,) = _U32.unpack_from(self._buffer, start)
            if not _MIN_SEALED <= length <= _MAX_SEALED:
                raise ProtocolError(f"a record of {length} bytes")
            if have < 4 + length:
                return None
            plain = self._open(start, length)
            self._start = start + 4 + length
            kind = plain[0]
            if kind == REKEY:
                self._rekey(len(plain))
                continue
            if kind != DATA and kind != CLOSE:
                raise ProtocolError(f"a record of unknown kind {kind}")
            return Record(kind, plain[1:])

    def _open(self, start: int, length: int) -> memoryview:
        counter = self._counter
        if counter >= MAX_COUNTER:
            raise ProtocolError("the peer has exhausted its record numbers")
        body = start + 4
        head = self._buffer[start:body]
        sealed = self._buffer[body : body + length]
        nonce = self._nonce(0, counter)
        try:
            if self._plain is None:
                plain = memoryview(self._key.aead.decrypt(nonce, sealed, head))
            else:
                plain = self._plain[: length - TAG_BYTES]
                self._key.aead.decrypt_into(nonce, sealed, head, plain)
        except InvalidTag:
            raise ProtocolError("a record failed authentication") from None
        self._counter = counter + 1
        return plain

    def _rekey(self, length: int) -> None:
        now = self._now()
        if length != 1 or now - self._rekeyed_at < self._min_rekey_s:
            raise ProtocolError("the peer rekeys too often")
        self._rekeyed_at = now
        self._key.advance()
