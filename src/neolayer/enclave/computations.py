"""What enclaves are asked to compute: claimed by one worker at a time, ended once.

A worker claims with the attestation of its enclave, gets a lease and an attempt number, and keeps
the lease by heart-beats. When it falls silent, another worker claims the computation under the next
number; the first one, coming back, bears the old number and can neither beat nor complete. The
database holds every writer to this (`enclave.guard_computation`), so the verbs here only ask.

Times are the database's own unless `at` is given, so that clocks of workers need not agree.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any
from uuid import UUID

import psycopg

from neolayer import audit
from neolayer.enclave.model import (
    ComputationEnded,
    ComputationNotFound,
    LeaseLost,
    NotAttested,
    checked_name,
    checked_time,
    page_of,
)
from neolayer.enclave.results import ResultCache
from neolayer.engines.postgres.queries import load_queries
from neolayer.errors import InvalidInput, LimitExceeded
from neolayer.tenancy import Scope, Transaction

sql = load_queries(__name__, "computations.sql")

MAX_RESULT_BYTES = 1_048_576
MAX_GAS = 2**63 - 1
LEASE = timedelta(seconds=30)
_LONGEST_LEASE = timedelta(hours=1)


class OutOfGas(LimitExceeded):
    """The computation has used the gas it may."""


class ComputationStatus(StrEnum):
    """Where a computation is."""

    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Computation:
    """One computation, without its result."""

    id: UUID
    user_id: UUID | None
    enclave_id: str
    operation_type: str
    input_hash: str
    output_hash: str | None
    status: ComputationStatus
    attempt: int
    max_attempts: int
    worker: str | None
    attestation_id: UUID | None
    started_at: datetime | None
    heartbeat_at: datetime | None
    lease_until: datetime | None
    completed_at: datetime | None
    error_message: str | None
    gas_used: int
    gas_limit: int
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Claim:
    """A computation that is this worker's until `lease_until`, by the number of its attempt."""

    id: UUID
    attempt: int
    operation_type: str
    input_hash: str
    gas_limit: int
    gas_used: int
    lease_until: datetime


@dataclass(frozen=True, slots=True)
class Result:
    """What came out. `is_attested`: the evidence of the enclave that made it still holds."""

    output_hash: str
    output: bytes | None
    is_attested: bool
    from_cache: bool


@dataclass(frozen=True, slots=True)
class Computations:
    """The computations of a scope's tenant; with a `cache`, results are served from it."""

    scope: Scope
    cache: ResultCache | None = None

    # Asking

    async def submit(
        self,
        *,
        enclave_id: str,
        operation_type: str,
        input_hash: str,
        gas_limit: int = MAX_GAS,
        max_attempts: int = 5,
    ) -> UUID:
        """Ask an enclave for something; the id. Raises InvalidInput."""
        if not 0 < gas_limit <= MAX_GAS or not 1 <= max_attempts <= 100:
            raise InvalidInput("gas_limit is above 0, max_attempts from 1 to 100")
        names = {
            "tenant_id": self.scope.tenant,
            "user_id": self.scope.by.user_id,
            "enclave_id": checked_name("enclave_id", enclave_id),
            "operation_type": checked_name("operation_type", operation_type, longest=100),
            "input_hash": _digest("input_hash", input_hash),
            "gas_limit": gas_limit,
            "max_attempts": max_attempts,
        }
        async with self.scope.transaction() as tx:
            row = await tx.one(sql.submit, names)
            assert row is not None
            _audit(tx, "CREATE", row[0], {"operation_type": operation_type})
        return row[0]

    async def cancel(self, computation_id: UUID, *, at: datetime | None = None) -> None:
        """Nobody wants it any more. Raises ComputationNotFound, ComputationEnded."""
        names = self._named(computation_id, at)
        async with self.scope.transaction() as tx:
            if await tx.one(sql.cancel, names) is None:
                await _require_known(tx, names)
                raise ComputationEnded
            _audit(tx, "UPDATE", computation_id, {"status": "cancelled"})

    # Working

    async def claim(
        self,
        *,
        enclave_id: str,
        attestation_id: UUID,
        worker: str,
        lease: timedelta = LEASE,
        at: datetime | None = None,
    ) -> Claim | None:
        """The oldest that waits or whose worker fell silent, or None.

        Raises NotAttested where the attestation does not hold, or is of another enclave.
        """
        names = {
            "tenant_id": self.scope.tenant,
            "enclave_id": checked_name("enclave_id", enclave_id),
            "attestation_id": attestation_id,
            "worker": checked_name("worker", worker),
            "lease": _lease(lease),
            "at": at and checked_time("at", at),
        }
        async with _refusals():
            row = await self.scope.one(sql.claim, names)
        return None if row is None else Claim(*row)

    async def beat(
        self, claim: Claim, *, gas: int = 0, lease: timedelta = LEASE, at: datetime | None = None
    ) -> Claim:
        """Keep the computation, counting `gas` used since. Raises LeaseLost, OutOfGas."""
        names = self._claimed(claim, gas, at) | {"lease": _lease(lease)}
        async with self.scope.transaction() as tx, _refusals():
            row = await tx.one(sql.beat, names)
            if row is None:
                raise await _lost(tx, names)
        return replace(claim, gas_used=claim.gas_used + gas, lease_until=row[0])

    async def complete(
        self, claim: Claim, output: bytes, *, gas: int = 0, at: datetime | None = None
    ) -> str:
        """The output; its SHA-256. Raises LeaseLost, OutOfGas, NotAttested, InvalidInput."""
        if len(output) > MAX_RESULT_BYTES:
            raise InvalidInput(f"an output has at most {MAX_RESULT_BYTES} bytes")
        output_hash = hashlib.sha256(output).hexdigest()
        names = self._claimed(claim, gas, at) | {"output_hash": output_hash, "result": output}
        await self._end(sql.complete, claim, names, {"status": "completed"})
        return output_hash

    async def fail(
        self, claim: Claim, error_message: str, *, gas: int = 0, at: datetime | None = None
    ) -> None:
        """The end without output. Raises LeaseLost, OutOfGas."""
        told = checked_name("error_message", error_message, longest=2000)
        names = self._claimed(claim, gas, at) | {"error_message": told}
        await self._end(sql.fail, claim, names, {"status": "failed"})

    async def give_up(self, *, at: datetime | None = None) -> int:
        """Fail what has outlived as many workers as it may; how many."""
        names = {"tenant_id": self.scope.tenant, "at": at and checked_time("at", at)}
        async with self.scope.transaction() as tx:
            rows = await tx.fetch(sql.give_up, names)
            for (computation_id,) in rows:
                _audit(tx, "UPDATE", computation_id, {"status": "failed"})
        return len(rows)

    # Reading

    async def computation(self, computation_id: UUID) -> Computation:
        """One of them. Raises ComputationNotFound."""
        row = await self.scope.one(sql.computation, self._named(computation_id, None))
        if row is None:
            raise ComputationNotFound
        return _computation(row)

    async def list(
        self,
        *,
        enclave_id: str | None = None,
        status: ComputationStatus | None = None,
        after: UUID | None = None,
        limit: int = 100,
    ) -> list[Computation]:
        """Computations, the newest first; the next page is `after` the last one's id."""
        asked = page_of(self.scope.tenant, enclave_id, status, after, limit)
        rows = await self.scope.fetch(sql.list_computations, asked)
        return [_computation(row) for row in rows]

    async def result(self, computation_id: UUID, *, at: datetime | None = None) -> Result | None:
        """What came out, or None while nothing has. Raises ComputationNotFound.

        The cache is asked, and filled, only while the enclave's attestation holds; whatever it says
        is believed only if it is what the enclave's output hashed to.
        """
        names = self._named(computation_id, at)
        state = await self.scope.one(sql.result_state, names)
        if state is None:
            raise ComputationNotFound
        status, output_hash, is_kept, holds, remaining = state
        if status != ComputationStatus.COMPLETED:
            return None
        if not is_kept:
            return Result(output_hash, None, bool(holds), from_cache=False)
        cache = self.cache if holds else None
        cached = cache and await cache.get(self.scope.tenant, computation_id)
        if cached is not None and hashlib.sha256(cached).hexdigest() == output_hash:
            return Result(output_hash, cached, is_attested=True, from_cache=True)
        row = await self.scope.one(sql.result, names)
        output = None if row is None else row[0]
        if cache is not None and output is not None:
            await cache.put(self.scope.tenant, computation_id, output, lifetime=remaining)
        elif self.cache is not None:
            await self.cache.forget(self.scope.tenant, computation_id)
        return Result(output_hash, output, bool(holds), from_cache=False)

    def _named(self, computation_id: UUID, at: datetime | None) -> dict[str, Any]:
        return {
            "tenant_id": self.scope.tenant,
            "id": computation_id,
            "at": at and checked_time("at", at),
        }

    def _claimed(self, claim: Claim, gas: int, at: datetime | None) -> dict[str, Any]:
        if not 0 <= gas <= MAX_GAS:
            raise InvalidInput("gas is used, never given back")
        return self._named(claim.id, at) | {"attempt": claim.attempt, "gas": gas}

    async def _end(
        self, query: Any, claim: Claim, names: dict[str, Any], changes: dict[str, Any]
    ) -> None:
        async with self.scope.transaction() as tx, _refusals():
            if await tx.one(query, names) is None:
                raise await _lost(tx, names)
            _audit(tx, "UPDATE", claim.id, changes)


def _computation(row: Sequence[Any]) -> Computation:
    made = Computation(*row)
    return replace(made, status=ComputationStatus(made.status))


async def _require_known(tx: Transaction, names: dict[str, Any]) -> Sequence[Any]:
    row = await tx.one(sql.computation, names)
    if row is None:
        raise ComputationNotFound
    return row


async def _lost(tx: Transaction, names: dict[str, Any]) -> Exception:
    """Why a claim no longer counts."""
    found = _computation(await _require_known(tx, names))
    if found.status is ComputationStatus.RUNNING:
        return LeaseLost(f"attempt {names['attempt']} was taken over by attempt {found.attempt}")
    return LeaseLost(f"the computation is {found.status} already")


@asynccontextmanager
async def _refusals() -> AsyncGenerator[None]:
    """The database's refusals in this room's words."""
    try:
        yield
    except psycopg.errors.CheckViolation as exc:
        match exc.diag.constraint_name:
            case "computations_attested":
                raise NotAttested(hint="verify a fresh quote of this enclave") from exc
            case "computations_gas_within_check":
                raise OutOfGas from exc
            case _:
                raise
    except psycopg.errors.NumericValueOutOfRange as exc:
        raise OutOfGas from exc


def _audit(
    tx: Transaction, action: audit.Action, computation_id: UUID, changes: dict[str, Any]
) -> None:
    audit.append(tx, audit.Entry(action, "computation", str(computation_id), changes))


def _digest(field: str, text: str) -> str:
    if len(text) != 64 or text.strip("0123456789abcdef"):
        raise InvalidInput(f"{field} is a SHA-256 in lower-case hex")
    return text


def _lease(lease: timedelta) -> timedelta:
    if not timedelta(0) < lease <= _LONGEST_LEASE:
        raise InvalidInput("a lease is for at most an hour")
    return lease
