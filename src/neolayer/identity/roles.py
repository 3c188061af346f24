"""Roles: the platform's and a tenant's own, who holds them, and why access is given or refused.

The platform's roles have no tenant and no copies: owner, admin, member, auditor, signer, service.
A grant may have an end. Whoever gives must hold all of what is given, for as long as it is given.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import LiteralString
from uuid import UUID

from neolayer import audit
from neolayer.engines.postgres.queries import load_queries
from neolayer.errors import InvalidInput, NotFound
from neolayer.identity.guarded import PrincipalNotFound, guarded
from neolayer.identity.model import require_description
from neolayer.identity.permissions import patterns_for, require_permission_name
from neolayer.tenancy import Principal, Scope, Transaction
from neolayer.tenancy.context import Kind
from neolayer.tenancy.retrying import done_again

QUERIES = load_queries(__name__, "access.sql")
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,99}")


class RoleNotFound(NotFound):
    """There is no such role."""


@dataclass(frozen=True, slots=True)
class Role:
    """A role and what it allows. `is_system`: the platform's, the same for all tenants."""

    id: UUID
    name: str
    description: str | None
    is_system: bool
    permissions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Grant:
    """Somebody's role. `granted_by` is the user who gave it; None: an operator, or one who left."""

    role: str
    is_system: bool
    granted_at: datetime
    granted_by: UUID | None
    expires_at: datetime | None
    has_ended: bool
    permissions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a principal may or may not do one thing.

    `given_by` are the grants that give it, each with the pattern that covers it; `ended` those
    that gave it once; `would_give` the roles that would. `barred` says why nothing counts.
    Of a service's living `keys` those `keys_without` were made before it had this: they do not
    carry it.
    """

    principal: Principal
    permission: str
    barred: str | None
    given_by: tuple[tuple[Grant, str], ...]
    ended: tuple[tuple[Grant, str], ...]
    would_give: tuple[str, ...]
    keys: int = 0
    keys_without: int = 0

    @property
    def is_allowed(self) -> bool:
        return self.barred is None and bool(self.given_by)

    def sentences(self) -> list[str]:
        """The explanation for people, the verdict first."""
        verdict = "allowed" if self.is_allowed else "refused"
        lines = [f"{self.permission} is {verdict} for {self.principal}"]
        if self.barred is not None:
            lines.append(f"refused whatever is granted: {self.barred}")
        lines += [_told(grant, pattern) for grant, pattern in self.given_by]
        lines += [f"no longer: {_told(grant, pattern)}" for grant, pattern in self.ended]
        if not self.given_by:
            roles = ", ".join(self.would_give) or "none"
            lines.append(f"no current grant has it; roles that would give it: {roles}")
        if self.given_by and self.keys_without:
            lines.append(
                f"{self.keys_without} of {self.keys} keys were made before the service had this and"
                " do not carry it: make a new one (neolayer services key --rotate-hours HOURS)"
            )
        return lines


def _told(grant: Grant, pattern: str) -> str:
    who = f"user {grant.granted_by}" if grant.granted_by else "an operator"
    until = f", until {grant.expires_at:%Y-%m-%d %H:%M:%S%z}" if grant.expires_at else ""
    given = f"granted {grant.granted_at:%Y-%m-%d} by {who}"
    return f"role {grant.role} has {pattern} ({given}{until})"


@dataclass(frozen=True, slots=True)
class _Found:
    id: UUID
    scope_id: UUID
    is_system: bool


class _NotGranted(Exception):
    """Nothing was taken back, so the audit trail has nothing to tell."""


@dataclass(frozen=True, slots=True)
class Roles:
    """The roles of one tenant and their grants."""

    scope: Scope

    async def list(self) -> Sequence[Role]:
        """The platform's roles, then the tenant's own, by name."""
        rows = await self.scope.fetch(QUERIES.list_roles)
        return [Role(*rest, permissions=tuple(names)) for *rest, names in rows]

    async def get(self, name: str) -> Role:
        """One role by name. Raises RoleNotFound."""
        found = next((role for role in await self.list() if role.name == name), None)
        if found is None:
            raise RoleNotFound
        return found

    async def permissions(self) -> Sequence[tuple[str, str]]:
        """The catalogue: every permission and wildcard with what it is for."""
        return [
            (row[0], row[1]) for row in await self.scope.fetch(QUERIES.catalogue_of_permissions)
        ]

    async def create(
        self, name: str, permissions: Iterable[str], *, description: str | None = None
    ) -> Role:
        """A role of the tenant's own. Raises InvalidInput, NameTaken, EscalationRefused."""
        if _NAME.fullmatch(name) is None:
            raise InvalidInput("a role's name is a-z, digits, - and _, up to 100 characters")
        require_description(description)
        names = sorted(set(permissions))
        entry = audit.Entry("CREATE", "role", name, {"permissions": names})
        async with guarded(self.scope, entry) as tx:
            await _require_known(tx, names)
            row = await tx.one(QUERIES.create_role, {"name": name, "description": description})
            role_id = _only(row)
            await tx.execute(QUERIES.add_permissions, {"role_id": role_id, "names": names})
        return Role(role_id, name, description, False, tuple(names))

    @done_again
    async def update(
        self, name: str, permissions: Iterable[str], *, description: str | None = None
    ) -> Role:
        """Replace what a role of the tenant's own allows; whoever holds it has it within a second.

        Raises InvalidInput, RoleNotFound (the platform's roles are not the tenant's),
        EscalationRefused.
        """
        require_description(description)
        names = sorted(set(permissions))
        entry = audit.Entry("UPDATE", "role", name, {"permissions": names})
        async with guarded(self.scope, entry) as tx:
            await _require_known(tx, names)
            role = await _own(tx, name)
            asked = {"role_id": role.id, "names": names, "description": description}
            await tx.execute(QUERIES.describe_role, asked)
            await tx.execute(QUERIES.drop_permissions, asked)
            await tx.execute(QUERIES.add_permissions, asked)
        return await self.get(name)

    @done_again
    async def delete(self, name: str) -> None:
        """Delete a role of the tenant's own, with its grants. Raises RoleNotFound."""
        async with guarded(self.scope, audit.Entry("DELETE", "role", name)) as tx:
            role = await _own(tx, name)
            await tx.execute(QUERIES.delete_role, {"role_id": role.id})

    @done_again
    async def grant(self, role: str, *, to: Principal, expires_at: datetime | None = None) -> None:
        """Grant a role to a user or service, or give the grant another end (None: none).

        Raises RoleNotFound, PrincipalNotFound, EscalationRefused, LastOwner, InvalidInput.
        """
        if expires_at is not None and expires_at.tzinfo is None:
            raise InvalidInput("expires_at needs a time zone")
        changes = {"role": role, "expires_at": expires_at.isoformat() if expires_at else None}
        entry = audit.Entry("CREATE", "grant", str(to), changes)
        query = _by_kind(to, QUERIES.grant_to_user, QUERIES.grant_to_service)
        async with guarded(self.scope, entry) as tx:
            found = await _find(tx, role)
            await tx.execute(
                query,
                {
                    "grantee": UUID(to.name),
                    "role_id": found.id,
                    "scope_id": found.scope_id,
                    "granted_by": tx.by.user_id,
                    "expires_at": expires_at,
                },
            )

    @done_again
    async def revoke(self, role: str, *, of: Principal) -> bool:
        """Take a role back, everywhere within a second; False where it was not granted.

        Raises RoleNotFound, LastOwner, and EscalationRefused where another's role allows more than
        the caller holds: who cannot give something cannot take it away. One's own is laid down.
        """
        entry = audit.Entry("DELETE", "grant", str(of), {"role": role})
        query = _by_kind(of, QUERIES.revoke_from_user, QUERIES.revoke_from_service)
        try:
            async with guarded(self.scope, entry) as tx:
                found = await _find(tx, role)
                asked = {"role_id": found.id, "grantee": UUID(of.name)}
                if await tx.one(query, asked) is None:
                    raise _NotGranted
        except _NotGranted:
            return False
        return True

    async def grants(self, of: Principal) -> Sequence[Grant]:
        """What a user or service was granted, ended grants too, by role."""
        query = _by_kind(of, QUERIES.grants_of_user, QUERIES.grants_of_service)
        rows = await self.scope.fetch(query, {"grantee": UUID(of.name)})
        return [Grant(*rest, permissions=tuple(names)) for *rest, names in rows]

    async def explain(self, principal: Principal, permission: str) -> Explanation:
        """Why a user or service may or may not do something. Raises PrincipalNotFound."""
        patterns = patterns_for(require_permission_name(permission))
        query = _by_kind(principal, QUERIES.standing_of_user, QUERIES.standing_of_service)
        standing = await self.scope.one(query, {"grantee": UUID(principal.name)})
        if standing is None:
            raise PrincipalNotFound
        keys = (0, 0)
        if principal.kind is Kind.SERVICE:
            asked = {"grantee": UUID(principal.name), "patterns": list(patterns)}
            keys = await self.scope.one(QUERIES.keys_without, asked) or keys
        grants = await self.grants(principal)
        covering = [(grant, pattern) for grant in grants if (pattern := _covering(grant, patterns))]
        roles = [role for role in await self.list() if set(role.permissions) & set(patterns)]
        return Explanation(
            principal=principal,
            permission=permission,
            barred=standing[0],
            given_by=tuple(pair for pair in covering if not pair[0].has_ended),
            ended=tuple(pair for pair in covering if pair[0].has_ended),
            would_give=tuple(role.name for role in roles),
            keys=keys[0],
            keys_without=keys[1],
        )


def _covering(grant: Grant, patterns: Sequence[str]) -> str | None:
    return next((pattern for pattern in patterns if pattern in grant.permissions), None)


def _by_kind(principal: Principal, user: LiteralString, service: LiteralString) -> LiteralString:
    match principal.kind:
        case Kind.USER:
            return user
        case Kind.SERVICE:
            return service
        case _:
            raise InvalidInput("roles are held by users and services")


async def _find(tx: Transaction, name: str) -> _Found:
    row = await tx.one(QUERIES.find_role, {"name": name})
    if row is None:
        raise RoleNotFound
    return _Found(*row)


async def _own(tx: Transaction, name: str) -> _Found:
    found = await _find(tx, name)
    if found.is_system:
        raise RoleNotFound(hint="a role of the platform cannot be changed; make one of your own")
    return found


async def _require_known(tx: Transaction, names: Sequence[str]) -> None:
    unknown = await tx.fetch(QUERIES.unknown_permissions, {"names": list(names)})
    if unknown:
        shown = ", ".join(repr(row[0])[:100] for row in unknown[:5])
        raise InvalidInput(
            f"no such permission: {shown}", hint="neolayer roles permissions lists them"
        )


def _only(row: tuple[UUID] | Sequence[UUID] | None) -> UUID:
    if row is None:
        raise RoleNotFound
    return row[0]
