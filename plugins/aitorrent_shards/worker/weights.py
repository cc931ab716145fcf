"""Loads named tensors of a checkpoint into memory, reading their bytes and no others.

Nothing is memory-mapped, so a file that shrinks while it is read causes an error, not a SIGBUS.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from functools import cached_property
from pathlib import Path
from typing import Final, Self

import torch

from aitorrent_shards.models.checkpoint_files import INDEX_FILE, SINGLE_FILE, read_index
from aitorrent_shards.models.safetensors import Layout, TensorRange, layout_of, open_weights
from aitorrent_shards.models.tensor_names import unwrapped
from aitorrentd.api import Busy, InvalidParams, NotFound

_PREFIX: Final = "model."
_CONVERT_BYTES: Final = 4 * 1024 * 1024
_READ_BYTES: Final = 1 << 30  # read(2) transfers at most 0x7ffff000 bytes at once

_DTYPES: Final[Mapping[str, torch.dtype]] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}


def _names(name: str) -> tuple[str, ...]:
    """Possible names of a tensor: a model saved without its head has no prefix."""
    bare = name.removeprefix(_PREFIX)
    return (name,) if bare == name else (name, bare)


class Checkpoint:
    """The tensors of a model directory. Use it in a `with` block, which closes its files.

    `read_bytes` counts the bytes read from disk, including headers.
    """

    def __init__(self, directory: Path) -> None:
        """Find the files; a header is read when one of its tensors is first requested.

        Raises:
            NotFound: neither of the two files exists. InvalidParams: a damaged index.
        """
        self.read_bytes = 0
        self._directory = directory
        self._files: dict[str, tuple[int, Layout]] = {}
        self._index = read_index(directory)
        if self._index is None and not (directory / SINGLE_FILE).exists():
            raise NotFound(f"no {SINGLE_FILE} or {INDEX_FILE} in {directory}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for fd, _layout in self._files.values():
            os.close(fd)
        self._files.clear()

    @cached_property
    def _saved_names(self) -> dict[str, str]:
        """The names in the checkpoint, by their names without wrappers."""
        index = self._index
        saved = self._open(SINGLE_FILE)[1].tensors.keys() if index is None else index.keys()
        names = {name: unwrapped(name) for name in saved}
        plain = {name: name for name, plain_name in names.items() if name == plain_name}
        return {plain_name: name for name, plain_name in names.items()} | plain

    def _place(self, name: str) -> tuple[str, TensorRange] | None:
        """The file that holds a tensor, and where in it."""
        for known_as in _names(name):
            if (saved := self._saved_names.get(known_as)) is None:
                continue
            file = SINGLE_FILE if self._index is None else self._index[saved]
            if place := self._open(file)[1].tensors.get(saved):
                return file, place
        return None

    def others(self, prefix: str, expected: Collection[str]) -> list[str]:
        """The names under `prefix` that are not `expected` (given without it), sorted."""
        dotted = tuple(f"{p}." for p in _names(prefix))
        found = {n[len(d) :] for n in self._saved_names for d in dotted if n.startswith(d)}
        return sorted(found.difference(expected))

    def _missing(self, name: str) -> InvalidParams:
        text = f"the checkpoint in {self._directory} has no tensor {name!r}"
        ends = tuple(f".{n}" for n in _names(name))
        if similar := next((n for n in self._saved_names if n.endswith(ends)), None):
            text += f", but {similar!r}: another kind of model may have been saved"
        return InvalidParams(text)

    def _open(self, file: str) -> tuple[int, Layout]:
        if file not in self._files:
            path = self._directory / file
            if not path.exists():
                raise NotFound(f"{file} is missing in {self._directory}; its index names it")
            fd = open_weights(path)
            try:
                layout = layout_of(fd, file)
            except BaseException:
                os.close(fd)
                raise
            self.read_bytes += layout.header_bytes
            self._files[file] = (fd, layout)
        return self._files[file]

    def find(self, name: str) -> TensorRange | None:
        """The tensor's location, or None if the checkpoint has no such tensor.

        Raises:
            InvalidParams: its file is damaged. NotFound: its file is missing.
        """
        found = self._place(name)
        return None if found is None else found[1]

    def float_dtype(self) -> torch.dtype:
        """The dtype of the first floating-point tensor, taken as the checkpoint's dtype if its
        configuration names none.

        Raises:
            InvalidParams: a damaged file. NotFound: a missing one.
        """
        first = SINGLE_FILE if self._index is None else min(self._index.values())
        tensors = self._open(first)[1].tensors
        found = (_DTYPES[t.dtype] for _, t in sorted(tensors.items()) if t.dtype in _DTYPES)
        return next(found, torch.float32)

    def load(
        self, name: str, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
    ) -> torch.Tensor:
        """The tensor `name`, converted to `dtype`, on `device`.

        Raises:
            InvalidParams: no such tensor, not of this shape, or not of a float dtype.
            Busy: not enough memory.
        """
        if (found := self._place(name)) is None:
            raise self._missing(name)
        file, place = found
        if place.dtype not in _DTYPES:
            raise InvalidParams(
                f"tensor {name!r} is {place.dtype}; quantised checkpoints are not supported,"
                f" only {', '.join(_DTYPES)}"
            )
        if place.shape != shape:
            raise InvalidParams(
                f"tensor {name!r} has shape {list(place.shape)}; config.json makes it {list(shape)}"
            )
        try:
            tensor = torch.empty(shape, dtype=dtype, device=device)
        except RuntimeError:  # raised by torch when out of memory, on a CPU or a GPU
            raise Busy(f"no memory for tensor {name!r} of shape {list(shape)}") from None
        fd = self._files[file][0]
        flat = tensor.view(-1)
        if device.type == "cpu" and dtype == _DTYPES[place.dtype]:
            self._read(fd, flat.view(torch.uint8).numpy().data, place.start, file)
        else:
            self._convert(fd, flat, place, file)
        return tensor

    def _convert(self, fd: int, flat: torch.Tensor, place: TensorRange, file: str) -> None:
        dtype = _DTYPES[place.dtype]
        rows = _CONVERT_BYTES // dtype.itemsize
        part = torch.empty(min(rows, flat.numel()), dtype=dtype)
        raw = part.view(torch.uint8).numpy().data
        for at in range(0, flat.numel(), rows):
            n = min(rows, flat.numel() - at)
            self._read(fd, raw[: n * dtype.itemsize], place.start + at * dtype.itemsize, file)
            flat[at : at + n].copy_(part[:n])

    def _read(self, fd: int, target: memoryview, offset: int, file: str) -> None:
        done = 0
        while done < len(target):
            try:
                n = os.preadv(fd, [target[done : done + _READ_BYTES]], offset + done)
            except OSError as e:
                raise InvalidParams(f"cannot read {file}: {e.strerror}") from None
            if n == 0:
                raise InvalidParams(f"{file} ended early, at byte {offset + done}")
            done += n
        self.read_bytes += done
