"""Attestations of one tenant: quotes handed in, judged, kept, and judged again.

Every outcome is stored with its reason. A quote is known by what was signed, so handing it in again
finds the same record; a copy whose signature was damaged never harms the record of the good one.
The time of a judgement is always given: nothing here looks at a clock.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg
from psycopg.types.json import Jsonb

from neolayer import audit
from neolayer.enclave.collateral_store import collateral_at
from neolayer.enclave.judgements import (
    Basis,
    Record,
    judge_again,
    judge_by,
    log,
    outcome,
    store,
    write_judgement,
)
from neolayer.enclave.model import (
    Attestation,
    AttestationNotFound,
    Nonce,
    Outcome,
    Verification,
    VersionConflict,
    checked_limit,
    checked_name,
    checked_time,
    page_of,
)
from neolayer.enclave.policies import Policy, enclave_from_json, enclave_to_json
from neolayer.enclave.quotes import NONCE_BYTES, Quote, Unreadable
from neolayer.enclave.reasons import Reason
from neolayer.enclave.verifying import Platform, Status, Verdict, identify
from neolayer.engines.postgres.queries import load_queries
from neolayer.errors import InvalidInput
from neolayer.tenancy import Scope, Transaction

sql = load_queries(__name__, "attestations.sql")

_LONGEST_NONCE = timedelta(hours=1)
_Names = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Attestations:
    """The attestations of a scope's tenant."""

    scope: Scope

    # The policy

    async def set_policy(self, policy: Policy) -> int:
        """Replace the policy; its version. What is live is judged by it at the next `reverify`.

        Raises VersionConflict where somebody else replaced it at the same moment.
        """
        names = {field.name: getattr(policy, field.name) for field in fields(policy)}
        stored = Jsonb([enclave_to_json(allowed) for allowed in policy.enclaves])
        lists = {name: list(names[name]) for name in ("tcb_statuses", "rejected_advisories")}
        names.update(lists, enclaves=stored, tenant_id=self.scope.tenant)
        try:
            async with self.scope.transaction() as tx:
                row = await tx.one(sql.add_policy, names)
                version = int(row[0]) if row else 0
                _audit(tx, "UPDATE", "attestation_policy", str(version))
        except psycopg.errors.UniqueViolation as exc:
            raise VersionConflict("somebody else is changing the policy") from exc
        return version

    async def policy(self) -> tuple[int, Policy] | None:
        """The version and the policy that hold now, or None: then nothing is accepted."""
        names = {"tenant_id": self.scope.tenant}
        return _policy(await self.scope.one(sql.current_policy, names))

    # Nonces

    async def issue_nonce(
        self, *, enclave_id: str, at: datetime, lifetime: timedelta = timedelta(minutes=5)
    ) -> Nonce:
        """A challenge to be answered in time by a quote that begins its report data with it."""
        if not timedelta(0) < lifetime <= _LONGEST_NONCE:
            raise InvalidInput("a nonce lives for at most an hour")
        at = checked_time("at", at)
        nonce = Nonce(
            secrets.token_bytes(NONCE_BYTES), checked_name("enclave_id", enclave_id), at + lifetime
        )
        await self.scope.one(
            sql.issue_nonce,
            {
                "tenant_id": self.scope.tenant,
                "nonce": nonce.value,
                "enclave_id": nonce.enclave_id,
                "at": at,
                "expires_at": nonce.expires_at,
            },
        )
        return nonce

    async def forget_nonces(self, *, at: datetime) -> int:
        """Remove challenges that were never answered and no longer can be; how many."""
        names = {"tenant_id": self.scope.tenant, "at": checked_time("at", at)}
        return len(await self.scope.fetch(sql.forget_nonces, names))

    # Judging

    async def verify(self, quote: bytes, *, enclave_id: str, at: datetime) -> Outcome:
        """Judge a quote at a time and store the outcome, accepted or not.

        Whatever the bytes are, there is an outcome with a reason. Raises InvalidInput for a bad
        `enclave_id` or `at` only.
        """
        at, enclave_id = checked_time("at", at), checked_name("enclave_id", enclave_id)
        try:
            read, platform, verdict = await asyncio.to_thread(identify, quote)
        except Unreadable as exc:
            return await self._refuse_unreadable(quote, exc, enclave_id, at)
        basis = await self._basis(read, platform, at)
        if verdict is None:
            verdict = await asyncio.to_thread(judge_by, read, basis, at, None)
        async with self.scope.transaction() as tx:
            return await store(tx, read, platform, verdict, basis, enclave_id, at)

    async def reverify(self, *, at: datetime, limit: int = 100) -> int:
        """Judge live attestations anew where collateral or policy are newer, or time has run out.

        At most `limit`; how many were judged, so 0 means that nothing is due. Several may work at
        once. What is refused now becomes rejected, what is merely stale becomes expired.
        """
        at = checked_time("at", at)
        async with self.scope.transaction() as tx:
            policy = _policy(await tx.one(sql.current_policy, {"tenant_id": tx.tenant}))
            version, rules = policy or (0, None)
            names = {
                "tenant_id": tx.tenant,
                "at": at,
                "policy_version": version,
                "limit": checked_limit(limit),
            }
            due = await tx.fetch(sql.lock_due, names)
            for row in due:
                await judge_again(tx, row, rules, version or None, at)
        return len(due)

    async def revoke(self, attestation_id: UUID, *, at: datetime, because: str) -> None:
        """Take an attestation back for good. Raises AttestationNotFound."""
        at, because = checked_time("at", at), checked_name("because", because, longest=500)
        async with self.scope.transaction() as tx:
            names = {"tenant_id": tx.tenant, "id": attestation_id}
            row = await tx.one(sql.lock_attestation, names)
            if row is None:
                raise AttestationNotFound
            _, enclave_id, quote, _, verified_at, _ = row
            verdict = Verdict(Reason.REVOKED, because)
            record = Record(attestation_id, enclave_id, quote, "revoked", Status.REVOKED)
            at = max(at, verified_at or at)
            await write_judgement(tx, record, verdict, Basis(None, None), at, None)

    # Reading

    async def attestation(self, attestation_id: UUID) -> Attestation:
        """One record. Raises AttestationNotFound."""
        names = {"tenant_id": self.scope.tenant, "id": attestation_id}
        row = await self.scope.one(sql.attestation, names)
        if row is None:
            raise AttestationNotFound
        return _attestation(row)

    async def list(
        self,
        *,
        enclave_id: str | None = None,
        status: Status | None = None,
        after: UUID | None = None,
        limit: int = 100,
    ) -> list[Attestation]:
        """Records, the newest first; the next page is `after` the last one's id."""
        asked = page_of(self.scope.tenant, enclave_id, status, after, limit)
        rows = await self.scope.fetch(sql.list_attestations, asked)
        return [_attestation(row) for row in rows]

    async def verifications(
        self, attestation_id: UUID | None = None, *, limit: int = 100
    ) -> Sequence[Verification]:
        """Judgements, the newest first: of one record, or of everything that was handed in."""
        names = {
            "tenant_id": self.scope.tenant,
            "attestation_id": attestation_id,
            "limit": checked_limit(limit),
        }
        rows = await self.scope.fetch(sql.list_verifications, names)
        return [_verification(row) for row in rows]

    async def _basis(self, quote: Quote, platform: Platform | None, at: datetime) -> Basis:
        async with self.scope.transaction() as tx:
            found = _policy(await tx.one(sql.current_policy, {"tenant_id": tx.tenant}))
            version, policy = found or (None, None)
            if platform is None:
                return Basis(policy, version)
            return Basis(policy, version, await collateral_at(tx, quote.tee, platform, at))

    async def _refuse_unreadable(
        self, quote: bytes, why: Unreadable, enclave_id: str, at: datetime
    ) -> Outcome:
        verdict = Verdict(why.reason, why.detail)
        async with self.scope.transaction() as tx:
            record = Record(None, enclave_id, quote, "submitted", verdict.status)
            await log(tx, record, verdict, Basis(None, None), at)
        return outcome(record, verdict, Basis(None, None))


def _audit(
    tx: Transaction,
    action: audit.Action,
    resource: str,
    resource_id: str,
    changes: _Names | None = None,
) -> None:
    audit.append(tx, audit.Entry(action, resource, resource_id, changes))


# Rows as values


def _policy(row: Sequence[Any] | None) -> tuple[int, Policy] | None:
    if row is None:
        return None
    version, enclaves, statuses, advisories, *rest = row
    allowed = tuple(enclave_from_json(one) for one in enclaves)
    return version, Policy(allowed, tuple(statuses), tuple(advisories), *rest)


def _attestation(row: Sequence[Any]) -> Attestation:
    made = Attestation(*row)
    return replace(made, status=Status(made.status), reason=Reason(made.reason))


def _verification(row: Sequence[Any]) -> Verification:
    made = Verification(*row)
    return replace(made, status=Status(made.status), reason=Reason(made.reason))
