"""The model at a path that people name: its folder, or what is wrong with it.

Blocks; run it in a thread.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from aitorrent_shards.config import parse_layers
from aitorrent_shards.models.checkpoint_files import INDEX_FILE, SINGLE_FILE
from aitorrent_shards.models.folder import CONFIG, ModelFiles, read_model
from aitorrent_shards.models.supported import check_config
from aitorrentd.api import Denied, InvalidParams, NotFound

_WEIGHTS: Final = ".safetensors"
_GGUF: Final = ".gguf"
_OTHERS: Final = (".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack")
"Weights in formats that can run code when they are read, or that need another library."
_HOMES: Final = ("/home/", "/root/", "/run/user/")
"What ProtectHome= hides from the daemon."
_AS_GGUF: Final = (
    "GGUF, which is not read: use the model's safetensors, or serve it with Ollama, whose models"
    " this node offers, too"
)
_SHOWN: Final = 300


def local_model(path: Path, layers: str) -> Path:
    """The folder of the model at `path`, which may also be a file in it.

    Its files can be read, and `layers` of it, as in the configuration, be computed as far as
    config.json tells.

    Raises:
        NotFound: there is nothing, or files are missing. Denied: they cannot be read.
        InvalidParams: it is no model, or one that cannot be computed.
    """
    with readable(path):
        folder = _folder_of(path)
        if not (folder / CONFIG).exists():
            raise NotFound(_without_config(folder))
        files = read_model(folder)
        if layers == "none":
            return folder
        check_config(files.settings)
        if not files.weights:
            raise NotFound(_without_weights(folder))
        if (wanted := parse_layers(layers)) is not None and wanted[1] > files.layers:
            raise InvalidParams(f"layers {layers}: the model has {files.layers} layers")
        for file in files.weights:
            with file.open("rb"):
                pass
    return folder


def read_local(path: Path) -> ModelFiles:
    """As `read_model`, for a folder that the daemon may not be able to read.

    Raises:
        Denied: it cannot be read. NotFound, InvalidParams: as `read_model`.
    """
    with readable(path):
        return read_model(path)


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Errors of the file system in the block say which path, and what to do."""
    try:
        yield
    except FileNotFoundError as e:
        raise NotFound(f"{_shown(e.filename or path)} does not exist{_hidden(path)}") from None
    except PermissionError as e:
        raise Denied(
            f"the daemon, which runs as uid {os.geteuid()}, cannot read"
            f" {_shown(e.filename or path)}; let its user read it, and all folders above it"
        ) from None
    except OSError as e:  # a name that is too long, a loop of links, a disk that fails
        raise InvalidParams(f"cannot read {_shown(e.filename or path)}: {e.strerror}") from None


def _folder_of(path: Path) -> Path:
    if not path.is_absolute():
        raise InvalidParams(f"{path} is relative; write an absolute path")
    status = path.stat()  # raises if there is nothing
    if path.is_dir():
        return path
    if path.suffix == _GGUF:
        raise InvalidParams(f"{_shown(path)} is {_AS_GGUF}")
    if path.suffix in (_WEIGHTS, ".json"):
        return path.parent
    kind = f"a file of {status.st_size} bytes" if path.is_file() else "no file"
    raise InvalidParams(f"{_shown(path)} is {kind}; name the folder with the model's {CONFIG}")


def _without_config(folder: Path) -> str:
    names = sorted(os.listdir(folder))
    place = _shown(folder)
    if any(name.endswith(_GGUF) for name in names):
        return f"{place} has weights in {_AS_GGUF}"
    if "adapter_config.json" in names:
        return f"{place} is an adapter (LoRA), not a model; merge it into its model first"
    if "model_index.json" in names:
        return f"{place} is a pipeline of diffusers, not a language model"
    if "snapshots" in names and (revisions := sorted(os.listdir(folder / "snapshots"))):
        inside = _shown(folder / "snapshots" / revisions[-1])
        return f"{place} is a repository in the cache of huggingface_hub; its model is in {inside}"
    below = [name for name in names if (folder / name / CONFIG).is_file()]
    if below:
        return f"{place} has no {CONFIG}; did you mean {_shown(folder / below[0])}?"
    return f"{place} has no {CONFIG}: it is not a model's folder in Hugging Face layout"


def _without_weights(folder: Path) -> str:
    text = f"{_shown(folder)} has no {SINGLE_FILE} and no {INDEX_FILE} with its files"
    names = sorted(os.listdir(folder))
    if any(name.endswith(_GGUF) for name in names):
        return f"{text}, but weights in {_AS_GGUF}"
    if others := [name for name in names if name.endswith(_OTHERS)]:
        return (
            f"{text}, but {_shown(others[0])}, which is not read; transformers converts it:"
            " AutoModelForCausalLM.from_pretrained(folder).save_pretrained(folder)"
        )
    return f'{text}; to use only the layers of other nodes, set layers to "none"'


def _hidden(path: Path) -> str:
    if not f"{path}/".startswith(_HOMES):
        return ""
    return (
        " for the daemon: under systemd it does not see home directories; move the model, to"
        " /srv/models say, or see ProtectHome in docs/security.md"
    )


def _shown(path: object) -> str:
    text = os.fsencode(str(path)).decode(errors="backslashreplace")
    return text if len(text) <= _SHOWN else f"…{text[-_SHOWN:]}"
