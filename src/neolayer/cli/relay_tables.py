"""What `neolayer relay` shows: sinks, what they refused, rebuilds, and what needs a person."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from neolayer.cli.output import counted, write_table
from neolayer.cli.root import invocation
from neolayer.relay.operations.desk import Letter, RebuildStatus, Standing
from neolayer.relay.state import LaneState, read_state, state_path
from neolayer.relay.status import RelayStatus


def alarms_of(
    found: RelayStatus,
    asked: dict[str, Standing],
    rebuilds: Sequence[RebuildStatus],
    bound: int,
    copied: Mapping[str, Collection[str]],
) -> list[str]:
    """What needs a person; `copied` are the tables of each sink."""
    alarms = [reader.alarm for reader in found.readers if reader.alarm]
    if not found.running:
        alarms.append("The relay is not running.")
    alarms += [
        f"The relay of {reader.database} fails: {reader.error}"
        + (f" ({reader.hint})" if reader.hint else "")
        for reader in found.readers
        if reader.error
    ]
    alarms += [
        f"{sink.name} fails: {sink.error}" + (f" ({sink.hint})" if sink.hint else "")
        for sink in found.sinks
        if sink.error
    ]
    alarms += [
        f"{one.sink}: the rebuild of {one.table} failed: {one.error} (mend the cause, then:"
        f" neolayer relay rebuild {one.sink} {one.table})"
        for one in rebuilds
        if one.state == "failed" and one.table in copied.get(one.sink, ())
    ]
    return [*alarms, *(alarm for one in asked.values() for alarm in one.alarms(bound))]


def show(found: RelayStatus, asked: dict[str, Standing], rebuilds: list[RebuildStatus]) -> None:
    columns = ("sink", "position", "lag", "waiting", "state", "letters")
    lanes = _lanes() if found.running else {}
    write_table(
        columns,
        [
            (
                sink.name,
                sink.position,
                None if sink.lag_bytes is None else f"{sink.lag_bytes} B",
                sink.waiting_rows,
                _state(asked.get(sink.name), lanes.get(sink.name), sink.error)
                if found.running
                else "stands",
                asked[sink.name].letters if sink.name in asked else 0,
            )
            for sink in found.sinks
        ],
        whole="position",
    )
    if rebuilds:
        write_table(
            ("copy of", "in", "state", "parts", "rows", "error"),
            [
                (
                    one.table,
                    one.sink,
                    one.state,
                    f"{one.ranges_done} of {one.ranges}",
                    one.rows,
                    one.error,
                )
                for one in joined(rebuilds)
            ],
        )


def _lanes() -> dict[str, LaneState]:
    """How the relay of this machine sees its sinks, as it last said."""
    state = read_state(state_path(invocation().settings.data_dir))
    return state.lanes if state else {}


def _state(one: Standing | None, lane: LaneState | None, error: str | None) -> str:
    if one is not None and one.paused_at:
        return "paused" if lane is None or lane.paused else "pausing"
    if error:
        return f"fails: {error}"
    return "copies" if lane is not None and lane.copying else "flows"


def joined(rebuilds: list[RebuildStatus]) -> list[RebuildStatus]:
    """The tables of a sink that is copied as a whole in one line."""
    copies: dict[str, list[RebuildStatus]] = {}
    for one in rebuilds:
        if one.whole:
            copies.setdefault(one.sink, []).append(one)
    wholes = [
        replace(
            tables[0],
            table=f"all {counted(len(tables), 'table')}",
            state="copying",
            ranges=sum(one.ranges for one in tables),
            ranges_done=sum(one.ranges_done for one in tables),
            rows=sum(one.rows for one in tables),
        )
        for tables in copies.values()
    ]
    return [*wholes, *(one for one in rebuilds if not one.whole)]


def facts_of(
    found: RelayStatus,
    asked: dict[str, Standing],
    rebuilds: list[RebuildStatus],
    alarms: list[str],
) -> dict[str, Any]:
    return {
        "running": found.running,
        "sinks": [
            {
                "name": sink.name,
                "position": None if sink.position is None else str(sink.position),
                "lag_bytes": sink.lag_bytes,
                "waiting_rows": sink.waiting_rows,
                "error": sink.error,
                "hint": sink.hint,
                "paused_at": asked[sink.name].paused_at if sink.name in asked else None,
                "letters": asked[sink.name].letters if sink.name in asked else 0,
                "unparked": asked[sink.name].unparked if sink.name in asked else 0,
                "most_of": asked[sink.name].most_of if sink.name in asked else None,
                "most": asked[sink.name].most if sink.name in asked else 0,
            }
            for sink in found.sinks
        ],
        "rebuilds": [asdict(one) for one in rebuilds],
        "alarms": alarms,
    }


def letter_facts(one: Letter) -> dict[str, Any]:
    return {**asdict(one), "key": list(one.key)}


def key_text(key: tuple[str | None, ...]) -> str:
    return " ".join("NULL" if text is None else text for text in key)
