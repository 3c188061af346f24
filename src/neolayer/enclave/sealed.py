"""Sealed blobs of one tenant, by name and version.

Only the newest version is kept: an enclave cannot tell an old blob from a new one, so whoever could
hand it an old one could turn back its state. A version is stored over the one its writer has seen,
or not at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import psycopg

from neolayer import audit
from neolayer.enclave.attestations import Attestations
from neolayer.enclave.model import (
    SealedDataNotFound,
    VersionConflict,
    checked_limit,
    checked_name,
)
from neolayer.enclave.sealing import (
    Answer,
    Opening,
    SealedData,
    Sealing,
    SealingPolicy,
    Upgrade,
    may_open,
)
from neolayer.engines.postgres.queries import load_queries
from neolayer.errors import InvalidInput
from neolayer.tenancy import Scope, Transaction

sql = load_queries(__name__, "sealed.sql")

MAX_BLOB_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class SealedBlob:
    """The bytes of one version."""

    version: int
    sealed: bytes
    mac: str


@dataclass(frozen=True, slots=True)
class SealedDataStore:
    """The sealed data of a scope's tenant."""

    scope: Scope

    async def put(
        self,
        data_key: str,
        sealed: bytes,
        *,
        mac: str,
        enclave_id: str,
        sealing: SealingPolicy,
        expected_version: int,
        owner_id: UUID | None = None,
    ) -> int:
        """Store the next version over the one expected (0: there is none yet); its number.

        `owner_id` is whoever acts, where a user does. Raises VersionConflict, InvalidInput.
        """
        owner_id = owner_id or self.scope.by.user_id
        if owner_id is None and expected_version == 0:
            raise InvalidInput("sealed data has an owner: give owner_id, or act as a user")
        if not 0 < len(sealed) <= MAX_BLOB_BYTES:
            raise InvalidInput(f"a sealed blob has 1 to {MAX_BLOB_BYTES} bytes")
        names = self._named(data_key) | asdict(sealing)
        names |= {
            "owner_id": owner_id,
            "enclave_id": checked_name("enclave_id", enclave_id),
            "sealed_blob": sealed,
            "mac": _mac(mac),
            "expected_version": expected_version,
        }
        query = sql.replace_sealed if expected_version else sql.add_sealed
        try:
            async with self.scope.transaction() as tx:
                row = await tx.one(query, names)
                if row is None:
                    raise await _conflict(tx, names)
                action: audit.Action = "UPDATE" if expected_version else "CREATE"
                _audit(tx, action, data_key, {"version": row[0], "policy": sealing.policy})
        except psycopg.errors.ForeignKeyViolation as exc:
            raise InvalidInput("there is no such owner") from exc
        return row[0]

    async def get(self, data_key: str) -> SealedBlob:
        """The newest version's bytes. Raises SealedDataNotFound."""
        row = await self.scope.one(sql.sealed_blob, self._named(data_key))
        if row is None:
            raise SealedDataNotFound
        return SealedBlob(*row)

    async def describe(self, data_key: str) -> SealedData:
        """What is known of it. Raises SealedDataNotFound."""
        row = await self.scope.one(sql.sealed, self._named(data_key))
        if row is None:
            raise SealedDataNotFound
        return _sealed(row)

    async def list(
        self, *, enclave_id: str | None = None, after: str | None = None, limit: int = 100
    ) -> list[SealedData]:
        """What is known of each, by name; the next page is `after` the last one's name."""
        names = {
            "tenant_id": self.scope.tenant,
            "enclave_id": enclave_id,
            "after": after,
            "limit": checked_limit(limit),
        }
        return [_sealed(row) for row in await self.scope.fetch(sql.list_sealed, names)]

    async def delete(self, data_key: str, *, expected_version: int) -> None:
        """Remove the version that is expected. Raises VersionConflict, SealedDataNotFound."""
        names = self._named(data_key) | {"expected_version": expected_version}
        async with self.scope.transaction() as tx:
            if await tx.one(sql.remove_sealed, names) is None:
                raise await _conflict(tx, names)
            _audit(tx, "DELETE", data_key, {"version": expected_version})

    async def may_open(self, attestation_id: UUID, data_key: str, *, at: datetime) -> Answer:
        """Whether an attested enclave may open it. Raises AttestationNotFound, SealedDataNotFound.

        By what sealer and quote say: the bytes themselves are opaque to the layer.
        """
        enclave = await Attestations(self.scope).attestation(attestation_id)
        found = await self.describe(data_key)
        return may_open(found.sealing, enclave, at=at)

    async def stranded_by(
        self, upgrade: Upgrade, *, after: str | None = None, limit: int = 100
    ) -> Sequence[tuple[SealedData, Opening]]:
        """What an enclave's next build could not open, by name, each with its reason.

        Seal these anew before the upgrade, with the build that can still open them.
        """
        names = asdict(upgrade) | {
            "tenant_id": self.scope.tenant,
            "after": after,
            "limit": checked_limit(limit),
        }
        found = [_sealed(row) for row in await self.scope.fetch(sql.list_stranded, names)]
        return [(one, upgrade.why_stranded(one.sealing)) for one in found]

    def _named(self, data_key: str) -> dict[str, Any]:
        return {
            "tenant_id": self.scope.tenant,
            "data_key": checked_name("data_key", data_key),
        }


def _sealed(row: Sequence[Any]) -> SealedData:
    key, version, enclave_id, owner_id, size, created_at, updated_at, policy, *rest = row
    sealing = SealingPolicy(Sealing(policy), *rest)
    return SealedData(key, version, enclave_id, owner_id, size, created_at, updated_at, sealing)


async def _conflict(tx: Transaction, names: dict[str, Any]) -> Exception:
    row = await tx.one(sql.sealed_version, names)
    if row is None:
        return SealedDataNotFound()
    return VersionConflict(f"version {row[0]} is there, not {names['expected_version']}")


def _audit(tx: Transaction, action: audit.Action, data_key: str, changes: dict[str, Any]) -> None:
    audit.append(tx, audit.Entry(action, "sealed_data", data_key, changes))


def _mac(text: str) -> str:
    if len(text) not in (32, 64) or text.strip("0123456789abcdef"):
        raise InvalidInput("mac is 32 or 64 digits of lower-case hex")
    return text
