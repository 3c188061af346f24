"""A judgement on its way into the tables: into its record, the history and the audit trail.

Only what is accepted, or was never accepted before, changes a record; whatever was judged stays in
the history.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb

from neolayer import audit
from neolayer.enclave.collateral import Collateral
from neolayer.enclave.collateral_store import collateral_at
from neolayer.enclave.model import Outcome, VersionConflict
from neolayer.enclave.policies import Policy
from neolayer.enclave.quotes import Quote, Tee, read_quote
from neolayer.enclave.reasons import Reason
from neolayer.enclave.verifying import VERIFIER, Platform, Status, Verdict, judge
from neolayer.engines.postgres.queries import load_queries
from neolayer.tenancy import Principal, Transaction

sql = load_queries(__name__, "attestations.sql")

# Records are the verifier's to write: no SQL of a tenant's people makes evidence out of nothing.
_VERIFIER = Principal.system("verifier")
_STALE = {Reason.COLLATERAL_EXPIRED, Reason.COLLATERAL_TOO_OLD, Reason.LIFETIME_OVER}


@dataclass(frozen=True, slots=True)
class Basis:
    """What a judgement rests on beside the quote."""

    policy: Policy | None
    policy_version: int | None
    collateral: Collateral | None = None

    @property
    def collateral_id(self) -> str | None:
        return self.collateral and self.collateral.id


@dataclass(frozen=True, slots=True)
class Record:
    """What a judgement is about. `status` is what the record becomes by it."""

    id: UUID | None
    enclave_id: str
    quote: bytes
    occasion: str
    status: Status


def judge_by(quote: Quote, basis: Basis, at: datetime, attested_at: datetime | None) -> Verdict:
    if basis.collateral is None:
        return Verdict(Reason.NO_COLLATERAL)
    return judge(quote, basis.collateral, basis.policy, at=at, attested_at=attested_at)


async def store(
    tx: Transaction,
    quote: Quote,
    platform: Platform | None,
    verdict: Verdict,
    basis: Basis,
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
        added = (await tx.execute_as(_VERIFIER, sql.add_attestation, names)).first
        if added is not None:
            record = Record(added[0], enclave_id, quote.raw, "submitted", verdict.status)
            await log(tx, record, verdict, basis, at)
            return outcome(record, verdict, basis)
        known = await tx.one(sql.lock_by_evidence, evidence)
        if known is None:
            raise VersionConflict("the attestation is being stored by somebody else")
        if verdict.reason is Reason.ACCEPTED:
            verdict = _judge_repetition(known, verdict, basis, enclave_id)
    record = Record(known[0], enclave_id, quote.raw, "submitted", verdict.status)
    *_, attested_at, verified_at = known
    is_news = verdict.reason is Reason.ACCEPTED and at >= verified_at
    if is_news or attested_at is None:
        if verdict.reason is Reason.ACCEPTED:
            names = _columns(tx, quote, platform, verdict, basis, enclave_id, at)
            names |= {"id": record.id, "nonce": nonce}
            await tx.execute_as(_VERIFIER, sql.accept_evidence, names)
        await write_judgement(tx, record, verdict, basis, at, at)
    else:
        await log(tx, record, verdict, basis, at)
    return outcome(record, verdict, basis)


def _judge_repetition(
    known: Sequence[Any] | None, verdict: Verdict, basis: Basis, enclave_id: str
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


async def judge_again(
    tx: Transaction, row: Sequence[Any], policy: Policy | None, version: int | None, at: datetime
) -> None:
    attestation_id, enclave_id, raw, tee, fmspc, ca, attested_at = row
    collateral = await collateral_at(tx, Tee(tee), Platform(fmspc, ca), at)
    basis = Basis(policy, version, collateral)
    verdict = await asyncio.to_thread(judge_by, read_quote(raw), basis, at, attested_at)
    status = Status.EXPIRED if verdict.reason in _STALE else verdict.status
    occasion = "expired" if status is Status.EXPIRED else "reverified"
    record = Record(attestation_id, enclave_id, raw, occasion, status)
    await write_judgement(tx, record, verdict, basis, at, None)


async def write_judgement(
    tx: Transaction,
    record: Record,
    verdict: Verdict,
    basis: Basis,
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
    await tx.execute_as(_VERIFIER, sql.judge_attestation, names)
    await log(tx, record, verdict, basis, at)


async def log(
    tx: Transaction, record: Record, verdict: Verdict, basis: Basis, at: datetime
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


def _findings(verdict: Verdict, basis: Basis) -> dict[str, Any]:
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
    basis: Basis,
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


def outcome(record: Record, verdict: Verdict, basis: Basis) -> Outcome:
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
