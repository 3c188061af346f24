"""`neolayer roles`: what may be allowed, who holds it, and why access is given or refused."""

from __future__ import annotations

from typing import Annotated, Any

from cyclopts import App, Parameter

from neolayer.cli.output import say, write_json, write_line, write_table
from neolayer.cli.principals import ServiceOption, UserOption, find_principal
from neolayer.cli.root import app as root
from neolayer.cli.values import Zoned
from neolayer.cli.within_tenant import TenantOption, tenant_scope
from neolayer.identity import Role, Roles

app = App(name="roles", help="Roles of a tenant and who holds them.")
root.command(app)

AsJson = Annotated[bool, Parameter(name="--json", help="Write JSON to stdout.")]
Until = Annotated[
    Zoned | None, Parameter(help="When the grant ends, as 2030-01-31T12:00:00+00:00.")
]
Name = Annotated[str, Parameter(help="Name of the role.")]
Description = Annotated[str | None, Parameter(help="What the role is for.")]
Permissions = Annotated[
    str, Parameter(help="What it allows, with commas: wallets:read,documents:* (may be empty).")
]


@app.command(name="list")
async def show(*, tenant: TenantOption, as_json: AsJson = False) -> None:
    """List the platform's roles and the tenant's own, with what they allow.

    Example: neolayer roles list --tenant acme
    """
    async with tenant_scope(tenant) as (_, scope):
        roles = await Roles(scope).list()
    if as_json:
        write_json([_role(role) for role in roles])
        return
    write_table(
        ("role", "of", "allows", "description"),
        [
            (
                r.name,
                "platform" if r.is_system else "tenant",
                ", ".join(r.permissions),
                r.description,
            )
            for r in roles
        ],
    )


@app.command
async def permissions(*, tenant: TenantOption, as_json: AsJson = False) -> None:
    """List every permission that a role can allow, wildcards included.

    Example: neolayer roles permissions --tenant acme
    """
    async with tenant_scope(tenant) as (_, scope):
        catalogue = await Roles(scope).permissions()
    if as_json:
        write_json([{"name": name, "description": text} for name, text in catalogue])
    else:
        write_table(("permission", "to"), catalogue)


@app.command
async def create(
    name: Name,
    /,
    permissions: Permissions,
    *,
    tenant: TenantOption,
    description: Description = None,
    as_json: AsJson = False,
) -> None:
    """Make a role of the tenant's own.

    Example: neolayer roles create clerk wallets:read,documents:* --tenant acme
    """
    async with tenant_scope(tenant) as (_, scope):
        role = await Roles(scope).create(name, _names(permissions), description=description)
    _answer(role, as_json=as_json, word="made")


@app.command
async def update(
    name: Name,
    /,
    permissions: Permissions,
    *,
    tenant: TenantOption,
    description: Description = None,
    as_json: AsJson = False,
) -> None:
    """Replace what a role of the tenant's own allows; whoever holds it has it within a second.

    Example: neolayer roles update clerk wallets:read,wallets:sign --tenant acme
    """
    async with tenant_scope(tenant) as (_, scope):
        role = await Roles(scope).update(name, _names(permissions), description=description)
    _answer(role, as_json=as_json, word="changed")


@app.command
async def delete(name: Name, /, *, tenant: TenantOption, as_json: AsJson = False) -> None:
    """Delete a role of the tenant's own, and take it from whoever holds it.

    Example: neolayer roles delete clerk --tenant acme
    """
    async with tenant_scope(tenant) as (_, scope):
        await Roles(scope).delete(name)
    if as_json:
        write_json({"role": name, "deleted": True})
    else:
        say(f"deleted the role {name}")


@app.command
async def grant(
    role: Name,
    /,
    *,
    tenant: TenantOption,
    user: UserOption = None,
    service: ServiceOption = None,
    until: Until = None,
    as_json: AsJson = False,
) -> None:
    """Grant a role to a user or service, or give a grant another end.

    Example: neolayer roles grant signer --user ann@example.com --tenant acme
    """
    async with tenant_scope(tenant) as (_, scope):
        to = await find_principal(scope, user=user, service=service)
        await Roles(scope).grant(role, to=to, expires_at=until)
    if as_json:
        write_json({"role": role, "principal": str(to), "expires_at": until})
    else:
        say(f"granted {role} to {to}")


@app.command
async def revoke(
    role: Name,
    /,
    *,
    tenant: TenantOption,
    user: UserOption = None,
    service: ServiceOption = None,
    as_json: AsJson = False,
) -> None:
    """Take a role from a user or service; the last owner keeps theirs.

    Example: neolayer roles revoke signer --user ann@example.com --tenant acme
    """
    async with tenant_scope(tenant) as (_, scope):
        of = await find_principal(scope, user=user, service=service)
        was_granted = await Roles(scope).revoke(role, of=of)
    if as_json:
        write_json({"role": role, "principal": str(of), "was_granted": was_granted})
    else:
        say(f"took {role} from {of}" if was_granted else f"{of} did not have {role}")


@app.command
async def explain(
    permission: Annotated[str, Parameter(help="Such as wallets:sign.")],
    /,
    *,
    tenant: TenantOption,
    user: UserOption = None,
    service: ServiceOption = None,
    as_json: AsJson = False,
) -> int:
    """Say why a user or service may do something, or may not; exit code 1 where not.

    Example: neolayer roles explain wallets:sign --user ann@example.com --tenant acme
    """
    async with tenant_scope(tenant) as (_, scope):
        principal = await find_principal(scope, user=user, service=service)
        explanation = await Roles(scope).explain(principal, permission)
    if as_json:
        write_json(
            {
                "principal": str(principal),
                "permission": permission,
                "is_allowed": explanation.is_allowed,
                "barred": explanation.barred,
                "given_by": [g.role for g, _ in explanation.given_by],
                "ended": [g.role for g, _ in explanation.ended],
                "would_give": list(explanation.would_give),
                "sentences": explanation.sentences(),
            }
        )
    else:
        for sentence in explanation.sentences():
            write_line(sentence)
    return int(not explanation.is_allowed)


def _names(permissions: str) -> list[str]:
    return [name for name in (part.strip() for part in permissions.split(",")) if name]


def _answer(role: Role, *, as_json: bool, word: str) -> None:
    if as_json:
        write_json(_role(role))
    else:
        say(f"{word} the role {role.name}: {', '.join(role.permissions) or 'allows nothing'}")


def _role(role: Role) -> dict[str, Any]:
    return {
        "name": role.name,
        "id": role.id,
        "is_system": role.is_system,
        "permissions": list(role.permissions),
        "description": role.description,
    }
