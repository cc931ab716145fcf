"""The plugin: its declarations and its lifespan."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

from pydantic import BaseModel, Field

from aitorrent_hello.service import HELLO, Greeter
from aitorrent_hello.wire import PROTOCOL, answer, ask
from aitorrentd.api import (
    TRANSPORT,
    AitorrentError,
    CallContext,
    Event,
    InvalidParams,
    Method,
    PeerConnected,
    PeerId,
    PluginConfig,
    PluginContext,
    PluginInfo,
    Role,
    WireProtocol,
    hookimpl,
    parse_peer_id,
    short,
)


class HelloConfig(PluginConfig):
    """`plugins.hello` in aitorrent.yaml."""

    greeting: str = Field("Hello", min_length=1, max_length=64)
    welcome: bool = True


class GreetParams(BaseModel):
    name: str = "world"
    peer: str = Field(
        "", description="id of the connected peer that sends the greeting; empty = this node"
    )


class Greeting(BaseModel):
    text: str


@dataclass(frozen=True, slots=True)
class Greeted(Event):
    """A peer greeted this node."""

    topic = "hello.greeted"

    peer: PeerId
    text: str


class HelloPlugin:
    """One instance per node; everything that belongs to a run is created in the lifespan."""

    @hookimpl
    def aitorrent_info(self) -> PluginInfo:
        return PluginInfo(
            name="hello",
            summary="greets people and peers",
            provides=(HELLO,),
            wants=(TRANSPORT,),
            config=HelloConfig,
        )

    @hookimpl
    @asynccontextmanager
    async def aitorrent_lifespan(self, ctx: PluginContext) -> AsyncIterator[None]:
        ctx.provide(HELLO, Greeter(ctx.config.greeting))
        if ctx.config.welcome:
            ctx.tasks.create_task(meet(ctx), name="meet")
        yield

    @hookimpl
    def aitorrent_methods(self, ctx: PluginContext) -> list[Method]:
        return [
            Method(
                "hello.greet",
                partial(greet, ctx),
                "Greet a person.",
                params=GreetParams,
                result=Greeting,
                role=Role.OPERATE,
            )
        ]

    @hookimpl
    def aitorrent_protocols(self, ctx: PluginContext) -> list[WireProtocol]:
        return [WireProtocol(PROTOCOL, partial(answer, ctx.service(HELLO)), max_streams=4)]


async def greet(ctx: PluginContext, call: CallContext, params: GreetParams) -> Greeting:
    """`hello.greet`."""
    if not params.peer:
        return Greeting(text=ctx.service(HELLO).greet(params.name))
    try:
        peer = parse_peer_id(params.peer)
    except ValueError as e:
        raise InvalidParams(str(e)) from None
    call.progress(f"asking {short(peer)}")
    return Greeting(text=await ask(ctx.service(TRANSPORT), peer, params.name))


async def meet(ctx: PluginContext) -> None:
    """Ask every peer that connects for a greeting."""
    while True:
        # a subscription that falls behind ends; subscribe again, missed events do not matter
        with ctx.subscribe(PeerConnected) as events:
            async for event in events:
                if isinstance(event, PeerConnected):
                    await hear(ctx, event.peer)


async def hear(ctx: PluginContext, peer: PeerId) -> None:
    """Ask one peer for its greeting; many lack the plugin, which is not an error."""
    transport = ctx.optional(TRANSPORT)
    if transport is None:
        return
    try:
        text = await ask(transport, peer, short(ctx.identity.peer_id))
    except AitorrentError as e:
        ctx.log.debug("no greeting from %s: %s", short(peer), e)
        return
    ctx.log.info("%s says: %s", short(peer), text)
    ctx.publish(Greeted(peer, text))
