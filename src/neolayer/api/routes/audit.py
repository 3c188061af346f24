"""Who did what in the tenant."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated
from uuid import UUID

from litestar import Router, get
from litestar.params import FromQuery, QueryParameter
from msgspec import Struct

from neolayer.api.layer import DEPENDENCIES, Acme, requires
from neolayer.api.pages import After, PageSize, begin, end
from neolayer.audit import Action
from neolayer.tenancy.cursors import Pages

Word = Annotated[str | None, QueryParameter(max_length=255)]


class EntryAnswer(Struct):
    """One entry; `number` is its place in the tenant's chain, null until it is sealed."""

    id: UUID
    number: int | None
    occurred_at: datetime
    principal: str
    action: str
    resource: str
    resource_id: str | None
    success: bool
    error_message: str | None
    ip_address: str | None


class EntryPage(Struct):
    items: list[EntryAnswer]
    after: str | None


@get("/", **requires("audit:read"))
async def list_entries(
    acme: Acme,
    resource: Word = None,
    resource_id: Word = None,
    principal: Word = None,
    action: FromQuery[Action | None] = None,
    success: FromQuery[bool | None] = None,
    after: After = None,
    limit: PageSize = 100,
) -> EntryPage:
    """Entries that meet every condition, the newest first; `after` is where the next page begins,
    null at the end."""
    filters: dict[str, object] = {
        "resource": resource,
        "resource_id": resource_id,
        "principal": principal,
        "action": action,
        "success": success,
    }
    pages = Pages(acme.scope, "audit", filters)
    found = await acme.audit.list(
        action=action,
        resource=resource,
        resource_id=resource_id,
        principal=principal,
        success=success,
        before=_place(begin(pages, after)),
        limit=limit,
    )
    items = [
        EntryAnswer(
            id=entry.id,
            number=entry.number,
            occurred_at=entry.occurred_at,
            principal=entry.principal,
            action=entry.action,
            resource=entry.resource,
            resource_id=entry.resource_id,
            success=entry.success,
            error_message=entry.error_message,
            ip_address=entry.ip_address,
        )
        for entry in found
    ]
    places = [f"{entry.occurred_at.isoformat()} {entry.id}" for entry in found]
    return EntryPage(items, end(pages, places, limit))


def _place(written: str) -> tuple[datetime, UUID] | None:
    if not written:
        return None
    at, key = written.split(" ")
    return datetime.fromisoformat(at), UUID(key)


router = Router(
    "/v1/audit", route_handlers=[list_entries], dependencies=DEPENDENCIES, tags=["audit"]
)
