"""Control methods of NAT traversal: `nat.*`."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import BaseModel, ConfigDict, Field

from aitorrent_nat.service import NatService
from aitorrentd.api import CallContext, Method, NoParams


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class StatusResult(_Model):
    """What NAT traversal does."""

    parts: dict[str, str] = Field(description="what each part does now, by its name")


def nat_methods(service: NatService) -> Iterator[Method]:
    """All methods."""

    def status(call: CallContext, params: BaseModel) -> StatusResult:
        return StatusResult(parts={part.name: part.state() for part in service.parts})

    yield Method("nat.status", status, "What NAT traversal does.", NoParams, StatusResult)
