"""Roles, who has them, and why something is allowed or not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from litestar import Router, delete, get, post, put
from litestar.params import JSONBody, PathParameter
from msgspec import Meta, Struct

from neolayer.api.fields import Body, Id, Instant, Line, Note, require_in_range
from neolayer.api.layer import DEPENDENCIES, Acme, requires
from neolayer.identity import Grant, Role
from neolayer.tenancy import Principal

Permissions = Annotated[tuple[Line, ...], Meta(max_length=200)]
Name = Annotated[str, PathParameter(max_length=100)]


class NewRole(Body, kw_only=True):
    name: Line
    permissions: Permissions
    description: Note | None = None


class RoleBody(Body, kw_only=True):
    permissions: Permissions
    description: Note | None = None


class GrantBody(Body, kw_only=True):
    """Without an end the grant stays."""

    expires_at: Instant | None = None

    def __post_init__(self) -> None:
        require_in_range(self.expires_at)


class ExplanationAnswer(Struct):
    """Whether, and why, in sentences."""

    permission: str
    is_allowed: bool
    because: list[str]


@get("/", **requires("roles:read"))
async def list_roles(acme: Acme) -> Sequence[Role]:
    """The platform's roles, then the tenant's own."""
    return await acme.roles.list()


@get("/permissions", **requires("roles:read"))
async def list_permissions(acme: Acme) -> dict[str, str]:
    """Every permission and wildcard, and what it is for."""
    return dict(await acme.roles.permissions())


@post("/", **requires("roles:create"))
async def create(acme: Acme, data: JSONBody[NewRole]) -> Role:
    """A role of the tenant's own."""
    return await acme.roles.create(data.name, data.permissions, description=data.description)


@put("/{name:str}", **requires("roles:update"))
async def change(acme: Acme, name: Name, data: JSONBody[RoleBody]) -> Role:
    """Replace what a role allows."""
    return await acme.roles.update(name, data.permissions, description=data.description)


@delete("/{name:str}", **requires("roles:delete"))
async def remove(acme: Acme, name: Name) -> None:
    """Delete a role, with its grants."""
    await acme.roles.delete(name)


router = Router(
    "/v1/roles",
    route_handlers=[list_roles, list_permissions, create, change, remove],
    dependencies=DEPENDENCIES,
    tags=["roles"],
)


@get("/users/{user_id:uuid}/roles", **requires("roles:read"))
async def grants_of_user(acme: Acme, user_id: Id) -> Sequence[Grant]:
    """What a person was granted, ended grants too."""
    return await acme.roles.grants(Principal.user(user_id))


@put("/users/{user_id:uuid}/roles/{name:str}", status_code=204, **requires("roles:grant"))
async def grant_user(acme: Acme, user_id: Id, name: Name, data: JSONBody[GrantBody]) -> None:
    """Grant a role, or give the grant another end."""
    await acme.roles.grant(name, to=Principal.user(user_id), expires_at=data.expires_at)


@delete("/users/{user_id:uuid}/roles/{name:str}", **requires("roles:grant"))
async def revoke_user(acme: Acme, user_id: Id, name: Name) -> None:
    """Take a role back."""
    await acme.roles.revoke(name, of=Principal.user(user_id))


@get("/users/{user_id:uuid}/access/{permission:str}", **requires("roles:read"))
async def explain_user(acme: Acme, user_id: Id, permission: Name) -> ExplanationAnswer:
    """Why a person may or may not do something."""
    found = await acme.roles.explain(Principal.user(user_id), permission)
    return ExplanationAnswer(permission, found.is_allowed, found.sentences())


@put("/services/{service_id:uuid}/roles/{name:str}", status_code=204, **requires("roles:grant"))
async def grant_service(acme: Acme, service_id: Id, name: Name, data: JSONBody[GrantBody]) -> None:
    """Grant a role to a service."""
    await acme.roles.grant(name, to=Principal.service(service_id), expires_at=data.expires_at)


@delete("/services/{service_id:uuid}/roles/{name:str}", **requires("roles:grant"))
async def revoke_service(acme: Acme, service_id: Id, name: Name) -> None:
    """Take a role back from a service."""
    await acme.roles.revoke(name, of=Principal.service(service_id))


grants = Router(
    "/v1",
    route_handlers=[
        grants_of_user,
        grant_user,
        revoke_user,
        explain_user,
        grant_service,
        revoke_service,
    ],
    dependencies=DEPENDENCIES,
    tags=["roles"],
)
