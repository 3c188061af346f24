"""What the relay does when something breaks: nothing is confirmed early, lost or told twice."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import shutil
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import psycopg
import pytest
from structlog.testing import capture_logs
from tests.fixtures.fix_clickhouse import start_clickhouse
from tests.fixtures.fix_databases import execute
from tests.fixtures.fix_postgres import running_postgres
from tests.fixtures.fix_relay import ACCOUNTS, COPIES, TABLES, RelayScene, clickhouse_statements
from tests.fixtures.patience import PATIENCE_S

from neolayer.engines.endpoints import Database, Role
from neolayer.errors import EngineUnavailable
from neolayer.freshness import Store
from neolayer.relay import decoder, segments
from neolayer.relay.changes import Batch
from neolayer.relay.lane import Lane
from neolayer.relay.reader import Reader
from neolayer.relay.segments import SegmentLog
from neolayer.relay.sinks.clickhouse import ClickHouseSink
from neolayer.relay.sinks.null import NullSink
from neolayer.relay.sinks.sink import CopyLost, Park, Rejected, Snapshot
from neolayer.relay.state import read_state
from neolayer.relay.status import slot_state
from neolayer.settings import RelaySettings

HUNDRED = "INSERT INTO accounts (id, owner) SELECT g, 'ann' FROM generate_series(1, 100) g"


class StubbornSink(NullSink):
    """Refuses every write until `open_at` is set, and remembers what it was given."""

    name = "stubborn"

    def __init__(self) -> None:
        super().__init__()
        self.willing = asyncio.Event()
        self.refused = 0
        self.batches: list[Batch] = []

    async def write(self, batches: Sequence[Batch]) -> Sequence[Rejected]:
        if not self.willing.is_set():
            self.refused += 1
            raise EngineUnavailable("stubborn", "not now")
        self.batches += batches
        return await super().write(batches)


class SlowSink(NullSink):
    """Takes a moment for every write."""

    name = "slow"

    async def write(self, batches: Sequence[Batch]) -> Sequence[Rejected]:
        await asyncio.sleep(0.05)
        return await super().write(batches)


async def until(condition: Callable[[], object], *, seconds: float = PATIENCE_S) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.02)


async def test_C6_a_sink_that_is_down_holds_back_nothing(relay_scene: RelayScene) -> None:
    """While one sink refuses, the other has all rows and PostgreSQL may let go of its log; the
    refused rows wait in ours, over a restart too."""
    stubborn, other = StubbornSink(), NullSink()
    async with relay_scene.relaying(stubborn, other):
        await until(relay_scene.is_streaming)
        position = relay_scene.sql(HUNDRED)
        await until(lambda: other.rows == 100 and stubborn.refused >= 3)
        await until(lambda: relay_scene.confirmed() >= position.lsn)
        assert "not now" in await relay_scene.error_of("stubborn")
    assert stubborn.rows == 0
    stubborn.willing.set()
    async with relay_scene.relaying(stubborn, other):
        await until(lambda: stubborn.rows == 100)
    assert other.rows == 100


@pytest.mark.parametrize(
    ("of", "work", "who"),
    [(Reader, "run", f"the stream of {Database.CORE}"), (SegmentLog, "keep_durable", "the log")],
)
async def test_what_is_cancelled_by_itself_ends_no_stream(
    relay_scene: RelayScene, of: type, work: str, who: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the reader or the log waits for is given up, though nobody wished it: the relay says so
    and begins again."""
    sink, whole, begun = NullSink(), getattr(of, work), 0

    async def cancelled_at_first(self: object, *given: object) -> None:
        nonlocal begun
        begun += 1
        if begun == 1:
            raise asyncio.CancelledError
        await whole(self, *given)

    monkeypatch.setattr(of, work, cancelled_at_first)
    with capture_logs() as logs:
        async with relay_scene.relaying(sink):
            await until(lambda: begun == 2)
            relay_scene.sql(HUNDRED)
            await until(lambda: sink.rows == 100)
    told = [one["error"] for one in logs if "error" in one]
    assert told[0] == f"{who} was left without an answer"


class BrokenSink(NullSink):
    """Has a fault of its own in its first writes."""

    name = "broken"
    failures = 0

    async def write(self, batches: Sequence[Batch]) -> Sequence[Rejected]:
        if self.failures < 2:
            self.failures += 1
            raise KeyError("nothing of this name")
        return await super().write(batches)


async def test_C6_a_fault_in_one_sink_stops_no_other(relay_scene: RelayScene) -> None:
    """An error that nobody thought of is that sink's trouble: told, and tried again."""
    broken, other = BrokenSink(), NullSink()
    async with relay_scene.relaying(broken, other):
        await until(relay_scene.is_streaming)
        relay_scene.sql(HUNDRED)
        await until(lambda: other.rows == 100)
        await until(lambda: broken.rows == 100)
    assert broken.failures == 2


async def test_C6_a_sink_whose_copy_failed_once_is_fed_when_it_is_copied(
    relay_scene: RelayScene,
) -> None:
    """The next try copies what is left, and what is written after that arrives too."""
    relay_scene.sql(HUNDRED)
    sink, failures = relay_scene.clickhouse_sink(), 0
    copy_part = sink.copy_part

    async def fails_once(part: Snapshot, table: str, park: Park) -> None:
        nonlocal failures
        if failures == 0:
            failures += 1
            raise EngineUnavailable("clickhouse", "not now")
        await copy_part(part, table, park)

    sink.copy_part = fails_once  # type: ignore[method-assign]
    async with relay_scene.relaying(sink):
        for amount in (1, 2):
            position = relay_scene.sql(f"UPDATE accounts SET amount = {amount}")
            await relay_scene.arrives(position, Store.CLICKHOUSE)
        assert failures == 1
    assert sorted(await relay_scene.copied()) == sorted(relay_scene.rows())


class HangingSink(NullSink):
    """Begins a write and does not end it until `free` is set."""

    name = "hanging"

    def __init__(self) -> None:
        super().__init__()
        self.free = asyncio.Event()

    async def write(self, batches: Sequence[Batch]) -> Sequence[Rejected]:
        await self.free.wait()
        return await super().write(batches)


async def test_C7_a_slow_sink_delays_no_other(relay_scene: RelayScene) -> None:
    """While one sink has not ended its first write, the others have every later commit."""
    slow, other = HangingSink(), NullSink()
    async with relay_scene.relaying(slow, other, relay_scene.redis_sink()):
        await until(relay_scene.is_streaming)
        for step in range(5):
            position = relay_scene.sql(HUNDRED if not step else "UPDATE accounts SET amount = 1")
            await relay_scene.arrives_at(other, position)
            await relay_scene.arrives(position, Store.REDIS)
        assert slow.rows == 0 and other.rows == 500
        slow.free.set()
        await relay_scene.arrives_at(slow, position)
    assert slow.rows == 500


class RestoredSink(NullSink):
    """Can be put back to what it had before, as a store that was restored."""

    def __init__(self) -> None:
        super().__init__()
        self.put_back_to: int | None = None

    async def write(self, batches: Sequence[Batch]) -> Sequence[Rejected]:
        if self.put_back_to is not None:
            self.position, self.put_back_to = self.put_back_to, None
            raise CopyLost(self.name)
        return await super().write(batches)


async def test_a_sink_that_was_put_back_is_given_what_it_lacks(relay_scene: RelayScene) -> None:
    """From its own older checkpoint on, out of the log: nothing is left out, nothing is copied."""
    sink, behind = RestoredSink(), HangingSink()  # the one that hangs keeps the log
    async with relay_scene.relaying(sink, behind):
        await until(lambda: sink.position is not None)
        before = sink.position
        await relay_scene.arrives_at(sink, relay_scene.sql(HUNDRED))
        sink.put_back_to = before
        await relay_scene.arrives_at(sink, relay_scene.sql("UPDATE accounts SET amount = 1"))
        behind.free.set()
    assert sink.rows == 300 and sink.copies == 0


async def test_what_is_not_on_our_disk_is_not_confirmed(
    relay_scene: RelayScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PostgreSQL hears that we received it, and keeps its log until ours is on the disk."""
    disk = asyncio.Event()
    keep_durable = SegmentLog.keep_durable

    async def keep_durable_later(log: SegmentLog) -> None:
        await disk.wait()
        await keep_durable(log)

    monkeypatch.setattr(SegmentLog, "keep_durable", keep_durable_later)
    sink = NullSink()
    async with relay_scene.relaying(sink):
        await until(relay_scene.is_streaming)
        position = relay_scene.sql(HUNDRED)
        await until(lambda: sink.rows == 100 and relay_scene.received() >= position.lsn)
        assert relay_scene.confirmed() < position.lsn
        disk.set()
        await until(lambda: relay_scene.confirmed() >= position.lsn)


async def test_an_idle_database_does_not_hold_back_log(relay_scene: RelayScene) -> None:
    """Log that concerns no sink is confirmed too, though no row comes."""
    async with relay_scene.relaying(NullSink()):
        await until(relay_scene.is_streaming)
        position = relay_scene.sql(
            "INSERT INTO unrelated (text) SELECT repeat('x', 100) FROM generate_series(1, 5000)"
        )
        await until(lambda: relay_scene.confirmed() >= position.lsn)


async def test_what_changed_while_the_relay_was_away_arrives_at_its_return(
    relay_scene: RelayScene,
) -> None:
    """A stop loses nothing; the next start copies nothing again and streams the rest."""
    async with relay_scene.relaying():
        await relay_scene.arrives(relay_scene.sql(HUNDRED))
    position = relay_scene.sql(
        "UPDATE accounts SET amount = id", "DELETE FROM accounts WHERE id > 50"
    )
    async with relay_scene.relaying():
        await relay_scene.arrives(position)
        await relay_scene.same()


async def test_C14_batches_that_come_twice_or_late_change_nothing(relay_scene: RelayScene) -> None:
    """C14: replayed and reordered batches end in the same rows."""
    recorder = StubbornSink()
    recorder.willing.set()
    async with relay_scene.relaying(recorder, relay_scene.clickhouse_sink()):
        for step in range(5):
            position = relay_scene.sql(
                f"INSERT INTO accounts (id, owner) SELECT g, 's{step}'"
                f" FROM generate_series({step * 10}, {step * 10 + 20}) g"
                " ON CONFLICT (id, part) DO UPDATE SET amount = accounts.amount + 1",
                f"DELETE FROM accounts WHERE id % 7 = {step}",
            )
            await relay_scene.arrives(position, Store.CLICKHOUSE)
    batches = [batch for batch in recorder.batches if batch.rows]
    sink = relay_scene.clickhouse_sink()
    await sink.open(0)
    for again in (batches, batches[::-1], batches[2:4]):
        for batch in again:
            await sink.write([batch])
        await relay_scene.same()
    await sink.close()


@pytest.mark.parametrize("folder", ["elsewhere", "relay"])
async def test_C13_two_relays_at_once_one_works_one_waits(
    relay_scene: RelayScene, folder: str
) -> None:
    """On two machines and on one: the second waits, writes nothing, and then takes over."""
    second = dataclasses.replace(relay_scene, folder=relay_scene.folder.with_name(folder))
    first_sink, second_sink = NullSink(), NullSink()
    async with contextlib.AsyncExitStack() as stack:
        async with relay_scene.relaying(first_sink):
            await until(relay_scene.is_streaming)
            await stack.enter_async_context(second.relaying(second_sink))
            if folder == "elsewhere":
                await until(lambda: "is active for PID" in (said_by(second.state_file) or ""))
            relay_scene.sql(HUNDRED)
            await until(lambda: first_sink.rows == 100)
            assert second_sink.position is None
        update = relay_scene.sql("UPDATE accounts SET amount = 1")
        await relay_scene.arrives_at(second_sink, update)
    assert first_sink.rows == 100 and second_sink.rows >= 100


def said_by(state_file: Path) -> str | None:
    state = read_state(state_file)
    return next((flow.error for flow in state.flows.values()), None) if state else None


async def test_C12_a_slot_that_was_dropped_is_made_anew_and_the_copy_starts_over(
    relay_scene: RelayScene,
) -> None:
    """C12: changes that no stream brings, deletes too, are in the copy after the next start."""
    async with relay_scene.relaying():
        await relay_scene.arrives(relay_scene.sql(HUNDRED))
    relay_scene.sql(
        f"SELECT pg_drop_replication_slot('{relay_scene.slot}')",
        "DELETE FROM accounts WHERE id <= 10",
        "UPDATE accounts SET note = 'missed' WHERE id > 90",
    )
    async with relay_scene.relaying():
        position = relay_scene.sql("INSERT INTO accounts (id, owner) VALUES (500, 'after')")
        await relay_scene.arrives(position)
        await relay_scene.same()


async def test_C12_a_slot_that_is_dropped_while_it_streams_is_made_anew(
    relay_scene: RelayScene,
) -> None:
    """C12: somebody ends the stream and drops the slot in one moment: the running relay makes
    another, and what changed until then is in the copy all the same, deletions too."""
    async with relay_scene.relaying():
        await relay_scene.arrives(relay_scene.sql(HUNDRED))
        with psycopg.connect(relay_scene.dsn, autocommit=True) as connection:
            dropped = False
            while not dropped:
                connection.execute(
                    "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots"
                    " WHERE slot_name = %s",
                    [relay_scene.slot],
                )
                with contextlib.suppress(psycopg.errors.ObjectInUse):
                    connection.execute("SELECT pg_drop_replication_slot(%s)", [relay_scene.slot])
                    dropped = True
        relay_scene.sql(
            "DELETE FROM accounts WHERE id <= 10",
            "UPDATE accounts SET note = 'missed' WHERE id > 90",
        )
        await until(relay_scene.is_streaming)
        position = relay_scene.sql("INSERT INTO accounts (id, owner) VALUES (500, 'after')")
        await relay_scene.arrives(position)
        await relay_scene.same()


async def test_C12_a_folder_that_is_removed_under_the_relay_is_made_anew(
    relay_scene: RelayScene,
) -> None:
    """It says so, goes on by itself, and nothing is missing."""
    async with relay_scene.relaying():
        await relay_scene.arrives(relay_scene.sql(HUNDRED))
        shutil.rmtree(relay_scene.folder)
        await until(lambda: relay_scene.state_file.exists())
        position = relay_scene.sql("DELETE FROM accounts WHERE id <= 10")
        await relay_scene.arrives(position)
        await relay_scene.same()
    assert list(relay_scene.folder.rglob("*.segment"))


async def test_C12_a_log_that_was_lost_costs_only_what_lags(
    relay_scene: RelayScene, tmp_path: Path
) -> None:
    """Another machine takes over with an empty folder: sinks that had everything go on, the one
    that lagged copies."""
    current, lagging = NullSink(), StubbornSink()
    async with relay_scene.relaying(current, lagging):
        await until(relay_scene.is_streaming)
        position = relay_scene.sql(HUNDRED)
        await relay_scene.arrives_at(current, position)
        await until(lambda: relay_scene.confirmed() >= position.lsn)
    relay_scene.folder = tmp_path / "other machine"
    lagging.willing.set()
    async with relay_scene.relaying(current, lagging):
        await relay_scene.arrives_at(lagging, relay_scene.sql("UPDATE accounts SET amount = 1"))
    assert (current.copies, lagging.copies) == (0, 1)


@pytest.mark.parametrize("relay_runs", [False, True])
async def test_a_publication_that_was_taken_back_and_made_again(
    relay_scene: RelayScene, relay_runs: bool
) -> None:
    """A slot that must read what was written while there was no publication (a migration taken back
    and applied again) is made anew and the copies start over; until there is one, the relay says
    what is missing."""
    publication = relay_scene.rows("SELECT pubname FROM pg_publication")[0][0]
    async with contextlib.AsyncExitStack() as stack:
        if relay_runs:
            await stack.enter_async_context(relay_scene.relaying())
        async with relay_scene.relaying() if not relay_runs else contextlib.nullcontext():
            await relay_scene.arrives(relay_scene.sql(HUNDRED))
        relay_scene.sql(
            f"DROP PUBLICATION {publication}",
            "DELETE FROM accounts WHERE id <= 10",
            "INSERT INTO accounts (id, owner) VALUES (200, 'meanwhile')",
        )
        if not relay_runs:
            await stack.enter_async_context(relay_scene.relaying())
        await until(lambda: "does not exist" in (said_by(relay_scene.state_file) or ""))
        relay_scene.sql(
            f"CREATE PUBLICATION {publication} FOR TABLE accounts"
            " WITH (publish_via_partition_root = true)"
        )
        await relay_scene.arrives(relay_scene.sql("UPDATE accounts SET amount = 2 WHERE id = 99"))
        await relay_scene.same()


async def test_a_copy_that_lost_its_rows_gets_them_again(relay_scene: RelayScene) -> None:
    """A ClickHouse that was emptied has no checkpoint, and so is filled from the start."""
    async with relay_scene.relaying():
        await relay_scene.arrives(relay_scene.sql(HUNDRED))
    clickhouse = relay_scene.endpoints.clickhouse
    await clickhouse_statements(
        clickhouse, "DROP TABLE accounts SYNC", "DROP TABLE relay_checkpoints SYNC", *COPIES
    )
    async with relay_scene.relaying():
        await relay_scene.arrives(relay_scene.sql("UPDATE accounts SET amount = 3 WHERE id = 1"))
        await relay_scene.same()


NOTES = (
    "INSERT INTO accounts (id, owner, note)"
    " SELECT g, 'ann', repeat('x', 300) FROM generate_series({0}, {0} + 999) g"
)


async def test_C6_beyond_the_bound_only_the_slowest_sink_copies_again(
    relay_scene: RelayScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sink that is down while more changes come than the log may hold is cut off; at its return
    it copies by itself, and the other never noticed."""
    relay_scene.settings = RelaySettings(batch_seconds=0.05, log_bytes=2 << 20)
    monkeypatch.setattr(decoder, "BATCH_BYTES", 1 << 16)
    monkeypatch.setattr(segments, "_RECENT_BYTES", 1 << 16)
    stubborn, other = StubbornSink(), NullSink()
    async with relay_scene.relaying(stubborn, other):
        await until(relay_scene.is_streaming)
        for first in range(0, 20_000, 1000):
            position = relay_scene.sql(NOTES.format(first))
        await until(lambda: other.rows == 20_000)
        await until(lambda: relay_scene.confirmed() >= position.lsn)
        assert sum(path.stat().st_size for path in relay_scene.folder.rglob("*.segment")) < 3 << 20
        assert other.copies == 0 and stubborn.rows == 0
        stubborn.willing.set()
        await until(lambda: stubborn.copies == 1)
        for first in range(0, 20_000, 1000):  # one lane must not leave the other a log behind
            position = relay_scene.sql(
                f"UPDATE accounts SET amount = 1 WHERE id BETWEEN {first} AND {first + 999}"
            )
            for sink in (stubborn, other):
                await relay_scene.arrives_at(sink, position)
    assert other.copies == 0 and other.rows == 40_000


async def test_C6_reading_waits_for_the_fastest_sink_rather_than_cutting_all_off(
    relay_scene: RelayScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A backlog larger than the log reaches a slow sink that works without a copy."""
    relay_scene.settings = RelaySettings(batch_rows=1000, batch_seconds=0.05, log_bytes=1 << 20)
    monkeypatch.setattr(decoder, "BATCH_BYTES", 1 << 16)
    sink = SlowSink()
    async with relay_scene.relaying(sink):
        await until(relay_scene.is_streaming)
    for first in range(0, 10_000, 1000):
        relay_scene.sql(NOTES.format(first))
    async with relay_scene.relaying(sink):
        await until(lambda: sink.rows == 10_000)
    assert sink.copies == 0


async def test_C11_a_poison_row_is_put_aside_and_its_neighbours_flow(
    relay_scene: RelayScene,
) -> None:
    """A row that ClickHouse cannot read is told with its key and cause; nothing waits for it."""
    refused: list[Rejected] = []

    class Watched(ClickHouseSink):
        async def write(self, batches: Sequence[Batch]) -> Sequence[Rejected]:
            rejected = await super().write(batches)
            refused.extend(rejected)
            return rejected

    sink = Watched(relay_scene.endpoints.clickhouse, [ACCOUNTS], wait_s=0.05)
    async with relay_scene.relaying(sink):
        await relay_scene.arrives(relay_scene.sql(HUNDRED), Store.CLICKHOUSE)
        position = relay_scene.sql(
            "UPDATE accounts SET amount = CASE id WHEN 42 THEN -1 ELSE 7 END, note = E'a\\tb'",
        )
        await relay_scene.arrives(position, Store.CLICKHOUSE)
    ((poison,), copied) = refused, await relay_scene.copied()
    assert poison.table == "public.accounts" and poison.key == ("42",) and not poison.deleted
    assert poison.row["amount"] == "-1" and poison.row["note"] == "a\tb"
    assert poison.cause == "Cannot parse input: expected '\\t' (ClickHouse code 27)"
    assert [int(row[2]) for row in copied] == [0 if row[0] == 42 else 7 for row in copied]


class RejectingSink(NullSink):
    """Refuses every row for ever, and stores its checkpoint all the same."""

    name = "rejecting"

    async def write(self, batches: Sequence[Batch]) -> Sequence[Rejected]:
        before = self.rows
        await super().write(batches)
        one = Rejected("public.accounts", ("1",), batches[-1].position, False, "no", {})
        return [one] * (self.rows - before)


class Killed(BaseException):
    """What a lane cannot catch and try again after."""


async def test_C11_refused_rows_are_put_aside_though_the_relay_dies_in_between(
    relay_scene: RelayScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sink's checkpoint has passed the rows and nobody has seen them yet: they come again."""
    sink = RejectingSink()
    park = Lane._park

    async def die(_: Lane, refused: Sequence[Rejected]) -> None:
        if refused:  # a write of other log may come first
            raise Killed

    monkeypatch.setattr(Lane, "_park", die)
    with pytest.raises(BaseExceptionGroup):
        async with relay_scene.relaying(sink):
            await until(lambda: sink.position is not None)
            relay_scene.sql(HUNDRED)
            await until(lambda: sink.rows == 100)
    monkeypatch.setattr(Lane, "_park", park)
    async with relay_scene.relaying(sink):
        await until(lambda: rejected(relay_scene) == 100)
    assert sink.rows == 200
    async with relay_scene.relaying(sink):
        await relay_scene.arrives_at(sink, relay_scene.sql("SELECT 1"))
    assert sink.rows == 200


def rejected(scene: RelayScene) -> int:
    state = read_state(scene.state_file)
    return state.lanes["rejecting"].rejected if state else 0


@contextlib.asynccontextmanager
async def own_clickhouse(scene: RelayScene, folder: Path) -> AsyncIterator[Callable[[], None]]:
    """A ClickHouse of this test's own; the callable kills it and starts it again."""
    running = [start_clickhouse(folder)]
    port = running[0][1]
    default = dataclasses.replace(scene.endpoints.clickhouse, port=port, database="default")
    mine = dataclasses.replace(default, database=scene.database)
    await clickhouse_statements(default, f"CREATE DATABASE {scene.database}")
    await clickhouse_statements(mine, *COPIES)
    scene.endpoints = dataclasses.replace(scene.endpoints, clickhouse=mine)

    def kill_and_start() -> None:
        running[0][0].kill()
        running[0][0].wait()
        scene.sql("UPDATE accounts SET amount = amount + 1")
        running[0] = start_clickhouse(folder, port=port)

    try:
        yield kill_and_start
    finally:
        running[0][0].terminate()
        running[0][0].wait(timeout=30)


async def test_C14_a_clickhouse_that_dies_is_written_to_again(
    relay_scene: RelayScene, traversable_tmp: Path
) -> None:
    """C14: kill -9 of ClickHouse, changes meanwhile, and the same rows after its return."""
    async with (
        own_clickhouse(relay_scene, traversable_tmp) as kill_and_start,
        relay_scene.relaying(),
    ):
        await relay_scene.arrives(relay_scene.sql(HUNDRED))
        await asyncio.to_thread(kill_and_start)
        await relay_scene.arrives(relay_scene.sql("DELETE FROM accounts WHERE id = 1"))
        await relay_scene.same()


async def test_C12_a_slot_that_the_server_gave_up_on_is_replaced(
    relay_scene: RelayScene, traversable_tmp: Path
) -> None:
    """C12: beyond max_slot_wal_keep_size the server invalidates; the relay copies and goes on."""
    with running_postgres(traversable_tmp, max_slot_wal_keep_size="1MB") as server:
        execute(server, f"CREATE DATABASE {relay_scene.database}")
        relay_scene.endpoints = dataclasses.replace(relay_scene.endpoints, postgres=server)
        with psycopg.connect(relay_scene.dsn, autocommit=True) as connection:
            connection.execute(TABLES)
        async with relay_scene.relaying():
            await relay_scene.arrives(relay_scene.sql(HUNDRED))
        relay_scene.sql(
            "DELETE FROM accounts WHERE id < 50",
            *["SELECT pg_switch_wal()", "INSERT INTO unrelated (text) VALUES ('x')"] * 4,
            "CHECKPOINT",
        )
        state = await slot_state(server.dsn(Role.ADMIN, relay_scene.database), relay_scene.slot)
        assert state is not None and state.lost
        async with relay_scene.relaying():
            await relay_scene.arrives(relay_scene.sql("UPDATE accounts SET amount = 9"))
            await relay_scene.same()


@pytest.mark.parametrize("written_meanwhile", [False, True])
async def test_a_copy_that_was_emptied_is_made_again(
    relay_scene: RelayScene, written_meanwhile: bool
) -> None:
    """Tables dropped and made anew under a running relay (a migration taken back) fill again, also
    where nothing was written while they were gone."""
    async with relay_scene.relaying():
        await relay_scene.arrives(relay_scene.sql(HUNDRED))
        await clickhouse_statements(
            relay_scene.endpoints.clickhouse,
            "DROP TABLE accounts SYNC",
            "DROP TABLE relay_checkpoints SYNC",
        )
        if written_meanwhile:
            relay_scene.sql("INSERT INTO accounts (id, owner) VALUES (1000, 'bob')")
            await relay_scene.error_of("clickhouse")
        await clickhouse_statements(relay_scene.endpoints.clickhouse, *COPIES)
        position = relay_scene.sql("INSERT INTO accounts (id, owner) VALUES (1001, 'cy')")
        await relay_scene.arrives(position)
        await relay_scene.same()
    assert len(await relay_scene.copied()) == 101 + written_meanwhile
