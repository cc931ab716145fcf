"""Everything that the mirror does not answer itself goes to the Hub and back as it is."""

from __future__ import annotations

from collections.abc import AsyncIterator

from aitorrent_hub.mirror import replies
from aitorrent_hub.mirror.requests import Request
from aitorrent_hub.upstream.asking import Hub
from aitorrent_hub.upstream.headers import for_client
from aitorrentd.api import AitorrentError
from aitorrentd.api.faces.asgi import Aborted, Receive, Send


def mirror_of(request: Request) -> str:
    """The origin under which the client knows the mirror."""
    return f"http://{request.host}"


def passed_body(request: Request, receive: Receive) -> AsyncIterator[bytes] | None:
    """The body of a request as it arrives, or None if it has none."""
    length = request.asks.get("content-length", "")
    if not request.asks.get("transfer-encoding") and (not length or length == "0"):
        return None
    return _body(receive)


async def _body(receive: Receive) -> AsyncIterator[bytes]:
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Aborted
        if message.get("body"):
            yield message["body"]
        if not message.get("more_body"):
            return


async def pass_through(hub: Hub, request: Request, send: Send, receive: Receive) -> None:
    """Answer as the Hub does.

    Raises:
        Aborted: the Hub broke off.
    """
    has_begun = False
    try:
        client = await hub.client()
        body = passed_body(request, receive)
        async with client.opened(request.method, request.target, request.headers, body=body) as got:
            headers = for_client(got.headers, upstream=hub.origin, mirror=mirror_of(request))
            has_begun = True
            if request.method == "HEAD" or body is not None:
                # The client's own body may still be on its way: nothing else can be received.
                await replies.start(send, got.status, headers)
                if request.method != "HEAD":
                    async for part in got.parts():
                        await send({"type": "http.response.body", "body": part, "more_body": True})
                await replies.end(send)
            else:
                await replies.stream(send, receive, got.status, headers, b"", got.parts())
    except AitorrentError as e:
        if has_begun:
            raise Aborted from None
        await replies.fail(send, e)
