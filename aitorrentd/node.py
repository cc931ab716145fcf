"""Node: one aitorrentd inside a Python program.

    async with Node({"node": {"state_dir": "/tmp/a"}}) as node:
        await node.connect("203.0.113.1:8468")
        print(await node.ask("What is a shard?"))

The daemon is this class with signals and a service manager around it (see `aitorrentd.main`).
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

from pydantic import ValidationError

from aitorrentd.api.events import DirectoryChanged, Event
from aitorrentd.api.ids import PeerId
from aitorrentd.api.models.inference import INFERENCE, Chunk, GenerateRequest
from aitorrentd.api.models.messages import Message
from aitorrentd.api.models.sampling import SamplingParams
from aitorrentd.api.models.views import ModelView
from aitorrentd.api.network.transport import TRANSPORT, PeerView
from aitorrentd.errors import InvalidParams, TimedOut
from aitorrentd.methods.inside import InsideDoor
from aitorrentd.methods.serving import serve_control
from aitorrentd.runtime.runtime import Runtime
from aitorrentd.validation import problems

if TYPE_CHECKING:
    from aitorrentd.config import Config
    from aitorrentd.kernel.found import PluginSource

E = TypeVar("E", bound=Event)
# Backends that relay to another server change without a directory event.
_LOOK_AGAIN_S: Final = 1.0

Prompt = str | Sequence[Message | Mapping[str, str]]
"A text, or the turns of a conversation, each with its role and content."


class Node(Runtime):
    """A node for embedding programs; arguments as in Runtime.

    Methods that need a plugin raise Unavailable while that plugin is not running.
    """

    def __init__(
        self,
        config: Config | Mapping[str, Any] | str | Path | None = None,
        *,
        name: str | None = None,
        sources: Sequence[PluginSource] | None = None,
        sockets: Sequence[socket.socket] = (),
        given: Mapping[str, Sequence[socket.socket]] | None = None,
    ) -> None:
        super().__init__(
            config,
            serve=serve_control,
            name=name,
            sources=sources,
            sockets=sockets,
            given=given,
            control=InsideDoor,
        )

    @classmethod
    def temporary(
        cls,
        config: Mapping[str, Any] | None = None,
        *,
        name: str | None = None,
        sources: Sequence[PluginSource] | None = None,
    ) -> Self:
        """A node whose state is deleted when it stops, without a control socket.

        For tests and examples. It uses free ports on the loopback interface, unless `config`
        overrides that.
        """
        directory = Path(tempfile.gettempdir()) / f"aitorrent-{secrets.token_hex(8)}"
        tree = dict(config or {})
        tree["node"] = {**(tree.get("node") or {}), "state_dir": str(directory)}
        tree["control"] = {"socket": None, **(tree.get("control") or {})}
        plugins = dict(tree.get("plugins") or {})
        transport = {"listen": "127.0.0.1", "port": 0, **(plugins.get("transport") or {})}
        nat = {"port": 0, "upnp": False, **(plugins.get("nat") or {})}
        tree["plugins"] = {**plugins, "transport": transport, "nat": nat}
        node = cls(tree, name=name, sources=sources)
        node._throw_away = directory
        return node

    async def connect(self, address: str, *, timeout_s: float = 10.0) -> PeerView:
        """Connect to a peer by multiaddr or host:port; errors as in Transport.connect."""
        return await self.service(TRANSPORT).connect(address, timeout_s=timeout_s)

    async def disconnect(self, peer: PeerId) -> None:
        """Disconnect from a peer."""
        await self.service(TRANSPORT).disconnect(peer)

    async def ping(self, peer: PeerId, *, timeout_s: float = 10.0) -> float:
        """Round-trip time to a connected peer, in seconds."""
        return await self.service(TRANSPORT).ping(peer, timeout_s=timeout_s)

    async def broadcast(self, text: str) -> int:
        """Send a message to every connected peer; returns their number."""
        return await self.service(TRANSPORT).broadcast(text)

    async def models(self) -> Sequence[ModelView]:
        """Models that this node and its connected peers can answer with now."""
        return await self.service(INFERENCE).models()

    async def wait_for_model(self, name: str, *, timeout_s: float = 60.0) -> ModelView:
        """The model, as soon as this node can answer with it.

        Raises:
            TimedOut: not within `timeout_s`.
        """
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    with self.events(DirectoryChanged) as changes:
                        for model in await self.models():
                            if model.name == name:
                                return model
                        with contextlib.suppress(TimeoutError, StopAsyncIteration):
                            await asyncio.wait_for(anext(changes), _LOOK_AGAIN_S)
        except TimeoutError:
            raise TimedOut(f"no model {name!r} within {timeout_s:g} s") from None

    async def generate(
        self,
        prompt: Prompt,
        *,
        model: str = "",
        backend: str | None = None,
        raw: bool = False,
        **params: Any,
    ) -> AsyncIterator[Chunk]:
        """The answer to a prompt or a conversation, piece by piece.

        The model's chat template is applied to a prompt, unless `raw` is set.

        `params` are those of SamplingParams, such as temperature, seed, stop and max_tokens.

        Raises:
            InvalidParams: a parameter is unknown or out of range; otherwise as in
            Inference.generate.
        """
        request = _request(prompt, model, raw, params)
        chunks = self.service(INFERENCE).generate(request, backend=backend)
        try:
            async for chunk in chunks:
                yield chunk
        finally:
            # Stops the work behind an answer that is not read to its end.
            if isinstance(chunks, AsyncGenerator):
                await chunks.aclose()

    async def ask(
        self,
        prompt: Prompt,
        *,
        model: str = "",
        backend: str | None = None,
        **params: Any,
    ) -> str:
        """The whole answer as text; arguments and errors as in `generate`."""
        answer = self.generate(prompt, model=model, backend=backend, **params)
        return "".join([chunk.text async for chunk in answer])

    def on(
        self, kind: type[E], callback: Callable[[E], Awaitable[None] | None]
    ) -> Callable[[], None]:
        """Call `callback`, plain or async, with each event of `kind`; returns an unsubscribe
        function.

        May be called before the node is started, so that no event is missed. A callback that
        raises is logged and called again with the next event.
        """
        return self._callbacks.add(kind, callback)

    def events(self, *kinds: type[E]) -> AbstractContextManager[AsyncIterator[E | Event]]:
        """Events of these kinds: `with node.events(PeerConnected) as events:`, `async for`."""
        return self.kernel.bus.subscribe(*kinds)


def _request(prompt: Prompt, model: str, raw: bool, params: Mapping[str, Any]) -> GenerateRequest:
    if unknown := sorted(set(params) - set(SamplingParams.model_fields)):
        raise InvalidParams(
            f"unknown parameter {unknown[0]}; known parameters: "
            + ", ".join(SamplingParams.model_fields)
        )
    asked: dict[str, Any] = {"model": model, "params": dict(params)}
    if isinstance(prompt, str):
        asked |= {"prompt": prompt, "raw": raw}
    else:
        asked["messages"] = list(prompt)
    try:
        return GenerateRequest.model_validate(asked)
    except ValidationError as e:
        raise InvalidParams("; ".join(map(str, problems((), e, GenerateRequest)))) from None
