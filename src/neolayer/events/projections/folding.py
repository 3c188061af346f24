"""Fold a page of events into rows: plain values in, plain values out, whoever stores them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from neolayer.events.errors import ProjectionFailed
from neolayer.events.projections.model import AnyProjection, Key, Occurrence, Row

RowKey = tuple[UUID, Key]


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


def steps_of(projection: AnyProjection, seen: Iterable[Occurrence]) -> list[Step]:
    """Which rows each event concerns. Raises ProjectionFailed."""
    found: list[Step] = []
    for one in seen:
        try:
            keys = tuple(dict.fromkeys(tuple(key) for key in projection.keys(one)))
        except Exception as exc:  # the user's own code
            raise failure(projection, one, exc) from exc
        if any(len(key) != len(projection.key) for key in keys):
            raise failure(projection, one, f"a key has {len(projection.key)} parts: {keys}")
        found.append(Step(one, keys))
    return found


def keys_of(steps: Iterable[Step]) -> list[RowKey]:
    """Every row that is concerned, once."""
    return list(dict.fromkeys((step.seen.tenant, key) for step in steps for key in step.keys))


def fold(projection: AnyProjection, steps: Sequence[Step], stored: Mapping[RowKey, Row]) -> Folded:
    """The rows after these events. Raises ProjectionFailed with the event that it stopped at."""
    rows: dict[RowKey, Row | None] = {}
    for step in steps:
        for key in step.keys:
            at = (step.seen.tenant, key)
            before = rows[at] if at in rows else stored.get(at)
            try:
                after = projection.fold(before, step.seen.at(key))
            except Exception as exc:  # the user's own code
                raise failure(projection, step.seen, exc) from exc
            if after is not None and _key_of(projection, after) != key:
                raise failure(projection, step.seen, f"the row's key is not {key}")
            rows[at] = after
    folded = Folded()
    for at, row in rows.items():
        if row is None:
            folded.removed += [at] if at in stored else []
        elif row != stored.get(at):
            folded.put[at] = row
    return folded


def _key_of(projection: AnyProjection, row: Row) -> Key:
    return tuple(getattr(row, name) for name in projection.key)


def failure(
    projection: AnyProjection, seen: Occurrence, cause: Exception | str
) -> ProjectionFailed:
    """The one sentence about a function that failed."""
    what = cause if isinstance(cause, str) else f"{type(cause).__name__}: {cause}"
    failed = ProjectionFailed(
        f"{projection.name} failed on event {seen.event_id}"
        f" ({type(seen.event).__name__}, version {seen.version} of {seen.stream_id}): {what}",
        hint=f"mend it, then: neolayer projections resume {projection.name}",
    )
    failed.event_id = seen.event_id
    return failed
