"""`neolayer services`: a tenant's programs and their API keys."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any

from cyclopts import App, Parameter

from neolayer.cli.output import say, write_json, write_table
from neolayer.cli.root import app as root
from neolayer.cli.values import Id, number, whole
from neolayer.cli.within_tenant import TenantOption, tenant_scope
from neolayer.identity import AccessCache, Key, Service, Services

app = App(name="services", help="A tenant's programs, which prove themselves by API keys.")
root.command(app)

AsJson = Annotated[bool, Parameter(name="--json", help="Write JSON to stdout.")]
Name = Annotated[str, Parameter(help="Name of the service.")]
Description = Annotated[str | None, Parameter(help="What the service does.")]
Days = Annotated[int, whole(1, 366), Parameter(help="How long the key lives.")]
Overlap = Annotated[
    float | None,
    number(0, 366 * 24),
    Parameter(name="--rotate-hours", help="End the other keys after so many hours (0: now)."),
]


@app.command(name="list")
async def show(*, tenant: TenantOption, as_json: AsJson = False) -> None:
    """List the tenant's services and their keys, never the keys themselves.

    Example: neolayer services list --tenant acme --json
    """
    async with tenant_scope(tenant) as (core, scope):
        services = Services(scope, AccessCache(core))
        found = [(service, await services.keys(service.id)) for service in await services.list()]
    if as_json:
        write_json([_service(s) | {"keys": [_key(k) for k in keys]} for s, keys in found])
        return
    write_table(
        ("service", "status", "key", "ends", "last used", "description"),
        [
            (s.name, s.status, key.id, key.expires_at, key.last_used_at, s.description)
            for s, keys in found
            for key in [k for k in keys if not k.has_ended]
        ]
        + [(s.name, s.status, None, None, None, s.description) for s, keys in found if not keys],
    )


@app.command
async def create(
    name: Name,
    /,
    *,
    tenant: TenantOption,
    description: Description = None,
    as_json: AsJson = False,
) -> None:
    """Make a service; grant it a role, then make it a key.

    Example: neolayer services create price-feed --tenant acme
    """
    async with tenant_scope(tenant) as (core, scope):
        service = await Services(scope, AccessCache(core)).create(name, description=description)
    if as_json:
        write_json(_service(service))
    else:
        say(f"made the service {service.name}")


@app.command
async def key(
    name: Name,
    /,
    *,
    tenant: TenantOption,
    days: Days = 90,
    overlap: Overlap = None,
    as_json: AsJson = False,
) -> None:
    """Make a key and print it, once; with --rotate-hours the older keys end.

    Example: neolayer services key price-feed --tenant acme --rotate-hours 24
    """
    lifetime = timedelta(days=min(max(days, 0), 10_000))
    async with tenant_scope(tenant) as (core, scope):
        services = Services(scope, AccessCache(core))
        service = await services.get(name)
        if overlap is None:
            made = await services.make_key(service.id, lifetime=lifetime)
        else:
            hours = timedelta(hours=min(max(overlap, -1.0), 100_000.0))
            made = await services.rotate_key(service.id, lifetime=lifetime, overlap=hours)
    if as_json:
        write_json({"id": made.id, "key": made.key, "expires_at": made.expires_at})
    else:
        print(made.key)
        say(f"the key of {name} ends at {made.expires_at:%Y-%m-%d %H:%M %Z}; it is not shown again")


@app.command
async def revoke_key(
    key_id: Annotated[Id, Parameter(help="Id of the key, as list shows it.")],
    /,
    *,
    tenant: TenantOption,
    as_json: AsJson = False,
) -> None:
    """End one key by its id, everywhere within a second.

    Example: neolayer services revoke-key 7d9f4c20-6a51-4e0b-8f3c-1b2a9d8e7f60 --tenant acme
    """
    async with tenant_scope(tenant) as (core, scope):
        await Services(scope, AccessCache(core)).revoke_key(key_id)
    if as_json:
        write_json({"id": key_id, "revoked": True})
    else:
        say(f"revoked the key {key_id}")


@app.command
async def disable(name: Name, /, *, tenant: TenantOption, as_json: AsJson = False) -> None:
    """Stop a service: its keys are refused everywhere within a second.

    Example: neolayer services disable price-feed --tenant acme
    """
    await _set(name, tenant, as_json=as_json, enabled=False)


@app.command
async def enable(name: Name, /, *, tenant: TenantOption, as_json: AsJson = False) -> None:
    """Let a disabled service work again.

    Example: neolayer services enable price-feed --tenant acme
    """
    await _set(name, tenant, as_json=as_json, enabled=True)


async def _set(name: str, tenant: str, *, as_json: bool, enabled: bool) -> None:
    async with tenant_scope(tenant) as (core, scope):
        services = Services(scope, AccessCache(core))
        service = await services.get(name)
        await (services.enable if enabled else services.disable)(service.id)
    if as_json:
        write_json({"name": name, "status": "active" if enabled else "disabled"})
    else:
        say(f"{'enabled' if enabled else 'disabled'} the service {name}")


def _service(service: Service) -> dict[str, Any]:
    return {
        "id": service.id,
        "name": service.name,
        "status": service.status,
        "description": service.description,
        "created_at": service.created_at,
    }


def _key(key: Key) -> dict[str, Any]:
    return {
        "id": key.id,
        "created_at": key.created_at,
        "expires_at": key.expires_at,
        "has_ended": key.has_ended,
        "last_used_at": key.last_used_at,
        "last_ip_address": key.last_ip_address,
    }
