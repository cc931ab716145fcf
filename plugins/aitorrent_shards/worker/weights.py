"""Loads named tensors of a checkpoint into memory, reading their bytes and no others.

A checkpoint is `model.safetensors`, or several files named by `model.safetensors.index.json`.
Nothing is mapped, so a file that shrinks while it is read is an error and not a SIGBUS.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Self

import torch

from aitorrent_shards.models.safetensors import Layout, TensorRange, layout_of, open_weights
from aitorrentd.api import Busy, InvalidParams, NotFound

SINGLE_FILE: Final = "model.safetensors"
INDEX_FILE: Final = "model.safetensors.index.json"
MAX_INDEX_BYTES: Final = 32 * 1024 * 1024

_CONVERT_BYTES: Final = 4 * 1024 * 1024
_READ_BYTES: Final = 1 << 30  # read(2) transfers at most 0x7ffff000 bytes at once

_DTYPES: Final[Mapping[str, torch.dtype]] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}


def _read_index(directory: Path) -> dict[str, str]:
    path = directory / INDEX_FILE
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_INDEX_BYTES + 1)
        if len(raw) > MAX_INDEX_BYTES:
            raise ValueError(f"longer than {MAX_INDEX_BYTES} bytes")
        index = json.loads(raw.decode())
        weight_map = index["weight_map"] if isinstance(index, dict) else None
        if not isinstance(weight_map, dict) or not all(
            isinstance(f, str) and f.endswith(".safetensors") and Path(f).name == f
            for f in weight_map.values()
        ):
            raise ValueError("weight_map must map tensor names to safetensors files beside it")
    except OSError as e:
        raise InvalidParams(f"cannot read {path}: {e.strerror}") from None
    except KeyError:
        raise InvalidParams(f"{path} has no weight_map") from None
    except (ValueError, RecursionError) as e:
        raise InvalidParams(f"{path} is damaged: {e}") from None
    return weight_map


class Checkpoint:
    """The tensors of a model directory. Use it in a `with` block, which closes its files.

    `read_bytes` counts what was read from disk, headers included.
    """

    def __init__(self, directory: Path) -> None:
        """Find the files; headers are read when one of their tensors is asked for.

        Raises:
            NotFound: neither of the two file names is there. InvalidParams: a damaged index.
        """
        self.read_bytes = 0
        self._directory = directory
        self._files: dict[str, tuple[int, Layout]] = {}
        self._index: dict[str, str] | None = None
        if (directory / INDEX_FILE).exists():
            self._index = _read_index(directory)
        elif not (directory / SINGLE_FILE).exists():
            raise NotFound(f"no {SINGLE_FILE} or {INDEX_FILE} in {directory}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for fd, _layout in self._files.values():
            os.close(fd)
        self._files.clear()

    def _file_of(self, name: str) -> str | None:
        return SINGLE_FILE if self._index is None else self._index.get(name)

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
        """The tensor's place, or None when the checkpoint has no such tensor.

        Raises:
            InvalidParams: its file is damaged. NotFound: its file is missing.
        """
        file = self._file_of(name)
        return None if file is None else self._open(file)[1].tensors.get(name)

    def load(
        self, name: str, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
    ) -> torch.Tensor:
        """The tensor `name`, converted to `dtype`, on `device`.

        Raises:
            InvalidParams: no such tensor, not of this shape, or not of a float dtype.
            Busy: no memory for it.
        """
        place = self.find(name)
        file = self._file_of(name)
        if place is None or file is None:
            raise InvalidParams(f"the checkpoint in {self._directory} has no tensor {name!r}")
        if place.shape != shape:
            raise InvalidParams(
                f"tensor {name!r} has shape {list(place.shape)}; config.json makes it {list(shape)}"
            )
        if place.dtype not in _DTYPES:
            raise InvalidParams(
                f"tensor {name!r} is {place.dtype}; quantised checkpoints are not supported,"
                f" only {', '.join(_DTYPES)}"
            )
        try:
            tensor = torch.empty(shape, dtype=dtype, device=device)
        except RuntimeError:  # what torch raises when memory is short, on a CPU and on a GPU
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
