"""What is told of a row that differs: that the store's is merely older, and in which columns.

Each costs a look at the row on both sides, so only rows that are named are looked at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from neolayer.relay.comparable import Comparable
from neolayer.relay.comparing.report import Difference, Kind
from neolayer.relay.comparing.source import SourceTable

_CHANGED = "updated_at"


async def told_stale(
    source: SourceTable, rows: Comparable, table: str, found: Sequence[Difference], *, room: int
) -> list[Difference]:
    """Tell which differing rows are merely older, by `updated_at`; of the first `room`."""
    if _CHANGED not in rows.shape(table).columns or room <= 0:
        return list(found)
    wanted = [one.key for one in found[:room] if one.kind is Kind.DIFFERING]
    ours = await source.values(wanted, _CHANGED)
    told: list[Difference] = []
    for one in found:
        ours_at = ours.get(one.key)
        theirs = await rows.entry(table, one.key) if ours_at else None
        theirs_at = theirs.values.get(_CHANGED) if theirs else None
        is_older = ours_at is not None and theirs_at is not None and _is_before(theirs_at, ours_at)
        told.append(replace(one, kind=Kind.STALE) if is_older else one)
    return told


async def told_columns(
    source: SourceTable, rows: Comparable, table: str, found: Sequence[Difference], *, room: int
) -> list[Difference]:
    """Say in which columns rows differ, where the store has PostgreSQL's texts of them."""
    if room <= 0:
        return list(found)
    both = [one.key for one in found[:room] if one.kind in (Kind.DIFFERING, Kind.STALE)]
    ours = await source.texts(both)
    told: list[Difference] = []
    for one in found:
        mine = ours.get(one.key)
        theirs = await rows.entry(table, one.key) if mine else None
        differ = theirs and mine and _differing_columns(mine, theirs.values)
        told.append(replace(one, columns=differ) if differ else one)
    return told


def _differing_columns(
    ours: Mapping[str, str | None], theirs: Mapping[str, str | None]
) -> tuple[str, ...]:
    return tuple(name for name, text in ours.items() if theirs.get(name) != text)


def _is_before(one: str, other: str) -> bool:
    """Of two instants, each as its store writes it; what no calendar of ours holds is not told."""
    try:
        return datetime.fromisoformat(one) < datetime.fromisoformat(other)
    except (ValueError, TypeError):
        return False
