"""Which server may be read on with what is here already, and what is said of one that may not."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from neolayer.cli.relay_tables import alarms_of
from neolayer.engines.postgres.replication import Server
from neolayer.freshness import PutBack
from neolayer.position import Position, pack_version
from neolayer.relay.changes import Unnamed
from neolayer.relay.known_server import KnownServer
from neolayer.relay.operations.desk import RebuildStatus
from neolayer.relay.state import FlowState, LaneState, RelayState
from neolayer.relay.status import ReaderStatus, RelayStatus, _sink_status

READ = pack_version(1, 5_000)


def known(folder: Path) -> KnownServer:
    """As the next process opens it."""
    return KnownServer(folder, "neolayer")


@pytest.mark.parametrize(
    ("server", "said"),
    [
        (Server("ours", 1, 5_000), None),
        (Server("ours", 1, 9_000), None),
        (Server("ours", 1, 4_999), "PostgreSQL was put back on the same timeline: it is at"),
        (Server("other", 1, 9_000), "PostgreSQL was put back as another server on the same"),
        (Server("ours", 2, 4_999), None),
        (Server("other", 2, 10), None),
    ],
)
def test_C3_a_server_goes_on_where_it_was_or_on_a_later_timeline(
    tmp_path: Path, server: Server, said: str | None
) -> None:
    """Anything else is refused in one sentence that has both positions."""
    known(tmp_path).admit(Server("ours", 1, 5_000), reflected=READ)
    if said is None:
        known(tmp_path).admit(server, reflected=READ)
        return
    with pytest.raises(PutBack, match=said) as refused:
        known(tmp_path).admit(server, reflected=READ)
    assert str(Position(1, server.flushed_lsn)) in refused.value.message
    assert str(Position(1, 5_000)) in refused.value.message


def test_C3_what_was_found_of_a_server_holds_until_a_later_timeline(tmp_path: Path) -> None:
    """Also when it has passed the position again, and the process is another."""
    with pytest.raises(PutBack) as first:
        known(tmp_path).admit(Server("ours", 1, 4_000), reflected=READ)
    with pytest.raises(PutBack) as again:
        known(tmp_path).admit(Server("ours", 1, 9_000), reflected=READ)
    assert again.value.message == first.value.message
    known(tmp_path).admit(Server("ours", 2, 4_100), reflected=READ)
    known(tmp_path).admit(Server("ours", 2, 4_200), reflected=pack_version(2, 4_100))


def test_C3_a_relay_that_refuses_is_as_ready_as_it_gets(tmp_path: Path) -> None:
    """`up` does not wait for it to read; what an earlier relay said counts for nothing."""
    flows = {"neolayer": FlowState("slot", {}, error="x", put_back=True)}
    assert RelayState(1, 0, time.time(), flows).refuses
    assert not RelayState(1, 0, time.time() - 60, flows).refuses
    assert not RelayState(1, 0, time.time(), {"neolayer": FlowState("slot", {}, error="x")}).refuses


def reader(at: int, error: str | None) -> ReaderStatus:
    flushed = Position(1, at)
    return ReaderStatus(
        "neolayer", "slot", True, False, None, None, flushed, 0, 0, None, 0, error, hint="so"
    )


@pytest.mark.parametrize(("at", "bytes_behind"), [(4_000, None), (9_000, 4_000)])
def test_C3_the_lag_of_copies_is_not_nothing_while_the_server_is_refused(
    at: int, bytes_behind: int | None
) -> None:
    """Below the copies' position it is unknown, above it the seconds are; the alarm tells why."""
    state = RelayState(1, 0, 1e12)
    refused = reader(at, "PostgreSQL was put back")
    sink = _sink_status("null", Position(1, 5_000), None, LaneState(), refused, state)
    assert (sink.lag_bytes, sink.lag_seconds) == (bytes_behind, None)
    assert ("it was put back" in (sink.error or "")) is (at < 5_000)
    alarms = alarms_of(RelayStatus((refused,), (sink,)), {}, [], 0, {})
    assert "The relay of neolayer fails: PostgreSQL was put back (so)" in alarms


def test_a_rebuild_that_failed_needs_a_person() -> None:
    """It is among the alarms with what to do, so the exit code tells too; one that is done is not,
    nor one of a table or a sink that is declared no more: nobody could ask for it again."""
    times = (datetime(2026, 1, 1, tzinfo=UTC), None)
    rebuilds = [
        RebuildStatus(sink, table, False, state, error, *times, 1, 1, 1)
        for sink, table, state, error in (
            ("clickhouse", "a.b", "failed", "no column c"),
            ("clickhouse", "a.d", "done", None),
            ("clickhouse", "a.gone", "failed", "no table"),
            ("gone", "a.b", "failed", "no sink"),
        )
    ]
    copied = {"clickhouse": {"a.b", "a.d"}}
    alarms = alarms_of(RelayStatus((), ()), {}, rebuilds, 0, copied)
    assert [alarm for alarm in alarms if "rebuild" in alarm] == [
        "clickhouse: the rebuild of a.b failed: no column c (mend the cause, then:"
        " neolayer relay rebuild clickhouse a.b)"
    ]


def test_an_alarm_tells_what_helps_a_sink_that_fails() -> None:
    """The hint of its last error; none once it has recovered."""
    lane, well = LaneState(), reader(4_000, None)
    state = RelayState(1, 0, 1e12, {"neolayer": FlowState("slot", {"null": lane})})
    lane.failed(Unnamed("public.accounts", ["id"]))
    failing = _sink_status("null", Position(1, 4_000), None, lane, well, state)
    (_, said) = alarms_of(RelayStatus((well,), (failing,)), {}, [], 0, {})
    assert said == (
        "null fails: a change of table public.accounts does not name id, which a copy of it needs"
        " (ALTER TABLE public.accounts REPLICA IDENTITY FULL; then it is copied anew by itself)"
    )
    lane.recovered()
    recovered = _sink_status("null", Position(1, 4_000), None, lane, well, state)
    assert (recovered.error, recovered.hint) == (None, None)
