"""The mirror as an ASGI application: who may ask, and who answers what."""

from __future__ import annotations

from collections import Counter

from aitorrent_hub.mirror import replies
from aitorrent_hub.mirror.documents import DocumentAnswers
from aitorrent_hub.mirror.files import FileAnswers
from aitorrent_hub.mirror.passing import pass_through
from aitorrent_hub.mirror.requests import asked_of, is_trustworthy, place_of, request_of
from aitorrent_hub.upstream.asking import Hub
from aitorrentd.api.faces.asgi import Message, Receive, Send


class Mirror:
    """An endpoint for `HF_ENDPOINT`."""

    def __init__(
        self,
        hub: Hub,
        files: FileAnswers,
        documents: DocumentAnswers,
        hosts: tuple[str, ...],
    ) -> None:
        self._hub = hub
        self._files = files
        self._documents = documents
        self._hosts = hosts
        self.counts: Counter[str] = Counter()
        "Requests since the start: files, documents, passed, refused."

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request."""
        request = request_of(scope)
        if not is_trustworthy(request, self._hosts):
            self.counts["refused"] += 1
            await replies.explain(
                send,
                403,
                f"{request.host} is no name of this mirror, or a web page asks; add the name to"
                " plugins.hub.hosts",
            )
            return
        is_reading = request.method in ("GET", "HEAD")
        place = place_of(request) if is_reading else None
        asked = asked_of(request)
        if place is not None:
            self.counts["files"] += 1
            await self._files.answer(request, place, send, receive)
        elif asked is not None and (is_reading or asked.what == "paths-info"):
            self.counts["documents"] += 1
            await self._documents.answer(request, asked, send, receive)
        else:
            self.counts["passed"] += 1
            await pass_through(self._hub, request, send, receive)
