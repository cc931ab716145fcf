"""Fetches one model into a folder in Hugging Face layout, without the weights of other layers.

The folder holds the small files, the manifest, and a link for each weight file. A weight file that
is needed in part has its full size; bytes that no layer here needs may be missing in it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Final

from aitorrent_shards.config import parse_layers
from aitorrent_shards.fetching.manifest import (
    EXTRAS,
    MANIFEST,
    WEIGHTS_SUFFIX,
    Manifest,
    ManifestFile,
    is_plain_name,
    read_manifest,
)
from aitorrent_shards.fetching.manifest_exchange import ToldModel
from aitorrent_shards.fetching.sources import Source
from aitorrent_shards.models.checkpoint_files import INDEX_FILE, SINGLE_FILE, read_index
from aitorrent_shards.models.folder import (
    CONFIG,
    FAST_TOKENIZER,
    TOKENIZER,
    layers_of,
    read_json,
)
from aitorrent_shards.models.layer_bytes import (
    LENGTH_BYTES,
    Range,
    files_of,
    header_range,
    layout_from,
    tensor_ranges,
)
from aitorrent_shards.models.safetensors import Layout
from aitorrent_shards.models.supported import check_config, check_weights
from aitorrent_shards.models.tensor_names import LayerTensors
from aitorrentd.api import (
    AitorrentError,
    InvalidParams,
    NotFound,
    ProtocolError,
    Registry,
    TooLarge,
    read_regular,
    replace_file,
)
from aitorrentd.api.models.weights import (
    Fetch,
    ModelNames,
    SmallFile,
    WantedFile,
    WebSource,
    Weights,
)

MAX_SMALL_BYTES: Final = 64 * 2**20
"A file that is copied into the folder."
MAX_MANIFEST_BYTES: Final = 8 * 2**20

_OTHER_WEIGHTS: Final = (WEIGHTS_SUFFIX, ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".h5", ".msgpack")
"Names of files with weights end so; those of other formats, layouts and folders are not read."

AskPeers = Callable[[str], Awaitable[ToldModel]]
"What peers tell about the model with this digest."


class ModelFetch:
    """The fetch of one model's files; `run` may be called again after an error."""

    def __init__(
        self,
        folder: Path,
        source: Source,
        layers: str,
        *,
        weights: Callable[[], Weights],
        names: Callable[[], Registry[ModelNames]],
        ask_peers: AskPeers,
        log: logging.Logger,
    ) -> None:
        """`layers` as in the configuration: "all", "none" or "4-8". `weights` and `names` give the
        services, or raise Unavailable."""
        self._folder = folder
        self._source = source
        self._layers = layers
        self._weights = weights
        self._names = names
        self._ask_peers = ask_peers
        self._log = log
        self.step = "fetching"
        "What `run` does now, such as `looking up hf://org/name`."
        self.is_known = False
        "Whether it is known which files the model has."
        self._fetches: dict[str, Fetch] = {}
        self._sources: dict[str, tuple[WebSource, ...]] = {}
        "Web addresses with their tokens, by file; they are not saved."

    @property
    def progress(self) -> tuple[int, int]:
        """Bytes of weights that are here, and that are needed, as far as known."""
        states = [fetch.progress() for fetch in self._fetches.values()]
        return sum(s.done for s in states), sum(s.total for s in states)

    def release(self) -> None:
        """Wait for nothing any more; what arrived stays."""
        for fetch in self._fetches.values():
            fetch.release()
        self._fetches.clear()

    async def run(self) -> Manifest:
        """Fetch what the layers need; returns the manifest, whose digests are proven.

        Raises:
            NotFound: no such model or file, or nobody has it. InvalidParams: a damaged or
            unsuitable model. Other AitorrentErrors: it cannot be fetched now.
        """
        await asyncio.to_thread(self._make_folder)
        manifest = await self._manifest()
        self.is_known = True
        await self._offer(manifest)
        count = await asyncio.to_thread(layers_of, self._folder)
        wanted = self._wanted(count)
        if wanted is None:
            return manifest
        check_config(await asyncio.to_thread(read_json, self._folder / CONFIG))
        self.step = "fetching weights"
        index = await asyncio.to_thread(self._index, manifest)
        if index is None:
            await asyncio.gather(*(self._bring(file, wanted, None) for file in manifest.weights))
        else:
            names = wanted.among(index)
            by_file = {f: {n for n in names if index[n] == f} for f in files_of(index, names)}
            files = [(manifest.get(name), names) for name, names in by_file.items()]
            await asyncio.gather(
                *(self._bring(file, wanted, names) for file, names in files if file is not None)
            )
        await asyncio.to_thread(self._fill_in, manifest)
        return manifest

    def _make_folder(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._folder.chmod(0o750)  # workers run as another user of the daemon's group

    def _wanted(self, count: int) -> LayerTensors | None:
        if self._layers == "none":
            return None
        start, end = parse_layers(self._layers) or (0, count)
        if end > count:
            raise InvalidParams(f"layers {self._layers}: the model has {count} layers")
        return LayerTensors(start, end, count)

    # The manifest and the small files

    async def _manifest(self) -> Manifest:
        """The manifest saved here, else a resolved one; afterwards all small files are here."""
        saved = await asyncio.to_thread(self._saved)
        if saved is not None:
            return saved
        if self._source.is_digest:
            self.step = f"asking peers which files {self._source.shown} has"
            manifest = await self._from_peers()
        else:
            self.step = f"looking up {self._source.shown}"
            manifest = await self._by_name()
        path = self._folder / MANIFEST
        await asyncio.to_thread(replace_file, path, manifest.as_json(), mode=0o640)
        return manifest

    def _saved(self) -> Manifest | None:
        """The manifest of an earlier run, if the small files are still as it says."""
        try:
            raw = read_regular(self._folder / MANIFEST, MAX_MANIFEST_BYTES)
            manifest = read_manifest(raw)
            for file in manifest.files:
                if not file.name.endswith(WEIGHTS_SUFFIX):
                    content = read_regular(self._folder / file.name, MAX_SMALL_BYTES)
                    if sha256(content).hexdigest() != file.sha256:
                        raise ProtocolError(f"{file.name} was changed")
        except FileNotFoundError:
            return None
        except (OSError, ProtocolError) as e:
            self._log.warning("%s: %s; the model is resolved again", self._folder, e)
            return None
        return manifest

    async def _by_name(self) -> Manifest:
        resolver = self._names().get(self._source.scheme)
        model = await resolver.resolve(self._source.name, self._source.revision)
        there = {name: file for name, file in model.files if is_plain_name(name)}
        if CONFIG not in there:
            raise NotFound(f"{self._source.name} has no {CONFIG}, which is needed")
        if TOKENIZER not in there:
            raise NotFound(f"{self._source.name} has no {TOKENIZER}; {FAST_TOKENIZER}")
        small: list[str] = [name for name in (CONFIG, TOKENIZER, *EXTRAS) if name in there]
        self.step = "fetching configuration and tokenizer"
        contents = await asyncio.gather(*(self._content(there[name]) for name in small))
        files = []
        for name, content in zip(small, contents, strict=True):
            files.append(await asyncio.to_thread(self._keep, name, content))
        if SINGLE_FILE in there:
            weights = [SINGLE_FILE]
        else:
            weights = sorted(
                set((await asyncio.to_thread(read_index, self._folder) or {}).values())
            )
        if not weights:
            others = [name for name, _ in model.files if name.endswith(_OTHER_WEIGHTS)]
            raise NotFound(
                f"{self._source.name} has no {SINGLE_FILE} and no {INDEX_FILE}"
                + (f", but {others[0][:200]}, which is not read" if others else "")
            )
        for name in weights:
            file = there.get(name)
            if file is None:
                raise NotFound(
                    f"{self._source.name} has no {name[:200]}, though its {INDEX_FILE} names it:"
                    " the repository is damaged"
                )
            if not isinstance(file, WantedFile):
                raise NotFound(f"{self._source.name} gives no SHA-256 for {name}")
            self._sources[name] = file.sources
            urls = tuple(source.url for source in file.sources if not source.headers)
            files.append(ManifestFile(name, file.sha256, file.size, urls))
        return Manifest(f"{self._source.scheme}://{model.name}", model.revision, tuple(files))

    async def _from_peers(self) -> Manifest:
        told = await self._ask_peers(self._source.name)
        self.step = "fetching configuration and tokenizer"
        for file in told.files.files:
            if not file.name.endswith(WEIGHTS_SUFFIX):
                wanted = WantedFile(file.sha256, file.size, file.name)
                await asyncio.to_thread(self._keep, file.name, await self._content(wanted))
        if not told.index:
            return told.files
        index = await asyncio.to_thread(self._keep, INDEX_FILE, told.index)
        return Manifest(told.files.source, "", (*told.files.files, index))

    async def _content(self, file: WantedFile | SmallFile) -> bytes:
        """The content of a file that is read as a whole."""
        if isinstance(file, SmallFile):
            small_files = await asyncio.to_thread(_import_small_files)
            return await small_files(file)
        if file.size > MAX_SMALL_BYTES:
            raise TooLarge(f"{file.name} has {file.size} bytes; expected at most {MAX_SMALL_BYTES}")
        fetch = await self._weights().fetch(file)
        try:
            path = await fetch.wait()
            return await asyncio.to_thread(read_regular, path, MAX_SMALL_BYTES)
        finally:
            fetch.release()

    def _keep(self, name: str, content: bytes) -> ManifestFile:
        replace_file(self._folder / name, content, mode=0o640)
        return ManifestFile(name, sha256(content).hexdigest(), len(content))

    async def _offer(self, manifest: Manifest) -> None:
        """Seed what other nodes need to add the model by its digest, besides weights."""
        weights = self._weights()
        for name in (CONFIG, TOKENIZER):
            file = manifest.get(name)
            if file is None or weights.local(file.sha256) is not None:
                continue
            try:
                await weights.offer(self._folder / name, sha256=file.sha256)
            except AitorrentError as e:
                self._log.info("%s of this model is not seeded: %s", name, e.message)

    async def forget(self) -> None:
        """Stop seeding what `run` offered; the folder is about to be deleted."""
        manifest = await asyncio.to_thread(self._saved)
        for name in (CONFIG, TOKENIZER):
            file = manifest.get(name) if manifest else None
            if file is None:
                continue
            with suppress(AitorrentError):
                weights = self._weights()
                if weights.local(file.sha256) == self._folder / name:
                    await weights.withdraw(file.sha256)

    # The weights

    def _index(self, manifest: Manifest) -> Mapping[str, str] | None:
        if manifest.get(SINGLE_FILE) is not None:
            return None
        index = read_index(self._folder)
        if index is None:
            raise NotFound(f"the peers told no {INDEX_FILE}, which says where each tensor is")
        return index

    async def _bring(
        self, file: ManifestFile, wanted: LayerTensors, names: set[str] | None
    ) -> None:
        """Fetch the tensors `names` of one file; None = those that `wanted` finds in it."""
        sources = self._sources.get(file.name) or tuple(WebSource(url) for url in file.urls)
        asked = WantedFile(file.sha256, file.size, file.name, sources)
        local = self._weights().local(file.sha256)
        if local is not None:
            await asyncio.to_thread(self._link, file.name, local)
            return
        fetch = await self._weights().fetch(asked, ranges=[(0, LENGTH_BYTES)])
        self._fetches[file.name] = fetch
        layout = await self._layout(fetch, file)
        takes = wanted.among(layout.tensors) if names is None else names
        if missing := takes - layout.tensors.keys():
            raise await asyncio.to_thread(self._wrong_index, file.name, min(missing))
        check_weights(layout, takes, file.name)
        ranges: list[Range] = [(0, layout.header_bytes), *tensor_ranges(layout, takes)]
        path = await fetch.want(ranges)
        await asyncio.to_thread(self._link, file.name, path)

    async def _layout(self, fetch: Fetch, file: ManifestFile) -> Layout:
        path = await fetch.want([(0, LENGTH_BYTES)])
        prefix = await asyncio.to_thread(_read, path, 0, LENGTH_BYTES)
        start, end = header_range(prefix, file.size, file.name)
        path = await fetch.want([(0, end)])
        header = await asyncio.to_thread(_read, path, start, end)
        return await asyncio.to_thread(layout_from, header, file.size, file.name)

    def _wrong_index(self, file: str, tensor: str) -> AitorrentError:
        text = f"{file} has no tensor {tensor[:200]!r}, though {INDEX_FILE} says so"
        if not self._source.is_digest:
            return InvalidParams(text)
        # Another peer may tell the truth.
        (self._folder / MANIFEST).unlink(missing_ok=True)
        return ProtocolError(f"{text}; a peer lied about it")

    def _link(self, name: str, target: Path) -> None:
        link = self._folder / name
        if link.is_symlink() and link.readlink() == target:
            return
        with suppress(FileNotFoundError):
            link.unlink()
        link.symlink_to(target)

    def _fill_in(self, manifest: Manifest) -> None:
        """Weight files that no layer here needs: of the right size, and without content."""
        for file in manifest.weights:
            path = self._folder / file.name
            if not path.exists():
                with suppress(FileNotFoundError):
                    path.unlink()  # a link whose target is gone
                with path.open("wb") as empty:
                    empty.truncate(file.size)
                path.chmod(0o640)


def _read(path: Path, start: int, end: int) -> bytes:
    with path.open("rb") as file:
        file.seek(start)
        return file.read(end - start)


def _import_small_files() -> Callable[[SmallFile], Awaitable[bytes]]:
    from aitorrentd.api.models.small_files import fetch_small

    return fetch_small
