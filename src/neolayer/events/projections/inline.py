"""Inline projections: read models that change with the append, in its transaction.

Who appends, reads its own write in the read model at once; the price is that the append waits for
the fold, and fails where the fold does. Rows are locked from reading to commit. Where several
streams feed one row, two appends that would both make it take turns by its name.

Rows are written as FOLDING, a principal of the layer's own: the database takes them from nobody
else (`public.admit_fold()`), so who may run SQL within a tenant has no read model but its events.

A stream that stood still already when the table was made (see `folding.py`) takes appends as
before, and waits in the read model until it is replayed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from uuid import UUID

import msgspec
import psycopg
from psycopg.abc import Params

from neolayer.engines.postgres.queries import load_queries
from neolayer.engines.postgres.round_trip import Rows, Statement
from neolayer.errors import InvalidInput
from neolayer.events.errors import ProjectionNotReady
from neolayer.events.model import RecordedEvent
from neolayer.events.projections.domain import Domain
from neolayer.events.projections.folding import (
    Refusals,
    RowKey,
    Step,
    Stored,
    fold,
    keys_of,
    steps_of,
)
from neolayer.events.projections.model import Mode, Occurrence, of_stream
from neolayer.events.projections.pages import Target, rows_of
from neolayer.events.projections.shape import keys_json, rows_json
from neolayer.tenancy import Principal

QUERIES = load_queries(__name__)
FOLDING = Principal.system("projections")
MOST_ROWS = 500  # each is a lock in the server's memory; lock_read_model_rows() refuses more


class Writer(Protocol):
    """The tenant's transaction that appends."""

    async def fetch(
        self, query: Statement, params: Params | None = None
    ) -> list[tuple[Any, ...]]: ...

    async def execute_as(
        self, by: Principal, query: Statement, params: Params | None = None
    ) -> Rows: ...


@dataclass(frozen=True, slots=True)
class InlineProjections:
    """Every inline projection of a domain."""

    targets: tuple[Target, ...] = ()

    @classmethod
    def of(cls, domain: Domain) -> InlineProjections:
        return cls(
            tuple(
                Target.of(one, domain.registry, locking=True) for one in domain.of_mode(Mode.INLINE)
            )
        )

    def concern(self, category: str, name: str) -> bool:
        """Whether any of them folds such an event."""
        return any(target.wants(category, name) for target in self.targets)

    async def apply(self, tx: Writer, recorded: Sequence[RecordedEvent]) -> None:
        """Fold what was just appended.

        Raises ProjectionFailed and ProjectionNotReady; then the append is undone.
        """
        pages = [page for target in self.targets if (page := await _page(tx, target, recorded))]
        if not pages:
            return
        # Rows are read and locked by now: no table can be switched until this transaction ends.
        params = {
            "names": [page.target.name for page in pages],
            "streams": list({one.stream_id for one in recorded}),
        }
        standing = {(row[0], row[1]) for row in await tx.fetch(QUERIES.held_streams, params)}
        for page in pages:
            await _apply(
                tx, page, {stream for name, stream in standing if name == page.target.name}
            )


@dataclass(frozen=True, slots=True)
class _Page:
    """What an append is to one projection."""

    target: Target
    steps: Sequence[Step]
    stored: Stored


def _occurrence(target: Target, one: RecordedEvent) -> Occurrence:
    kind = target.registry.named(one.category, one.type)
    return Occurrence(
        kind.from_data(one.data, one.schema_version),
        one.tenant_id,
        one.stream_id,
        one.category,
        one.version,
        one.event_id,
        one.recorded_at,
        one.user_id,
    )


async def _page(tx: Writer, target: Target, recorded: Sequence[RecordedEvent]) -> _Page | None:
    """The rows that these events concern, read and locked; None where they concern none."""
    projection, refusals = target.projection, Refusals()
    seen = [_occurrence(target, one) for one in recorded if target.wants(one.category, one.type)]
    steps = steps_of(projection, seen, refusals)
    _require_none(refusals)
    keys = keys_of(steps)
    if not keys:
        return None
    try:
        if projection.keys is not of_stream:  # within a stream, appends take turns already
            _require_few(projection.name, keys)
            locks = {"projection": projection.name, "keys": [_text(key) for key in keys]}
            await tx.fetch(QUERIES.lock_rows, locks)
        found = await tx.fetch(target.at.read, {"keys": keys_json(target.shape, keys)})
    except (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn) as exc:
        raise ProjectionNotReady(
            f"{projection.name}: its table is not there, or is of other rows",
            hint=f"neolayer projections rebuild {projection.name}, then switch",
        ) from exc
    return _Page(target, steps, rows_of(target, keys, found))


async def _apply(tx: Writer, page: _Page, standing: set[UUID]) -> None:
    target, refusals = page.target, Refusals()
    steps = [step for step in page.steps if step.seen.stream_id not in standing]
    folded = fold(target.projection, steps, page.stored, refusals)
    _require_none(refusals)
    if folded.put:
        await tx.execute_as(FOLDING, target.at.put, {"rows": rows_json(folded.put)})
    if folded.removed:
        keys = keys_json(target.shape, folded.removed)
        await tx.execute_as(FOLDING, target.at.remove, {"keys": keys})


def _require_few(name: str, keys: Sequence[RowKey]) -> None:
    if len(keys) > MOST_ROWS:
        raise InvalidInput(
            f"an append concerns {MOST_ROWS} rows of {name} at most, not {len(keys)}",
            hint="append fewer events at once, or fold them asynchronously",
        )


def _require_none(refusals: Refusals) -> None:
    """Refuse the append with the event that cannot be folded. Raises ProjectionFailed."""
    if failed := refusals.first():
        raise failed


def _text(key: RowKey) -> str:
    return msgspec.json.encode(key[1]).decode()
