"""Assembles the plugin: models, stages, coordinator and backend of one node."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

from aitorrent_shards.answering.availability import coming_text, likely_route, own_loading
from aitorrent_shards.answering.backend import ShardsBackend
from aitorrent_shards.config import ShardsConfig
from aitorrent_shards.fetching.manifest_exchange import ManifestServer
from aitorrent_shards.model_list import ModelList
from aitorrent_shards.node_services import NodeServices
from aitorrent_shards.protocol.last_holders import LastHolders
from aitorrent_shards.protocol.loading import PREFIX as LOADING
from aitorrent_shards.protocol.loading import Loading, parse_all
from aitorrent_shards.protocol.loading_claims import Claims
from aitorrent_shards.protocol.spans import (
    PREFIX,
    Span,
    other_versions,
    parse_spans,
    with_own,
)
from aitorrent_shards.routing.failed_links import FailedLinks
from aitorrent_shards.routing.finder import rtt_us
from aitorrent_shards.routing.planner import Leg, Reaches
from aitorrent_shards.routing.probing import LinkProber
from aitorrent_shards.serving.stage_server import StageServer
from aitorrentd.api import (
    BACKENDS,
    DIRECTORY,
    TRANSPORT,
    DirectoryChanged,
    Draining,
    HealthWarning,
    PeerId,
    PluginContext,
)
from aitorrentd.api.tasks import Tasks

TELL_S: Final = 0.5
"How often a loading node checks whether to publish its progress."


class ShardsService:
    """The plugin's running service."""

    def __init__(self, ctx: PluginContext) -> None:
        config: ShardsConfig = ctx.config
        self._ctx, self._config = ctx, config
        transport = ctx.service(TRANSPORT)
        self.directory = ctx.service(DIRECTORY)
        self.node_id = transport.node_id
        self.stage_server = StageServer(
            transport, config, ctx.log, work=lambda: ctx.work("session")
        )
        self.list = ModelList(ctx, self.stage_server, self.directory)
        self.models = self.list.by_name
        self.links = FailedLinks()
        self._last_holders = LastHolders()
        node = NodeServices(
            transport=transport,
            directory=self.directory,
            stage_server=self.stage_server,
            config=config,
            clock=ctx.clock,
            log=ctx.log,
            publish=ctx.publish,
            links=self.links,
        )
        self.backend = ShardsBackend(
            self.models,
            node,
            ctx.random,
            spans=self.spans,
            loading=self._loading_elsewhere,
            name_of=self._name_of,
            last_holders=self._last_holders.text,
            other_versions=lambda: other_versions(self.directory.known(PREFIX)),
        )
        self.prober = LinkProber(node, self._likely_routes, ctx.random)
        self._claims = Claims()
        self._begun = asyncio.Event()
        self.list.on_loading = self._begun.set
        self.manifests = ManifestServer(self.list.told)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Read and load the models in the background, and answer while the block runs."""
        tasks = Tasks(self._ctx.tasks)
        await self.list.start(tasks)
        tasks.spawn(self._follow_drain(), "shards-drain")
        tasks.spawn(self._tell_loading(), "shards-loading")
        tasks.spawn(self._follow_peers(), "shards-peers")
        tasks.spawn(self.prober.run(), "shards-prober")
        try:
            with self._ctx.service(BACKENDS).added(self.backend.name, self.backend):
                yield
        finally:
            await tasks.close(timeout_s=10)

    async def _follow_drain(self) -> None:
        """Keep this node's layers out of the directory while it drains."""
        while True:
            with self._ctx.subscribe(Draining) as events:
                self._advertise()
                async for _ in events:
                    self._advertise()

    def _advertise(self) -> None:
        for holder in list(self.stage_server.holders.values()):
            holder.advertise()
        self._begun.set()  # publish what is loading, or withdraw it

    async def _tell_loading(self) -> None:
        """Publish in the directory which models are being read and loaded, and their progress."""
        said: dict[str, Loading] = {}
        try:
            while True:
                self._begun.clear()
                now = {} if self._ctx.draining else self._coming()
                for name in said.keys() - now.keys():
                    self.directory.withdraw(LOADING + name)
                    del said[name]
                for name, loading in now.items():
                    if loading.is_news(said.get(name)):
                        self.directory.publish(LOADING + name, loading.value())
                        said[name] = loading
                if now:
                    await asyncio.sleep(TELL_S)
                else:
                    await self._begun.wait()
        finally:
            for name in said:
                self.directory.withdraw(LOADING + name)

    def loading(self) -> dict[str, Loading]:
        """What this node is reading or loading now, by model."""
        found = ((n, own_loading(m, self.node_id)) for n, m in self.models.items())
        return {name: loading for name, loading in found if loading is not None}

    def _coming(self) -> dict[str, Loading]:
        """The records to publish: what this node is loading, and the models it can answer with once
        other nodes have loaded, for peers that cannot see those nodes."""
        found = {
            pending.name: Loading(
                self.node_id, pending.name, 0, 0, pending.done_bytes, pending.total_bytes
            )
            for pending in self.backend.pending()
            if pending.state == "loading" and pending.name in self.models
        }
        return found | self.loading()

    async def _follow_peers(self) -> None:
        """Look again when a peer starts or stops loading something, or holds other layers."""
        while True:
            with self._ctx.subscribe(DirectoryChanged) as events:
                self._begun.set()
                self.prober.wake()
                async for event in events:
                    if not isinstance(event, DirectoryChanged):
                        continue
                    if event.key.startswith(LOADING):
                        self._begun.set()
                    elif event.key.startswith(PREFIX):
                        self.prober.wake()

    def _likely_routes(self, reaches: Reaches) -> list[tuple[Leg, ...]]:
        spans, transport = self.spans(), self._ctx.service(TRANSPORT)
        return [
            likely_route(
                model,
                spans,
                home=self.node_id,
                reaches=reaches,
                rtt_us=partial(rtt_us, transport),
            )
            for model in self.models.values()
        ]

    def _loading_elsewhere(self) -> list[Loading]:
        """The peers' loading claims that make progress."""
        said = parse_all(self.directory.known(LOADING))
        return self._claims.advancing(said, self._ctx.clock.monotonic())

    def _name_of(self, peer: PeerId) -> str:
        view = self._ctx.service(TRANSPORT).peer(peer)
        return view.name if view is not None else ""

    def names(self, peers: Iterable[str]) -> dict[str, str]:
        """The names of those nodes that have one and are connected."""
        found = {peer: self._name_of(PeerId(peer)) for peer in peers if peer != self.node_id}
        return {peer: name for peer, name in found.items() if name}

    def spans(self) -> list[Span]:
        """The valid spans in the directory now, plus this node's own."""
        found = parse_spans(self.directory.known(PREFIX))
        self._last_holders.note((s for s in found if s.peer != self.node_id), self._name_of)
        return with_own(found, self.stage_server.spans())

    def health(self) -> Iterator[HealthWarning]:
        """Models that cannot be used, or not yet."""
        if self.list.problem:
            yield HealthWarning("shards.added", self.list.problem)
        for name, loading in self.loading().items():
            doing = self.models[name].doing
            text = f"model {name}: {coming_text(loading, self.node_id, self.backend.who, doing)}"
            if self.models[name].state != "restarting" and not self.models[name].problem:
                yield HealthWarning("shards.loading", text, "info")
        for name, model in self.models.items():
            holder = model.holder
            if model.problem:
                yield HealthWarning("shards.model", f"model {name}: {model.problem}", "error")
            elif holder is not None and holder.state == "failed":
                yield HealthWarning("shards.load", f"model {name}: {holder.problem}", "error")
            elif holder is not None and holder.state == "restarting":
                text = f"the worker of model {name} is restarted: {holder.problem}"
                yield HealthWarning("shards.worker", text)
