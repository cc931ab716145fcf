"""Which files of a model's folder hold its weights.

As in transformers: `model.safetensors` if it exists, else the files named by
`model.safetensors.index.json`. Files in other formats are ignored.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from aitorrentd.api import InvalidParams, NotFound

SINGLE_FILE: Final = "model.safetensors"
INDEX_FILE: Final = "model.safetensors.index.json"
MAX_INDEX_BYTES: Final = 32 * 1024 * 1024


def read_index(directory: Path) -> dict[str, str] | None:
    """The file of each tensor if the weights are split over several files, else None.

    Raises:
        InvalidParams: the index is damaged.
    """
    path = directory / INDEX_FILE
    if (directory / SINGLE_FILE).exists() or not path.exists():
        return None
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


def weight_files(directory: Path) -> tuple[Path, ...]:
    """The files that hold the weights, sorted by name; empty if there are none.

    Raises:
        NotFound: some of them are missing. InvalidParams: a damaged index.
    """
    index = read_index(directory)
    if index is None:
        single = directory / SINGLE_FILE
        return (single,) if single.exists() else ()
    files = tuple(directory / name for name in sorted(set(index.values())))
    missing = [file.name for file in files if not file.exists()]
    if len(missing) == len(files):
        return ()
    if missing:
        raise NotFound(f"{missing[0]} is missing in {directory}; its index names it")
    return files
