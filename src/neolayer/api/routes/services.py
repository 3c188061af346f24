"""A tenant's programs and their API keys."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Annotated
from uuid import UUID

from litestar import Router, delete, get, post
from litestar.params import JSONBody
from msgspec import Meta, Struct

from neolayer.api.fields import Body, Id, Line, Note
from neolayer.api.layer import DEPENDENCIES, Acme, requires
from neolayer.identity import Key, Service

Days = Annotated[int, Meta(ge=1, le=366)]
OverlapDays = Annotated[int, Meta(ge=0, le=366)]


class NewService(Body, kw_only=True):
    name: Line
    description: Note | None = None


class NewKeyBody(Body, kw_only=True):
    """A key, valid for so long; with an overlap the older ones end after it."""

    days: Days = 90
    overlap_days: OverlapDays | None = None


class KeyAnswer(Struct):
    """The key, shown once."""

    id: UUID
    key: str
    expires_at: datetime


@get("/", **requires("services:read"))
async def list_services(acme: Acme) -> Sequence[Service]:
    """The tenant's services by name."""
    return await acme.services.list()


@post("/", **requires("services:create"))
async def create(acme: Acme, data: JSONBody[NewService]) -> Service:
    """A service without roles and keys."""
    return await acme.services.create(data.name, description=data.description)


@post("/{service_id:uuid}/disable", status_code=204, **requires("services:update"))
async def disable(acme: Acme, service_id: Id) -> None:
    """Stop a service, everywhere within a second."""
    await acme.services.disable(service_id)


@post("/{service_id:uuid}/enable", status_code=204, **requires("services:update"))
async def enable(acme: Acme, service_id: Id) -> None:
    """Let a disabled service work again."""
    await acme.services.enable(service_id)


@delete("/{service_id:uuid}", **requires("services:delete"))
async def remove(acme: Acme, service_id: Id) -> None:
    """Delete a service with its keys and grants."""
    await acme.services.delete(service_id)


@get("/{service_id:uuid}/keys", **requires("services:read"))
async def list_keys(acme: Acme, service_id: Id) -> Sequence[Key]:
    """A service's keys, the newest first; never the keys themselves."""
    return await acme.services.keys(service_id)


@post("/{service_id:uuid}/keys", **requires("services:update"))
async def make_key(acme: Acme, service_id: Id, data: JSONBody[NewKeyBody]) -> KeyAnswer:
    """A new key, shown once."""
    lifetime = timedelta(days=data.days)
    if data.overlap_days is None:
        made = await acme.services.make_key(service_id, lifetime=lifetime)
    else:
        overlap = timedelta(days=data.overlap_days)
        made = await acme.services.rotate_key(service_id, lifetime=lifetime, overlap=overlap)
    return KeyAnswer(made.id, made.key, made.expires_at)


@delete("/keys/{key_id:uuid}", **requires("services:update"))
async def revoke_key(acme: Acme, key_id: Id) -> None:
    """End one key, everywhere within a second."""
    await acme.services.revoke_key(key_id)


router = Router(
    "/v1/services",
    route_handlers=[
        list_services,
        create,
        disable,
        enable,
        remove,
        list_keys,
        make_key,
        revoke_key,
    ],
    dependencies=DEPENDENCIES,
    tags=["services"],
)
