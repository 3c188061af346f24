"""`neolayer tenants`: who is on this layer, and what each may have."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Annotated, Any

import orjson
from cyclopts import App, Parameter

from neolayer.cli.output import say, write_json, write_table
from neolayer.cli.root import app as root
from neolayer.cli.root import invocation
from neolayer.cli.values import Count
from neolayer.cli.within_tenant import platform_scope
from neolayer.errors import InvalidInput, visible
from neolayer.platform import endpoints
from neolayer.tenancy import Allowance, Tenant, Tenants, Tier
from neolayer.tenancy.directory import PAGE, open_directory

app = App(name="tenants", help="Tenants: make, show, change, close and reopen them.")
root.command(app)

AsJson = Annotated[bool, Parameter(name="--json", help="Write JSON to stdout.")]
Named = Annotated[str, Parameter(help="Identifier or id of the tenant.")]


@app.command
async def create(
    identifier: Annotated[str, Parameter(help="Public name in addresses: a-z, 0-9 and dashes.")],
    /,
    *,
    name: Annotated[str | None, Parameter(help="Name for people (default: identifier).")] = None,
    tier: Annotated[Tier, Parameter(help="Which decides the limits.")] = Tier.FREE,
    as_json: AsJson = False,
) -> None:
    """Make a tenant.

    Example: neolayer tenants create acme --name "Acme Ltd" --tier pro
    """
    async with platform_scope() as (_, scope):
        made = await Tenants(scope).create(
            name=name or identifier, identifier=identifier, tier=tier
        )
    _answer(made, as_json=as_json, done=f"Made {made.identifier}, {made.id}.")


@app.command(name="list")
async def list_tenants(
    *,
    tier: Annotated[Tier | None, Parameter(help="Only tenants of this tier.")] = None,
    deleted: Annotated[bool, Parameter(help="Deleted tenants too.")] = False,
    after: Annotated[str, Parameter(help="Begin after this identifier.")] = "",
    limit: Annotated[Count, Parameter(help="So many at most.")] = PAGE,
    as_json: AsJson = False,
) -> None:
    """List tenants by identifier.

    Example: neolayer tenants list --tier pro --json
    """
    async with open_directory(endpoints(invocation().settings)) as directory:
        found = await directory.list(tier=tier, deleted=deleted, after=after, limit=limit)
    if as_json:
        write_json([_plain(each) for each in found])
        return
    columns = ("identifier", "name", "tier", "id", "deleted")
    rows = [(each.identifier, each.name, each.tier, each.id, _day(each)) for each in found]
    write_table(columns, rows)
    if len(found) == limit:
        say(f"There may be more: --after {found[-1].identifier}")


@app.command
async def show(tenant: Named, /, *, as_json: AsJson = False) -> None:
    """Show a tenant, its limits and what it uses of them.

    Example: neolayer tenants show acme
    """
    async with _found(tenant) as (verbs, found):
        allowances = await verbs.allowances(found.id)
    if as_json:
        write_json(_plain(found, allowances))
        return
    facts = [
        *(("identifier", found.identifier), ("name", found.name), ("id", found.id)),
        *(("tier", found.tier), ("made", found.created_at), ("deleted", found.deleted_at)),
        ("settings", orjson.dumps(found.settings).decode()),
    ]
    write_table(("what", "value"), facts)
    write_table(("limit", "allowed", "used"), [_limit_row(each) for each in allowances])


@app.command
async def rename(
    tenant: Named,
    name: Annotated[str, Parameter(help="The new name.")],
    /,
    *,
    as_json: AsJson = False,
) -> None:
    """Change a tenant's name for people; its identifier stays.

    Example: neolayer tenants rename acme "Acme & Sons"
    """
    async with _found(tenant) as (verbs, found):
        changed = await verbs.rename(found.id, name)
    _answer(changed, as_json=as_json, done=f"{changed.identifier} is named {changed.name}.")


@app.command
async def tier(
    tenant: Named,
    to: Annotated[Tier, Parameter(help="The new tier.")],
    /,
    *,
    as_json: AsJson = False,
) -> None:
    """Put a tenant on another tier; its limits change at once, what it has stays.

    Example: neolayer tenants tier acme enterprise
    """
    async with _found(tenant) as (verbs, found):
        changed = await verbs.change_tier(found.id, to)
    _answer(changed, as_json=as_json, done=f"{changed.identifier} is on tier {changed.tier}.")


@app.command
async def limits(
    tenant: Named,
    /,
    *limit: Annotated[str, Parameter(help="NAME=NUMBER, NAME=none (no limit), NAME=tier.")],
    as_json: AsJson = False,
) -> None:
    """Show a tenant's limits, or change some of them; others stay as they are.

    Example: neolayer tenants limits acme users=40 documents=none wallets=tier
    """
    wanted = _parsed_limits(limit)
    async with _found(tenant) as (verbs, found):
        if wanted:
            kept = {**found.limits, **wanted}
            chosen = {name: value for name, value in kept.items() if value != _TIER}
            found = await verbs.set_limits(found.id, chosen)
        allowances = await verbs.allowances(found.id)
    if as_json:
        write_json(_plain(found, allowances))
    else:
        write_table(("limit", "allowed", "used"), [_limit_row(each) for each in allowances])


@app.command
async def settings(
    tenant: Named,
    /,
    *setting: Annotated[str, Parameter(help="KEY=JSON, or KEY= to take it out.")],
    as_json: AsJson = False,
) -> None:
    """Show a tenant's settings, or change some of them; others stay as they are.

    Example: neolayer tenants settings acme theme='"dark"' beta=true old=
    """
    wanted = dict(map(_parsed_setting, setting))
    async with _found(tenant) as (verbs, found):
        if wanted:
            found = await verbs.change_settings(found.id, wanted)
    if as_json:
        write_json(found.settings)
    else:
        rows = [(key, orjson.dumps(value).decode()) for key, value in found.settings.items()]
        write_table(("setting", "value"), rows)


@app.command
async def delete(
    tenant: Named,
    /,
    *,
    yes: Annotated[bool, Parameter(help="Really.")] = False,
    as_json: AsJson = False,
) -> None:
    """Close a tenant: at once nobody but operators sees anything of it. Its data stays.

    Example: neolayer tenants delete acme --yes
    """
    async with _found(tenant) as (verbs, found):
        if not yes:
            raise InvalidInput(
                f"{found.identifier} would be closed to all its people", hint="say so with --yes"
            )
        closed = await verbs.delete(found.id)
    done = f"{closed.identifier} is closed; open it again: neolayer tenants restore {closed.id}"
    _answer(closed, as_json=as_json, done=done)


@app.command
async def restore(tenant: Named, /, *, as_json: AsJson = False) -> None:
    """Open a deleted tenant again, with all it had.

    Example: neolayer tenants restore acme
    """
    async with _found(tenant) as (verbs, found):
        opened = await verbs.restore(found.id)
    _answer(opened, as_json=as_json, done=f"{opened.identifier} is open again.")


_TIER = -1  # "as the tier says": no limit is negative


@asynccontextmanager
async def _found(text: str) -> AsyncGenerator[tuple[Tenants, Tenant]]:
    """The verbs, and the tenant of an id or identifier, deleted or not."""
    async with platform_scope() as (at, scope):
        async with open_directory(at) as directory:
            tenant = await directory.find(text)
        yield Tenants(scope), tenant


def _parsed_limits(limits: Sequence[str]) -> dict[str, int | None]:
    """`NAME=NUMBER` and so on. Raises InvalidInput."""
    found: dict[str, int | None] = {}
    for text in limits:
        name, _, value = text.partition("=")
        if value in ("none", "tier"):
            found[name] = None if value == "none" else _TIER
        elif value.isascii() and value.isdigit() and len(value) < 20:
            found[name] = int(value)
        else:
            raise InvalidInput(
                f"not a limit: {visible(text)[:100]!r}", hint="NAME=NUMBER, NAME=none or NAME=tier"
            )
    return found


def _parsed_setting(text: str) -> tuple[str, Any]:
    """`KEY=JSON`; without a value None. Raises InvalidInput."""
    key, equals, value = text.partition("=")
    try:
        if key and equals:
            return key, orjson.loads(value) if value else None
    except orjson.JSONDecodeError:
        pass
    raise InvalidInput(
        f"not a setting: {visible(text)[:100]!r}", hint="KEY=JSON, such as theme='\"dark\"'"
    )


def _answer(tenant: Tenant, *, as_json: bool, done: str) -> None:
    if as_json:
        write_json(_plain(tenant))
    else:
        say(done)


def _plain(tenant: Tenant, allowances: Sequence[Allowance] = ()) -> dict[str, Any]:
    """A tenant for JSON, with the limits in force where they were read."""
    found: dict[str, Any] = {
        "id": str(tenant.id),
        "identifier": tenant.identifier,
        "name": tenant.name,
        "tier": tenant.tier,
        "settings": tenant.settings,
        "limits": tenant.limits,
        "created_at": tenant.created_at.isoformat(),
        "updated_at": tenant.updated_at.isoformat(),
        "deleted_at": tenant.deleted_at.isoformat() if tenant.deleted_at else None,
    }
    if allowances:
        found["allowances"] = {
            each.limit: {"allowed": each.allowed, "used": each.used} for each in allowances
        }
    return found


def _limit_row(allowance: Allowance) -> tuple[object, ...]:
    allowed = "no limit" if allowance.allowed is None else allowance.allowed
    return (allowance.limit, allowed, allowance.used)


def _day(tenant: Tenant) -> str:
    return tenant.deleted_at.date().isoformat() if tenant.deleted_at else ""
