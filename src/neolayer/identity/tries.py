"""Tries and their counters: which ones a try counts against, and whether it can succeed at all.

A try is counted as failed before its outcome is known, so that a thousand tries at once are a
thousand failures; who gets in takes it back. How long failures make wait: `backoff.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from neolayer.engines.postgres.queries import load_queries
from neolayer.identity import backoff
from neolayer.identity.backoff import Counter, Kind, Source
from neolayer.identity.stored_users import StoredUser
from neolayer.tenancy import Principal, Transaction

QUERIES = load_queries(__name__, "people.sql")

Subjects = Mapping[bytes, tuple[Kind, int]]


@dataclass(frozen=True, slots=True)
class Try:
    """A try and the counters that were read for it."""

    stored: StoredUser
    counters: tuple[Counter, ...]

    @property
    def counted(self) -> tuple[Counter, ...]:
        """What this try counts against: a known device's own failures, or all but those."""
        known = tuple(c for c in self.counters if c.kind is Kind.DEVICE and not c.is_used_up)
        return known or tuple(c for c in self.counters if c.kind is not Kind.DEVICE)

    @property
    def is_by_known_device(self) -> bool:
        return all(counter.kind is Kind.DEVICE for counter in self.counted)

    @property
    def wait(self) -> timedelta:
        return max(counter.wait for counter in self.counted)

    @property
    def is_barred(self) -> bool:
        """Whether it cannot succeed; the answer is that of a wrong password."""
        if any(counter.is_under_attack for counter in self.counted):
            return any(counter.has_tried for counter in self.counted)
        return any(counter.is_used_up for counter in self.counted)

    @property
    def failed_before(self) -> int:
        own = (Kind.ACCOUNT, Kind.DEVICE)
        return sum(counter.failures for counter in self.counters if counter.kind in own)

    def objection(self, *, matches: bool) -> str | None:
        """Why nobody gets in, whatever the second factor; for the audit, never for who asks."""
        if self.stored.id is None:
            return "no such user"
        if not matches:
            return "wrong password"
        if self.is_barred:
            return "too many failures"
        return None if self.stored.is_open else "not active"


def login_subjects(stored: StoredUser, name: str, sources: Sequence[Source]) -> Subjects:
    """What a login counts against: each with its kind, and how much it may do."""
    subjects: dict[bytes, tuple[Kind, int]] = {}
    for source in sources:
        subjects[backoff.pair_subject(name, source.text)] = Kind.PAIR, source.scale
        subjects[backoff.source_subject(source.text)] = Kind.SOURCE, source.scale
    if stored.id is None:
        subjects[backoff.nobody_subject(name)] = Kind.NOBODY, 1
    else:
        subjects[backoff.account_subject(stored.id)] = Kind.ACCOUNT, 1
    if stored.device_id is not None:
        subjects[backoff.device_subject(stored.device_id)] = Kind.DEVICE, 1
    return subjects


async def begin(tx: Transaction, stored: StoredUser, subjects: Subjects) -> Try:
    """Lock and read these counters, and count the try, unless it has to wait."""
    begun = Try(stored, await _opened(tx, subjects))
    if begun.wait:
        return begun
    counted = [counter for counter in begun.counted if not counter.is_used_up]
    values = {
        "subjects": [counter.subject for counter in counted],
        "failures": [counter.level + 1 for counter in counted],
    }
    tx.defer(QUERIES.count_failures, values)
    return begun


async def _opened(tx: Transaction, subjects: Subjects) -> tuple[Counter, ...]:
    rows = await tx.fetch(
        QUERIES.open_counters,
        {
            "tenant_id": tx.tenant,
            "subjects": list(subjects),
            "kinds": [str(kind) for kind, _ in subjects.values()],
        },
    )
    scales = {subject: scale for subject, (_, scale) in subjects.items()}
    return tuple(Counter.of_row(row, scales) for row in rows)


async def forgive_source(tx: Transaction, begun: Try) -> None:
    """Take back what was counted against where it came from: the password was right."""
    subjects = [counter.subject for counter in begun.counted]
    await tx.execute(QUERIES.forgive_source, {"subjects": subjects})


def settle(tx: Transaction, begun: Try, *more: bytes) -> None:
    """Take back what was counted. As nobody: who is known may not touch a counter."""
    subjects = [*(counter.subject for counter in begun.counters), *more]
    tx.defer_as(Principal.anonymous(), QUERIES.settle_counters, {"subjects": subjects})


def forgive(tx: Transaction, user_id: UUID) -> None:
    """Start counting the failures of somebody's account anew: for whoever may change them."""
    tx.defer(QUERIES.require_over, {"user_id": user_id})
    subjects = [backoff.account_subject(user_id), backoff.code_subject(user_id)]
    tx.defer_as(Principal.anonymous(), QUERIES.forget_failures, {"subjects": subjects})
