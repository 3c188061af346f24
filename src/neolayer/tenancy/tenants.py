"""The verbs over tenants. Making one, its tier, its limits and its end are the operators' alone.

The database says so too: a trigger on core.tenants refuses these changes to whoever does not act
as an operator or as the layer itself. A tenant's people read it, rename it and change its settings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, LiteralString
from uuid import UUID, uuid4

import orjson
import psycopg
from psycopg.rows import TupleRow
from psycopg.types.json import Jsonb

from neolayer import audit
from neolayer.engines.postgres.queries import load_queries
from neolayer.errors import AccessDenied, InvalidInput
from neolayer.nuls import refuse_nul, spells_nul
from neolayer.tenancy.context import Kind
from neolayer.tenancy.database import Scope, Transaction
from neolayer.tenancy.model import (
    SETTINGS_BYTES,
    Allowance,
    IdentifierTaken,
    Tenant,
    TenantNotFound,
    Tier,
    as_id,
    checked_identifier,
    checked_limits,
    checked_name,
    checked_tier,
    is_identifier,
)
from neolayer.tenancy.retrying import done_again

QUERIES = load_queries(__name__, "tenants.sql")
_OPERATING = (Kind.OPERATOR, Kind.SYSTEM)


@dataclass(frozen=True, slots=True)
class Tenants:
    """Tenants, as far as whoever acts in `scope` may: operators all, others their own."""

    scope: Scope

    @done_again
    async def create(
        self,
        *,
        name: str,
        identifier: str,
        tier: str = Tier.FREE,
        settings: Mapping[str, Any] | None = None,
        limits: Mapping[str, int | None] | None = None,
    ) -> Tenant:
        """A new tenant. Raises IdentifierTaken, InvalidInput; AccessDenied to all but operators."""
        self._require_operator()
        tenant = uuid4()
        values = {
            "id": tenant,
            "name": checked_name(name),
            "identifier": checked_identifier(identifier),
            "tier": checked_tier(tier),
            "settings": _json(settings or {}),
            "limits": Jsonb(checked_limits(limits or {})),
        }
        try:
            async with self._within(tenant).transaction() as tx:
                row = await tx.one(QUERIES.create_tenant, values)
                changes = {"identifier": identifier, "name": name, "tier": tier}
                _note(tx, "CREATE", {**changes, "limits": dict(limits or {})})
        except psycopg.errors.UniqueViolation as exc:
            raise IdentifierTaken(
                f"another tenant bears or bore the identifier {identifier!r}",
                hint="choose another: it stays reserved after a tenant is deleted",
            ) from exc
        assert row is not None
        return tenant_of(row)

    async def get(self, tenant: UUID | str) -> Tenant:
        """The tenant of an id or identifier, deleted ones only to operators.

        Raises TenantNotFound.
        """
        found = await self.id_of(tenant)
        row = await self._within(found).one(QUERIES.tenant, {"id": found})
        if row is None:
            raise TenantNotFound
        return tenant_of(row)

    async def open_id(self, tenant: str) -> UUID | None:
        """The id behind an identifier or id of an open tenant, or None: one round trip for all."""
        named = as_id(tenant)
        if named is not None:
            its = self.scope.core.scope(named, by=self.scope.by)
            row = await its.one(QUERIES.tenant, {"id": named})
        else:
            sought = tenant if is_identifier(tenant) else "-"  # which no tenant bears
            row = await self.scope.one(QUERIES.find_tenant, {"identifier": sought})
        return None if row is None else row[0]

    async def id_of(self, tenant: UUID | str) -> UUID:
        """The id behind an identifier of an open tenant; an id is given back as it is."""
        named = tenant if isinstance(tenant, UUID) else as_id(tenant)
        if named is not None:
            return named
        text = str(tenant)
        found = None
        if is_identifier(text):
            found = await self.scope.one(QUERIES.find_tenant, {"identifier": text})
        if found is None or found[0] is None:
            raise TenantNotFound
        return found[0]

    async def rename(self, tenant: UUID, name: str) -> Tenant:
        """Another display name. Raises TenantNotFound, InvalidInput."""
        return await self._change(
            tenant, QUERIES.rename_tenant, {"name": checked_name(name)}, {"name": name}
        )

    async def change_settings(self, tenant: UUID, settings: Mapping[str, Any]) -> Tenant:
        """Put these keys into the settings; None takes one out. The audit names keys only.

        Raises TenantNotFound, and InvalidInput where it is no JSON or too much of it.
        """
        kept = {key: value for key, value in settings.items() if value is not None}
        params = {"settings": _json(kept), "gone": [key for key in settings if key not in kept]}
        try:
            return await self._change(
                tenant, QUERIES.change_settings, params, {"settings": sorted(settings)}
            )
        except psycopg.errors.CheckViolation as exc:
            raise InvalidInput(f"settings take more than {SETTINGS_BYTES} bytes") from exc

    async def change_tier(self, tenant: UUID, tier: str) -> Tenant:
        """Another tier, and with it other limits, at once; what there is stays.

        Raises TenantNotFound, InvalidInput; AccessDenied to all but operators.
        """
        self._require_operator()
        return await self._change(
            tenant, QUERIES.change_tier, {"tier": checked_tier(tier)}, {"tier": tier}
        )

    async def set_limits(self, tenant: UUID, limits: Mapping[str, int | None]) -> Tenant:
        """What differs from the tier, in place of what differed before; in force at once.

        None means without a limit; a limit that is not named is again the tier's. What is there
        already stays, also above a limit. Raises TenantNotFound, InvalidInput; AccessDenied to all
        but operators.
        """
        self._require_operator()
        chosen = checked_limits(limits)
        return await self._change(
            tenant, QUERIES.set_limits, {"limits": Jsonb(chosen)}, {"limits": chosen}
        )

    async def delete(self, tenant: UUID) -> Tenant:
        """Close the tenant: from now on nobody but operators sees a row of it.

        Its data stays until it is erased, its identifier stays reserved. Raises TenantNotFound
        where it is not there or closed already; AccessDenied to all but operators.
        """
        self._require_operator()
        return await self._change(tenant, QUERIES.delete_tenant, {}, None, action="DELETE")

    async def restore(self, tenant: UUID) -> Tenant:
        """Open a deleted tenant again, with all it had. Raises TenantNotFound, AccessDenied."""
        self._require_operator()
        return await self._change(tenant, QUERIES.restore_tenant, {}, {"restored": True})

    async def allowances(self, tenant: UUID) -> list[Allowance]:
        """Every limit of the tenant and what is used of it, by name. Raises TenantNotFound."""
        rows = await self._within(tenant).fetch(QUERIES.my_limits)
        if not rows:
            raise TenantNotFound
        return [Allowance(*row) for row in rows]

    @done_again
    async def _change(
        self,
        tenant: UUID,
        query: LiteralString,
        params: Mapping[str, Any],
        changes: Mapping[str, Any] | None,
        *,
        action: audit.Action = "UPDATE",
    ) -> Tenant:
        async with self._within(tenant).transaction() as tx:
            row = await tx.one(query, {"id": tenant, **params})
            if row is None:
                raise TenantNotFound
            _note(tx, action, changes)
        return tenant_of(row)

    def _within(self, tenant: UUID) -> Scope:
        """The scope of one tenant: of any for operators, of the own for everybody else."""
        if self.scope.tenant == tenant:
            return self.scope
        if self.scope.by.kind not in _OPERATING:
            raise TenantNotFound
        return self.scope.core.scope(tenant, by=self.scope.by)

    def _require_operator(self) -> None:
        if self.scope.by.kind not in _OPERATING:
            raise AccessDenied("this is for operators", hint="neolayer tenants --help")


def tenant_of(row: TupleRow) -> Tenant:
    """A row of the columns that this room's queries return."""
    id_, name, identifier, tier, *rest = row
    settings, limits, created_at, updated_at, deleted_at = rest
    return Tenant(
        id=id_,
        name=name,
        identifier=identifier,
        tier=Tier(tier),
        settings=settings,
        limits=limits,
        created_at=created_at,
        updated_at=updated_at,
        deleted_at=deleted_at,
    )


def _note(tx: Transaction, action: audit.Action, changes: Mapping[str, Any] | None) -> None:
    audit.append(tx, audit.Entry(action, "tenant", str(tx.tenant), changes))


def _json(settings: Mapping[str, Any]) -> Jsonb:
    """Settings that JSON, jsonb and a reader of either can hold. Raises InvalidInput."""
    try:
        text = orjson.dumps(dict(settings))
    except orjson.JSONEncodeError as exc:
        raise InvalidInput(f"settings are not JSON: {exc}") from None
    if len(text) > SETTINGS_BYTES:
        raise InvalidInput(f"settings take more than {SETTINGS_BYTES} bytes")
    if spells_nul(text):
        refuse_nul(orjson.loads(text), "settings")
    return Jsonb(dict(settings), dumps=orjson.dumps)
