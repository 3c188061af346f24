"""The tenant of the token, and for operators all of them."""

from __future__ import annotations

from typing import Any

from litestar import Router, delete, get, patch, post
from litestar.params import JSONBody
from msgspec import UNSET, Struct, UnsetType, field

from neolayer.api.fields import Body, Id, Line
from neolayer.api.layer import DEPENDENCIES, Acme, Asking, Opened, operators_only, requires
from neolayer.api.pages import After, PageSize, begin, end
from neolayer.tenancy import Allowance, Tenant
from neolayer.tenancy.cursors import Pages
from neolayer.tenancy.model import Limit, Tier


class TenantPatch(Body, kw_only=True):
    """What a tenant may change of itself; a setting of null is taken out."""

    name: Line | UnsetType = UNSET
    settings: dict[str, Any] | UnsetType = UNSET


class NewTenant(Body, kw_only=True):
    name: Line
    identifier: Line
    tier: Tier = Tier.FREE
    limits: dict[Limit, int | None] = field(default_factory=dict[Limit, int | None])


class OperatorPatch(Body, kw_only=True):
    """What only operators change."""

    name: Line | UnsetType = UNSET
    tier: Tier | UnsetType = UNSET
    limits: dict[Limit, int | None] | UnsetType = UNSET


class TenantPage(Struct):
    items: list[Tenant]
    after: str | None


@get("/", **requires("tenants:read"))
async def my_tenant(request: Asking, acme: Acme) -> Tenant:
    """The tenant of the token."""
    return await acme.tenants.get(request.auth.tenant)


@get("/limits", **requires("tenants:read"))
async def my_limits(request: Asking, acme: Acme) -> list[Allowance]:
    """Every limit, and what is used of it."""
    return await acme.tenants.allowances(request.auth.tenant)


@patch("/", **requires("tenants:update"))
async def change_my_tenant(request: Asking, acme: Acme, data: JSONBody[TenantPatch]) -> Tenant:
    """Another name, other settings."""
    tenant = request.auth.tenant
    if not isinstance(data.name, UnsetType):
        await acme.tenants.rename(tenant, data.name)
    if not isinstance(data.settings, UnsetType):
        await acme.tenants.change_settings(tenant, data.settings)
    return await acme.tenants.get(tenant)


mine = Router(
    "/v1/tenant",
    route_handlers=[my_tenant, my_limits, change_my_tenant],
    dependencies=DEPENDENCIES,
    tags=["tenants"],
)


@post("/", **operators_only())
async def create(platform: Opened, data: JSONBody[NewTenant]) -> Tenant:
    """A new tenant."""
    return await platform.tenants.create(
        name=data.name, identifier=data.identifier, tier=data.tier, limits=_plain(data.limits)
    )


@get("/", **operators_only())
async def list_all(platform: Opened, after: After = None, limit: PageSize = 100) -> TenantPage:
    """Tenants by identifier; `after` is where the next page begins, null at the end."""
    pages = Pages(platform.tenants.scope, "tenants")
    found = await platform.list_tenants(after=begin(pages, after), limit=limit)
    return TenantPage(found, end(pages, [tenant.identifier for tenant in found], limit))


@get("/{tenant_id:uuid}", **operators_only())
async def show(platform: Opened, tenant_id: Id) -> Tenant:
    """One tenant, deleted ones too."""
    return await platform.tenants.get(tenant_id)


@patch("/{tenant_id:uuid}", **operators_only())
async def change(platform: Opened, tenant_id: Id, data: JSONBody[OperatorPatch]) -> Tenant:
    """Another name, tier or limits."""
    if not isinstance(data.name, UnsetType):
        await platform.tenants.rename(tenant_id, data.name)
    if not isinstance(data.tier, UnsetType):
        await platform.tenants.change_tier(tenant_id, data.tier)
    if not isinstance(data.limits, UnsetType):
        await platform.tenants.set_limits(tenant_id, _plain(data.limits))
    return await platform.tenants.get(tenant_id)


@delete("/{tenant_id:uuid}", **operators_only())
async def remove(platform: Opened, tenant_id: Id) -> None:
    """Close a tenant: nobody but operators sees a row of it from now on."""
    await platform.tenants.delete(tenant_id)


@post("/{tenant_id:uuid}/restore", **operators_only())
async def restore(platform: Opened, tenant_id: Id) -> Tenant:
    """Open a deleted tenant again."""
    return await platform.tenants.restore(tenant_id)


def _plain(limits: dict[Limit, int | None]) -> dict[str, int | None]:
    return {str(limit): value for limit, value in limits.items()}


everybodys = Router(
    "/v1/tenants",
    route_handlers=[create, list_all, show, change, remove, restore],
    dependencies=DEPENDENCIES,
    tags=["operators"],
)
