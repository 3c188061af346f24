"""Services: a tenant's programs, which prove themselves by API keys and hold roles like people.

A key is shown once, when it is made; only its hash is kept. Rotation makes the new key first and
lets the old ones live on for an overlap, so that no program stands still meanwhile.

A key may do what its service could do when the key was made, and of that only what the service may
do still. So granting a service a role hands nothing to whoever has one of its keys already: a new
key carries it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID

from neolayer import audit
from neolayer.engines.postgres.queries import load_queries
from neolayer.errors import InvalidInput, NotFound
from neolayer.identity.access import Access
from neolayer.identity.access_cache import AccessCache
from neolayer.identity.guarded import guarded
from neolayer.identity.model import require_description
from neolayer.identity.session_tokens import Kind, UnknownToken, new_token
from neolayer.tenancy import Principal, Scope

QUERIES = load_queries(__name__, "access.sql")
LONGEST = timedelta(days=366)
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,99}")


class ServiceNotFound(NotFound):
    """There is no such service or key."""


@dataclass(frozen=True, slots=True)
class Service:
    """A program of a tenant. A disabled one cannot use its keys."""

    id: UUID
    name: str
    description: str | None
    status: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key that was just made; `key` is shown to nobody else and not in `repr`."""

    id: UUID
    key: str = field(repr=False)
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class Key:
    """What may be seen of a key. `last_used_at` is right to the minute.

    `permissions` is what the service could do when the key was made: the most that it may do.
    """

    id: UUID
    created_at: datetime
    expires_at: datetime
    has_ended: bool
    last_used_at: datetime | None
    last_ip_address: str | None
    permissions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Services:
    """The services of one tenant. `cache` is the process's one."""

    scope: Scope
    cache: AccessCache

    async def create(self, name: str, *, description: str | None = None) -> Service:
        """A service without roles and keys. Raises InvalidInput, NameTaken."""
        if _NAME.fullmatch(name) is None:
            raise InvalidInput("a service's name is a-z, digits, - and _, up to 100 characters")
        require_description(description)
        async with guarded(self.scope, audit.Entry("CREATE", "service", name)) as tx:
            asked = {"name": name, "description": description}
            return _service(await tx.one(QUERIES.create_service, asked))

    async def list(self) -> Sequence[Service]:
        """The tenant's services by name."""
        return [Service(*row) for row in await self.scope.fetch(QUERIES.list_services)]

    async def get(self, name: str) -> Service:
        """One service by name. Raises ServiceNotFound."""
        return _service(await self.scope.one(QUERIES.find_service, {"name": name}))

    async def disable(self, service_id: UUID) -> None:
        """Stop a service: its keys are refused everywhere within a second."""
        await self._set_status(service_id, "disabled")

    async def enable(self, service_id: UUID) -> None:
        """Let a disabled service work again, with the keys it had."""
        await self._set_status(service_id, "active")

    async def delete(self, service_id: UUID) -> None:
        """Delete a service with its keys and grants. Raises ServiceNotFound."""
        entry = audit.Entry("DELETE", "service", str(service_id))
        async with guarded(self.scope, entry) as tx:
            if await tx.one(QUERIES.delete_service, {"id": service_id}) is None:
                raise ServiceNotFound
        self._forget(service_id)

    async def make_key(
        self, service_id: UUID, *, lifetime: timedelta = timedelta(days=90)
    ) -> NewKey:
        """Another key of an active service. Raises ServiceNotFound, InvalidInput, and
        EscalationRefused where the service may do more than the caller.
        """
        return await self._make_key(service_id, lifetime, overlap=None)

    async def rotate_key(
        self,
        service_id: UUID,
        *,
        lifetime: timedelta = timedelta(days=90),
        overlap: timedelta = timedelta(days=1),
    ) -> NewKey:
        """A new key, and an end to the others after `overlap` (zero: now). Raises as `make_key`."""
        return await self._make_key(service_id, lifetime, overlap=overlap)

    async def _make_key(
        self, service_id: UUID, lifetime: timedelta, *, overlap: timedelta | None
    ) -> NewKey:
        if not timedelta(0) < lifetime <= LONGEST:
            raise InvalidInput(f"a key lives up to {LONGEST.days} days")
        if overlap is not None and not timedelta(0) <= overlap <= LONGEST:
            raise InvalidInput(f"an overlap is up to {LONGEST.days} days")
        if self.scope.tenant is None:
            raise ServiceNotFound
        token = new_token(Kind.API_KEY, self.scope.tenant)
        changes = {"overlap_seconds": None if overlap is None else overlap.total_seconds()}
        entry = audit.Entry("CREATE", "api_key", str(service_id), changes)
        async with guarded(self.scope, entry) as tx:
            asked = {"service_id": service_id, "key_hash": token.hash, "lifetime": lifetime}
            row = await tx.one(QUERIES.make_key, asked)
            if row is None:
                raise ServiceNotFound
            if overlap is not None:
                retired = {"service_id": service_id, "overlap": overlap, "but": row[0]}
                await tx.execute(QUERIES.retire_keys, retired)
        self._forget(service_id)
        return NewKey(row[0], token.text, row[1])

    async def revoke_key(self, key_id: UUID) -> None:
        """End one key, everywhere within a second. Raises ServiceNotFound."""
        async with guarded(self.scope, audit.Entry("DELETE", "api_key", str(key_id))) as tx:
            row = await tx.one(QUERIES.revoke_key, {"id": key_id})
            if row is None:
                raise ServiceNotFound
        self._forget(row[0])

    async def keys(self, service_id: UUID) -> Sequence[Key]:
        """The keys of a service, the newest first, ended ones too; none of an absent one."""
        rows = await self.scope.fetch(QUERIES.list_keys, {"service_id": service_id})
        return [Key(*rest, permissions=tuple(names)) for *rest, names in rows]

    async def check(self, key: str, *, ip_address: str | None = None) -> Access:
        """Which service bears the key, if it is one of this tenant. Raises UnknownToken."""
        access = await self.cache.check(key, ip_address=ip_address)
        if access.session_id is not None or access.tenant != self.scope.tenant:
            raise UnknownToken
        return access

    async def _set_status(self, service_id: UUID, status: str) -> None:
        entry = audit.Entry("UPDATE", "service", str(service_id), {"status": status})
        async with guarded(self.scope, entry) as tx:
            asked = {"id": service_id, "status": status}
            if await tx.one(QUERIES.set_service_status, asked) is None:
                raise ServiceNotFound
        self._forget(service_id)

    def _forget(self, service_id: UUID) -> None:
        if self.scope.tenant is not None:
            self.cache.forget(self.scope.tenant, Principal.service(service_id))


def _service(row: Sequence[object] | None) -> Service:
    if row is None:
        raise ServiceNotFound
    return Service(*row)  # pyright: ignore[reportArgumentType]
