"""Attestations of one tenant: quotes handed in, judged, kept, and judged again.

Every outcome is stored with its reason. A quote is known by what was signed, so handing it in again
finds the same record; a copy whose signature was damaged never harms the record of the good one.
The time of a judgement is always given: nothing here looks at a clock.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg
from psycopg.types.json import Jsonb

from neolayer import audit
from neolayer.enclave.collateral import Collateral
from neolayer.enclave.collateral_store import collateral_at
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
)
from neolayer.enclave.policies import Policy, enclave_from_json, enclave_to_json
from neolayer.enclave.quotes import NONCE_BYTES, Quote, Tee, Unreadable, read_quote
from neolayer.enclave.reasons import Reason
from neolayer.enclave.verifying import VERIFIER, Platform, Status, Verdict, identify, judge
from neolayer.engines.postgres.queries import load_queries
from neolayer.errors import InvalidInput
from neolayer.tenancy import Scope, Transaction

sql = load_queries(__name__, "attestations.sql")

_LONGEST_NONCE = timedelta(hours=1)
_STALE = {Reason.COLLATERAL_EXPIRED, Reason.COLLATERAL_TOO_OLD, Reason.LIFETIME_OVER}
_Names = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class _Basis:
    """What a judgement rests on beside the quote."""

    policy: Policy | None
    policy_version: int | None
    collateral: Collateral | None = None

    @property
    def collateral_id(self) -> str | None:
        return self.collateral and self.collateral.id


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
            verdict = await asyncio.to_thread(_judge, read, basis, at, None)
        async with self.scope.transaction() as tx:
            return await _store(tx, read, platform, verdict, basis, enclave_id, at)

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
                await _judge_again(tx, row, rules, version or None, at)
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
            record = _Record(attestation_id, enclave_id, quote, "revoked", Status.REVOKED)
            at = max(at, verified_at or at)
            await _write_judgement(tx, record, verdict, _Basis(None, None), at, None)

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
        names = {
            "tenant_id": self.scope.tenant,
            "enclave_id": enclave_id,
            "status": status,
            "after": after,
            "limit": checked_limit(limit),
        }
        rows = await self.scope.fetch(sql.list_attestations, names)
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

    async def _basis(self, quote: Quote, platform: Platform | None, at: datetime) -> _Basis:
        async with self.scope.transaction() as tx:
            found = _policy(await tx.one(sql.current_policy, {"tenant_id": tx.tenant}))
            version, policy = found or (None, None)
            if platform is None:
                return _Basis(policy, version)
            return _Basis(policy, version, await collateral_at(tx, quote.tee, platform, at))

    async def _refuse_unreadable(
        self, quote: bytes, why: Unreadable, enclave_id: str, at: datetime
    ) -> Outcome:
        verdict = Verdict(why.reason, why.detail)
        async with self.scope.transaction() as tx:
            record = _Record(None, enclave_id, quote, "submitted", verdict.status)
            await _log(tx, record, verdict, _Basis(None, None), at)
        return _outcome(record, verdict, _Basis(None, None))


# A judgement on its way into the tables


@dataclass(frozen=True, slots=True)
class _Record:
    """What a judgement is about. `status` is what the record becomes by it."""

    id: UUID | None
    enclave_id: str
    quote: bytes
    occasion: str
    status: Status


def _judge(quote: Quote, basis: _Basis, at: datetime, attested_at: datetime | None) -> Verdict:
    if basis.collateral is None:
        return Verdict(Reason.NO_COLLATERAL)
    return judge(quote, basis.collateral, basis.policy, at=at, attested_at=attested_at)


async def _store(
    tx: Transaction,
    quote: Quote,
    platform: Platform | None,
    verdict: Verdict,
    basis: _Basis,
    enclave_id: str,
    at: datetime,
) -> Outcome:
    """Store the outcome of a quote that could be read: in its record, in the history, in the audit.

    Only what is accepted, or was never accepted before, changes a record; and what was accepted is
    not judged for a time before its newest judgement.
    """
    evidence = {"tenant_id": tx.tenant, "signed_digest": quote.signed_digest}
    known = await tx.one(sql.lock_by_evidence, evidence)
    nonce: bytes | None = None
    if verdict.reason is Reason.ACCEPTED:
        verdict = _judge_repetition(known, verdict, basis, enclave_id)
    if verdict.reason is Reason.ACCEPTED and basis.policy and basis.policy.nonce_required:
        verdict, nonce = await _use_nonce(tx, quote, verdict, enclave_id, at)
    if known is None:
        names = _columns(tx, quote, platform, verdict, basis, enclave_id, at) | {"nonce": nonce}
        added = await tx.one(sql.add_attestation, names)
        if added is not None:
            record = _Record(added[0], enclave_id, quote.raw, "submitted", verdict.status)
            await _log(tx, record, verdict, basis, at)
            return _outcome(record, verdict, basis)
        known = await tx.one(sql.lock_by_evidence, evidence)
        if known is None:
            raise VersionConflict("the attestation is being stored by somebody else")
        if verdict.reason is Reason.ACCEPTED:
            verdict = _judge_repetition(known, verdict, basis, enclave_id)
    record = _Record(known[0], enclave_id, quote.raw, "submitted", verdict.status)
    *_, attested_at, verified_at = known
    is_news = verdict.reason is Reason.ACCEPTED and at >= verified_at
    if is_news or attested_at is None:
        if verdict.reason is Reason.ACCEPTED:
            names = _columns(tx, quote, platform, verdict, basis, enclave_id, at)
            await tx.execute(sql.accept_evidence, names | {"id": record.id, "nonce": nonce})
        await _write_judgement(tx, record, verdict, basis, at, at)
    else:
        await _log(tx, record, verdict, basis, at)
    return _outcome(record, verdict, basis)


def _judge_repetition(
    known: Sequence[Any] | None, verdict: Verdict, basis: _Basis, enclave_id: str
) -> Verdict:
    """A good quote that was here before: a repetition proves nothing where nonces are asked for."""
    if known is None:
        return verdict
    _, known_enclave, status, attested_at, _ = known
    if status == Status.REVOKED:
        return verdict.but(Reason.REVOKED)
    if known_enclave != enclave_id:
        return verdict.but(Reason.OTHER_ENCLAVE, "it is on record for another enclave_id")
    if attested_at is not None and basis.policy and basis.policy.nonce_required:
        return verdict.but(Reason.REPLAYED)
    return verdict


async def _use_nonce(
    tx: Transaction, quote: Quote, verdict: Verdict, enclave_id: str, at: datetime
) -> tuple[Verdict, bytes | None]:
    names = {
        "tenant_id": tx.tenant,
        "nonce": quote.nonce,
        "enclave_id": enclave_id,
        "at": at,
    }
    if await tx.one(sql.use_nonce, names) is not None:
        return verdict, quote.nonce
    state = await tx.one(sql.nonce_state, names)
    was_used, is_over = state or (False, False)
    reason = Reason.NONCE_USED if was_used else Reason.NONCE_EXPIRED
    return verdict.but(reason if was_used or is_over else Reason.NONCE_UNKNOWN), None


async def _judge_again(
    tx: Transaction, row: Sequence[Any], policy: Policy | None, version: int | None, at: datetime
) -> None:
    attestation_id, enclave_id, raw, tee, fmspc, ca, attested_at = row
    collateral = await collateral_at(tx, Tee(tee), Platform(fmspc, ca), at)
    basis = _Basis(policy, version, collateral)
    verdict = await asyncio.to_thread(_judge, read_quote(raw), basis, at, attested_at)
    status = Status.EXPIRED if verdict.reason in _STALE else verdict.status
    occasion = "expired" if status is Status.EXPIRED else "reverified"
    record = _Record(attestation_id, enclave_id, raw, occasion, status)
    await _write_judgement(tx, record, verdict, basis, at, None)


async def _write_judgement(
    tx: Transaction,
    record: _Record,
    verdict: Verdict,
    basis: _Basis,
    at: datetime,
    attested_at: datetime | None,
) -> None:
    """Give a record its newest judgement, and keep it in the history."""
    names = _findings(verdict, basis) | {
        "tenant_id": tx.tenant,
        "id": record.id,
        "status": record.status,
        "at": at,
        "attested_at": attested_at if record.status is Status.VERIFIED else None,
    }
    await tx.execute(sql.judge_attestation, names)
    await _log(tx, record, verdict, basis, at)


async def _log(
    tx: Transaction, record: _Record, verdict: Verdict, basis: _Basis, at: datetime
) -> None:
    names = _findings(verdict, basis) | {
        "tenant_id": tx.tenant,
        "attestation_id": record.id,
        "enclave_id": record.enclave_id,
        "quote_digest": hashlib.sha256(record.quote).hexdigest(),
        "quote_size": len(record.quote),
        "occasion": record.occasion,
        "status": record.status,
        "detail": verdict.detail,
        "at": at,
    }
    await tx.execute(sql.add_verification, names)
    changes = {"enclave_id": record.enclave_id, "status": record.status, "reason": verdict.reason}
    audit.append(
        tx,
        audit.Entry(
            "EXECUTE",
            "attestation",
            record.id and str(record.id),
            changes,
            success=verdict.reason is Reason.ACCEPTED,
            error_message=None if verdict.reason is Reason.ACCEPTED else str(verdict.reason),
        ),
    )


def _findings(verdict: Verdict, basis: _Basis) -> dict[str, Any]:
    return {
        "reason": verdict.reason,
        "tcb_status": verdict.tcb_status,
        "advisories": list(verdict.advisories),
        "platform_id": verdict.platform_id,
        "collateral_id": basis.collateral_id,
        "policy_version": basis.policy_version,
        "verifier": VERIFIER,
        "expires_at": verdict.expires_at,
        "expires_because": verdict.expires_because,
        "claims": None if verdict.claims is None else Jsonb(verdict.claims),
    }


def _columns(
    tx: Transaction,
    quote: Quote,
    platform: Platform | None,
    verdict: Verdict,
    basis: _Basis,
    enclave_id: str,
    at: datetime,
) -> dict[str, Any]:
    """A record of a quote, as it is stored."""
    return _findings(verdict, basis) | {
        "tenant_id": tx.tenant,
        "enclave_id": enclave_id,
        "mr_enclave": quote.mr_enclave,
        "mr_signer": quote.mr_signer,
        "isv_prod_id": quote.isv_prod_id,
        "isv_svn": quote.isv_svn,
        "report_data": quote.report_data.hex(),
        "quote": quote.raw,
        "attestation_type": "EPID" if quote.is_epid else "DCAP",
        "status": verdict.status,
        "at": at,
        "attested_at": at if verdict.reason is Reason.ACCEPTED else None,
        "expires_at": verdict.expires_at or at,
        "tee": quote.tee,
        "quote_version": quote.version,
        "signed_size": quote.signed_size,
        "signed_digest": quote.signed_digest,
        "is_debug": quote.is_debug,
        "cpu_svn": quote.cpu_svn,
        "fmspc": platform and platform.fmspc,
        "ca": platform and platform.ca,
    }


def _outcome(record: _Record, verdict: Verdict, basis: _Basis) -> Outcome:
    return Outcome(
        status=record.status,
        reason=verdict.reason,
        detail=verdict.detail,
        attestation_id=record.id,
        tcb_status=verdict.tcb_status,
        advisories=verdict.advisories,
        collateral_id=basis.collateral_id,
        policy_version=basis.policy_version,
        expires_at=verdict.expires_at,
        expires_because=verdict.expires_because,
    )


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
