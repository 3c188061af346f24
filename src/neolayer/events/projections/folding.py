"""Fold a page of events into rows: plain values in, plain values out, whoever stores them.

An event that cannot be folded is no reason to stop a page. Its stream stands still there: what came
before it counts, what comes after it in the same stream waits, and all other streams flow.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from neolayer.events.errors import ProjectionFailed
from neolayer.events.projections.model import AnyProjection, Key, Occurrence, Row

RowKey = tuple[UUID, Key]
Stream = tuple[UUID, UUID]


@dataclass(frozen=True, slots=True)
class Refusal:
    """The event that a stream stands still at, and why."""

    tenant: UUID
    stream_id: UUID
    version: int
    event_id: UUID
    failed: ProjectionFailed


@dataclass(slots=True)
class Refusals:
    """Which streams stand still, each at its first event that cannot be folded."""

    by_stream: dict[Stream, Refusal] = field(default_factory=dict[Stream, Refusal])

    def __bool__(self) -> bool:
        return bool(self.by_stream)

    def add(self, refusal: Refusal) -> None:
        """Of two of one stream the earlier one counts."""
        stream = refusal.tenant, refusal.stream_id
        known = self.by_stream.get(stream)
        if known is None or refusal.version < known.version:
            self.by_stream[stream] = refusal

    def holds(self, tenant: UUID, stream_id: UUID, version: int) -> bool:
        """Whether an event cannot be folded, or stands behind one that cannot."""
        known = self.by_stream.get((tenant, stream_id))
        return known is not None and known.version <= version

    def copy(self) -> Refusals:
        """The same, to go on with on trial."""
        return Refusals(dict(self.by_stream))

    def first(self) -> ProjectionFailed | None:
        """Why the first of them cannot be folded."""
        return next((one.failed for one in self.by_stream.values()), None)


@dataclass(frozen=True, slots=True)
class Unreadable:
    """What stands in the place of a stored row that does not fit the row's type."""

    reason: str


Stored = Mapping[RowKey, Row | Unreadable]


@dataclass(frozen=True, slots=True)
class Step:
    """One event and the rows it concerns."""

    seen: Occurrence
    keys: tuple[Key, ...]


@dataclass(slots=True)
class Folded:
    """What a page comes to: rows to store, rows to remove."""

    put: dict[RowKey, Row] = field(default_factory=dict[RowKey, Row])
    removed: list[RowKey] = field(default_factory=list[RowKey])


def steps_of(
    projection: AnyProjection, seen: Iterable[Occurrence], refusals: Refusals
) -> list[Step]:
    """Which rows each event concerns; what cannot be told is added to the refusals."""
    found: list[Step] = []
    for one in seen:
        if refusals.holds(one.tenant, one.stream_id, one.version):
            continue
        try:
            found.append(Step(one, _keys(projection, one)))
        except ProjectionFailed as exc:
            refusals.add(refused(one, exc))
    return found


def _keys(projection: AnyProjection, seen: Occurrence) -> tuple[Key, ...]:
    try:
        keys = tuple(dict.fromkeys(tuple(key) for key in projection.keys(seen)))
    except Exception as exc:  # the user's own code
        raise failure(projection, seen, exc) from exc
    if any(len(key) != len(projection.key) for key in keys):
        raise failure(projection, seen, f"a key has {len(projection.key)} parts: {keys}")
    return keys


def keys_of(steps: Iterable[Step]) -> list[RowKey]:
    """Every row that is concerned, once."""
    return list(dict.fromkeys((step.seen.tenant, key) for step in steps for key in step.keys))


def fold(
    projection: AnyProjection, steps: Sequence[Step], stored: Stored, refusals: Refusals
) -> Folded:
    """The rows after these events; an event that cannot be folded is added to the refusals and
    changes none of its rows."""
    rows: dict[RowKey, Row | None] = {}
    for step in steps:
        seen = step.seen
        if refusals.holds(seen.tenant, seen.stream_id, seen.version):
            continue
        try:
            rows |= _after(projection, step, rows, stored)
        except ProjectionFailed as exc:
            refusals.add(refused(seen, exc))
    folded = Folded()
    for at, row in rows.items():
        if row is None:
            folded.removed += [at] if at in stored else []
        elif row != stored.get(at):
            folded.put[at] = row
    return folded


def _after(
    projection: AnyProjection, step: Step, rows: Mapping[RowKey, Row | None], stored: Stored
) -> dict[RowKey, Row | None]:
    """The rows of one event after it. Raises ProjectionFailed."""
    after: dict[RowKey, Row | None] = {}
    for key in step.keys:
        at = (step.seen.tenant, key)
        before = rows[at] if at in rows else stored.get(at)
        if isinstance(before, Unreadable):
            raise failure(projection, step.seen, f"the stored row {key} {before.reason}")
        try:
            row = projection.fold(before, step.seen.at(key))
        except Exception as exc:  # the user's own code
            raise failure(projection, step.seen, exc) from exc
        if row is not None and _key_of(projection, row) != key:
            raise failure(projection, step.seen, f"the row's key is not {key}")
        after[at] = row
    return after


def _key_of(projection: AnyProjection, row: Row) -> Key:
    return tuple(getattr(row, name) for name in projection.key)


def refused(seen: Occurrence, failed: ProjectionFailed) -> Refusal:
    """That this event cannot be folded."""
    return Refusal(seen.tenant, seen.stream_id, seen.version, seen.event_id, failed)


def failure(
    projection: AnyProjection, seen: Occurrence, cause: Exception | str
) -> ProjectionFailed:
    """The one sentence about an event that cannot be folded."""
    what = cause if isinstance(cause, str) else f"{type(cause).__name__}: {cause}"
    failed = ProjectionFailed(
        f"{projection.name} failed on event {seen.event_id}"
        f" ({type(seen.event).__name__}, version {seen.version} of {seen.stream_id}): {what}",
        hint=f"mend it, then: neolayer projections replay {projection.name}",
    )
    failed.event_id = seen.event_id
    return failed
