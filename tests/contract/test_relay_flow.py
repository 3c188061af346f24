"""The relay carries every kind of change from PostgreSQL's commit log to ClickHouse and Redis."""

from __future__ import annotations

import asyncio
import contextlib
import tracemalloc
from collections.abc import Collection, Sequence

import psycopg
import pytest
from tests.fixtures.fix_relay import COLUMNS, RelayScene
from tests.fixtures.patience import PATIENCE_S

from neolayer.errors import EngineUnavailable
from neolayer.freshness import Store
from neolayer.relay import completing
from neolayer.relay.changes import UNCHANGED, Batch, Incomplete, TableChanges
from neolayer.relay.comparable import Shape
from neolayer.relay.sinks.null import NullSink
from neolayer.relay.sinks.sink import Park, Rejected, Snapshot
from neolayer.relay.state import read_state

THOUSAND = (
    "INSERT INTO accounts (id, owner, amount, note)"
    " SELECT g, 'ann', g, 'note ' || g FROM generate_series(1, 1000) g"
)
AWKWARD = r"""INSERT INTO accounts (id, owner, amount, note, details, seen_at, good) VALUES
    (1, E'tab\tand\nline\r\\N', 0, NULL, NULL, '1969-07-20 20:17:40.123456+00', false),
    (2, '', 115792089237316195423570985008687907853269984665640564039457584007913129639935, '',
     '{"a": "x\ty\\z\"", "b": [1.5, null, "ü\u0001"]}', '2261-12-31 23:59:59.999999+14', true),
    (-3, 'ünïcödé 😀', 7, '\N', '"\n"', '2024-02-29 00:00:00+00', true)"""


async def test_what_stood_before_the_first_start_and_what_came_after(
    relay_scene: RelayScene,
) -> None:
    """The first start copies the rows that stand, then streams: none missing, none doubled."""
    relay_scene.sql(THOUSAND, AWKWARD.replace("(1,", "(5001,").replace("(2,", "(5002,"))
    async with relay_scene.relaying():
        position = relay_scene.sql("INSERT INTO accounts (id, owner) VALUES (2000, 'bob')")
        await relay_scene.arrives(position)
        await relay_scene.same()
    assert len(await relay_scene.copied()) == 1004


async def test_every_kind_of_value_arrives_as_it_is(relay_scene: RelayScene) -> None:
    """Tabs, line feeds, backslashes, nulls, JSON, 2^256-1 and instants keep their value."""
    async with relay_scene.relaying():
        await relay_scene.arrives(relay_scene.sql(AWKWARD))
        await relay_scene.same()
        long = "repeat('ab\t', 30000)"  # longer than 64 KiB
        await relay_scene.arrives(
            relay_scene.sql(
                f"UPDATE accounts SET note = {long}",
                "UPDATE accounts SET good = NOT good",
                f"INSERT INTO accounts (id, owner, note) VALUES (9, {long}, 'short')",
            )
        )
        await relay_scene.same()


_LONG = "(SELECT string_agg(md5(g::text || {}), '') FROM generate_series(1, 3000) g)"


async def test_long_values_that_updates_leave_out_are_looked_up(relay_scene: RelayScene) -> None:
    """Under the default replica identity the log lacks them: they are read by the row's key, also
    of a row whose key changes, of one that is changed again and of one that is soon gone."""
    long, other = _LONG.format("'a'"), _LONG.format("'b'")
    relay_scene.sql(
        *(f"ALTER TABLE accounts{part} REPLICA IDENTITY DEFAULT" for part in ("", "_0", "_1")),
        "INSERT INTO accounts (id, owner, note)"
        f" SELECT i, 'ann', {long} FROM generate_series(1, 5) i",
    )
    async with relay_scene.relaying(relay_scene.clickhouse_sink()):
        await relay_scene.arrives(relay_scene.sql("SELECT 1"), Store.CLICKHOUSE)
    position = relay_scene.sql(
        "UPDATE accounts SET amount = amount + 1",
        "UPDATE accounts SET amount = 7 WHERE id = 1",
        f"UPDATE accounts SET note = {other} WHERE id = 2",
        "UPDATE accounts SET id = 30 WHERE id = 3",
        "DELETE FROM accounts WHERE id = 4",
        "UPDATE accounts SET id = 50 WHERE id = 5",
        "DELETE FROM accounts WHERE id = 50",
    )
    async with relay_scene.relaying(relay_scene.clickhouse_sink()):
        await relay_scene.arrives(position, Store.CLICKHOUSE)
        await relay_scene.same()
    assert len(await relay_scene.copied()) == 3


async def test_updates_deletes_and_keys_that_change(relay_scene: RelayScene) -> None:
    """The copy follows updates, deletes, changed keys, and rows that come back."""
    async with relay_scene.relaying():
        await relay_scene.arrives(
            relay_scene.sql(
                THOUSAND,
                "UPDATE accounts SET amount = amount * 2 WHERE id % 3 = 0",
                "DELETE FROM accounts WHERE id % 5 = 0",
                "UPDATE accounts SET id = id + 100000 WHERE id % 7 = 0",
                "INSERT INTO accounts (id, owner) VALUES (5, 'back'), (7, 'back')",
            )
        )
        await relay_scene.same()


async def test_several_changes_of_one_row_in_one_transaction(relay_scene: RelayScene) -> None:
    """Changes under one commit position do not contend: the last one stands."""
    async with relay_scene.relaying():
        await relay_scene.arrives(
            relay_scene.sql(
                """BEGIN;
                INSERT INTO accounts (id, owner) SELECT g, 'x' FROM generate_series(1, 20) g;
                UPDATE accounts SET amount = 1;
                DELETE FROM accounts WHERE id <= 10;
                INSERT INTO accounts (id, owner) SELECT g, 'y' FROM generate_series(1, 5) g;
                UPDATE accounts SET amount = amount + 1 WHERE id IN (1, 20);
                DELETE FROM accounts WHERE id = 2;
                COMMIT"""
            )
        )
        await relay_scene.same()


async def test_a_row_that_moves_to_another_partition_is_one_row(relay_scene: RelayScene) -> None:
    """A move is a delete and an insert of one key in one transaction; the row stays."""
    async with relay_scene.relaying():
        await relay_scene.arrives(
            relay_scene.sql(THOUSAND, "UPDATE accounts SET part = 1 WHERE id % 2 = 0")
        )
        await relay_scene.same()
    assert len(await relay_scene.copied()) == 1000


async def test_truncate_empties_the_copy_and_later_rows_stay(relay_scene: RelayScene) -> None:
    """TRUNCATE removes what came before it, also in its own transaction, and nothing after."""
    async with relay_scene.relaying():
        await relay_scene.arrives(
            relay_scene.sql(
                THOUSAND,
                """BEGIN; INSERT INTO accounts (id, owner) VALUES (3000, 'gone');
                TRUNCATE accounts; INSERT INTO accounts (id, owner) VALUES (3001, 'stays');
                COMMIT""",
                "INSERT INTO accounts (id, owner) VALUES (3002, 'stays')",
            )
        )
        await relay_scene.same()
    assert len(await relay_scene.copied()) == 2


async def test_a_table_that_changes_its_shape_in_mid_stream(relay_scene: RelayScene) -> None:
    """Columns that no copy needs come, go and move without harm, also inside a transaction."""
    async with relay_scene.relaying():
        await relay_scene.arrives(
            relay_scene.sql(
                "INSERT INTO accounts (id, owner) VALUES (1, 'before')",
                "ALTER TABLE accounts ADD COLUMN extra text DEFAULT 'x'",
                "INSERT INTO accounts (id, owner, extra) VALUES (2, 'wider', 'y')",
                """BEGIN; UPDATE accounts SET owner = 'first' WHERE id = 1;
                ALTER TABLE accounts DROP COLUMN extra;
                UPDATE accounts SET owner = 'last' WHERE id = 1; COMMIT""",
                "UPDATE accounts SET amount = 5",
            )
        )
        await relay_scene.same()


async def test_a_missing_column_is_reported_not_guessed(relay_scene: RelayScene) -> None:
    """Without a column that the copy needs the sink stops, and says which."""
    async with relay_scene.relaying(relay_scene.clickhouse_sink()):
        await relay_scene.arrives(relay_scene.sql(THOUSAND), Store.CLICKHOUSE)
        relay_scene.sql(
            "ALTER TABLE accounts RENAME COLUMN note TO remark",
            "INSERT INTO accounts (id, owner) VALUES (2001, 'ann')",
        )
        assert "has no column 'note'" in await relay_scene.error_of("clickhouse")
    assert len(await relay_scene.copied()) == 1000


async def errors_end(scene: RelayScene, *sinks: str) -> None:
    """Return when none of these sinks reports an error."""
    async with asyncio.timeout(PATIENCE_S):
        while (state := read_state(scene.state_file)) is None or any(
            state.lanes[name].error for name in sinks
        ):
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("is_started_again", [False, True])
async def test_C10_a_column_that_was_away_for_a_while_costs_a_copy(
    relay_scene: RelayScene, is_started_again: bool
) -> None:
    """What the log says of that while fits no more, however long one waits. When the table fits
    again its rows are copied, by the relay that met it and by one that is started then."""
    away = "ALTER TABLE accounts RENAME COLUMN note TO remark"
    back = "ALTER TABLE accounts RENAME COLUMN remark TO note"
    async with relay_scene.relaying(relay_scene.clickhouse_sink()):
        await relay_scene.arrives(relay_scene.sql(THOUSAND), Store.CLICKHOUSE)
        relay_scene.sql(away, "UPDATE accounts SET remark = 'meanwhile' WHERE id < 10")
        assert "has no column 'note'" in await relay_scene.error_of("clickhouse")
        if not is_started_again:
            position = relay_scene.sql(back, "UPDATE accounts SET note = 'after' WHERE id < 5")
            await relay_scene.arrives(position, Store.CLICKHOUSE)
            await errors_end(relay_scene, "clickhouse")
    if is_started_again:
        position = relay_scene.sql(back, "UPDATE accounts SET note = 'after' WHERE id < 5")
        async with relay_scene.relaying(relay_scene.clickhouse_sink()):
            await relay_scene.arrives(position, Store.CLICKHOUSE)
            await errors_end(relay_scene, "clickhouse")
    await relay_scene.same()


async def test_C10_deletions_that_name_no_row_cost_a_copy_once_they_do(
    relay_scene: RelayScene,
) -> None:
    """A replica identity without the copies' keys: store and cache say what to do, and while it is
    so nothing is copied in vain; afterwards what was deleted meanwhile is gone from both."""
    narrow = "ALTER TABLE accounts{} REPLICA IDENTITY {}"
    parts = ("", "_0", "_1")
    relay_scene.sql("ALTER TABLE accounts ADD COLUMN other bigint NOT NULL DEFAULT 0")
    relay_scene.sql(
        *(
            statement
            for part in ("_0", "_1")
            for statement in (
                f"CREATE UNIQUE INDEX by_other{part} ON accounts{part} (other, part)",
                f"ALTER TABLE accounts{part} REPLICA IDENTITY USING INDEX by_other{part}",
            )
        )
    )
    async with relay_scene.relaying():
        await relay_scene.arrives(
            relay_scene.sql(
                "INSERT INTO accounts (id, owner, other) SELECT g, 'ann', g"
                " FROM generate_series(1, 20) g"
            )
        )
        relay_scene.sql("DELETE FROM accounts WHERE id <= 10")
        assert "does not name id" in await relay_scene.error_of("clickhouse")
        assert "does not name owner, id" in await relay_scene.error_of("redis")
        state = read_state(relay_scene.state_file)
        assert state is not None
        for name in ("clickhouse", "redis"):
            hint = state.lanes[name].hint
            assert hint and hint.startswith("ALTER TABLE public.accounts REPLICA IDENTITY FULL")
        assert len(await relay_scene.copied()) == 20
        relay_scene.sql(*(narrow.format(part, "FULL") for part in parts))
        await relay_scene.arrives(relay_scene.sql("DELETE FROM accounts WHERE id = 20"))
        await errors_end(relay_scene, "clickhouse", "redis")
        await relay_scene.same()
    assert len(await relay_scene.copied()) == 9


async def test_C8_an_old_key_that_the_log_does_not_tell_stays_nowhere(
    relay_scene: RelayScene,
) -> None:
    """A replica identity without the copy's key: an update may have changed it, and the old row
    would stay in the copy. It says so, and once old rows are told is copied anew."""
    relay_scene.sql(
        "ALTER TABLE accounts ADD COLUMN other bigint NOT NULL DEFAULT 0",
        "CREATE UNIQUE INDEX by_other ON accounts (other, part)",
        "ALTER TABLE accounts REPLICA IDENTITY USING INDEX by_other",
        "ALTER TABLE accounts_0 REPLICA IDENTITY USING INDEX accounts_0_other_part_idx",
        "ALTER TABLE accounts_1 REPLICA IDENTITY USING INDEX accounts_1_other_part_idx",
    )
    async with relay_scene.relaying(relay_scene.clickhouse_sink()):
        position = relay_scene.sql("INSERT INTO accounts (id, owner) VALUES (1, 'ann')")
        await relay_scene.arrives(position, Store.CLICKHOUSE)
        relay_scene.sql("UPDATE accounts SET id = 2")
        assert "does not name id" in await relay_scene.error_of("clickhouse")
        tables = ("accounts", "accounts_0", "accounts_1")
        relay_scene.sql(*(f"ALTER TABLE {one} REPLICA IDENTITY FULL" for one in tables))
        position = relay_scene.sql("UPDATE accounts SET id = 3")
        await relay_scene.arrives(position, Store.CLICKHOUSE)
        await relay_scene.same()


async def test_a_missing_column_is_reported_by_the_first_copy_too(relay_scene: RelayScene) -> None:
    """The copy at the first start names the table and the column."""
    relay_scene.sql("ALTER TABLE accounts RENAME COLUMN note TO remark")
    async with relay_scene.relaying(relay_scene.clickhouse_sink()):
        error = await relay_scene.error_of("clickhouse")
        assert "table public.accounts has no column 'note'" in error
        position = relay_scene.sql("ALTER TABLE accounts RENAME COLUMN remark TO note")
        await relay_scene.arrives(position, Store.CLICKHOUSE)
        await relay_scene.same()


async def test_a_large_transaction_goes_on_in_pieces(relay_scene: RelayScene) -> None:
    """200,000 changes of one transaction arrive, though no batch holds them all."""
    big = (
        "INSERT INTO accounts (id, owner, note) SELECT g, 'ann', repeat(md5(g::text), 8)"
        " FROM generate_series(1, 100000) g"
    )
    async with relay_scene.relaying():
        position = relay_scene.sql(
            f"BEGIN; {big}; UPDATE accounts SET amount = id, part = id % 2; COMMIT"
        )
        await relay_scene.arrives(position, Store.CLICKHOUSE)
        totals = "SELECT count(*), sum(amount)::text, count(DISTINCT id) FROM accounts"
        copied = "SELECT count(), toString(sum(amount)), uniqExact(id) FROM accounts FINAL"
        assert await relay_scene.copied(copied) == relay_scene.rows(totals)


def streams_early(scene: RelayScene) -> None:
    """Let the server send transactions of more than 64 kB before they commit."""
    scene.sql(f"ALTER DATABASE {scene.database} SET logical_decoding_work_mem = '64kB'")


class Told(NullSink):
    """A labelled stand-in for a stream: notes what it accepts, and fails now and then."""

    name = "told"
    tables = frozenset({"public.accounts"})

    def __init__(self, *, fails_at: Collection[int] = ()) -> None:
        super().__init__()
        self.told: list[tuple[int, int, int]] = []
        self.checkpoints: list[int] = []
        self.tries = 0
        self._fails_at = fails_at

    def shape(self, table: str) -> Shape:
        return Shape(("id",), COLUMNS)

    async def begin_again(self, version: int, table: str) -> None: ...

    async def begin_copy(self, version: int) -> None: ...

    async def copy_began(self) -> int:
        return 0

    async def copy_part(self, part: Snapshot, table: str, park: Park, *, asked: bool) -> None: ...

    async def write(self, batches: Sequence[Batch]) -> Sequence[Rejected]:
        told: list[tuple[int, int, int]] = []
        for part in (part for batch in batches for part in batch.changes):
            assert isinstance(part, TableChanges)
            number, note = part.relation.places(("id", "note"))
            for change in part.changes():
                if change.row[note] == UNCHANGED:
                    raise Incomplete(part.relation.table)
                told.append((int(change.row[number]), change.version, len(change.row[note])))
        self.tries += 1
        if self.tries in self._fails_at:
            raise EngineUnavailable("told", "not now")
        self.told += told
        self.checkpoints.append(batches[-1].position)
        return await super().write(batches)


async def test_C7_long_values_are_looked_up_in_pieces_that_memory_has_room_for(
    relay_scene: RelayScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A small write that stands for many megabytes is given piece by piece, each change once and
    in order, also where a piece fails; the checkpoint moves when all is there."""
    monkeypatch.setattr(completing, "PIECE_BYTES", 2 << 20)
    rows, mib = 40, 1 << 20
    relay_scene.sql(
        *(f"ALTER TABLE accounts{part} REPLICA IDENTITY DEFAULT" for part in ("", "_0", "_1")),
        "ALTER TABLE accounts_0 ALTER note SET STORAGE EXTERNAL",
        "INSERT INTO accounts (id, owner, note)"
        f" SELECT i, 'ann', repeat('x', {mib} + i) FROM generate_series(1, {rows}) i",
    )
    sink = Told(fails_at=(3, 7))
    async with relay_scene.relaying(sink):
        await relay_scene.arrives_at(sink, relay_scene.sql("SELECT 1"))
        sink.told.clear()
        sink.checkpoints.clear()
        before = sink.position
        tracemalloc.start()
        try:
            position = relay_scene.sql("UPDATE accounts SET amount = amount + 1")
            await relay_scene.arrives_at(sink, position)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert sorted((number, size) for number, _, size in sink.told) == [
        (number, mib + number) for number in range(1, rows + 1)
    ]
    assert len({version for _, version, _ in sink.told}) == 1
    assert sink.tries > 20 and sink.checkpoints[0] == before
    assert peak < 16 * mib, f"{peak / mib:.1f} MiB for a write of {rows} MiB"


def streamed(scene: RelayScene) -> int:
    """How many transactions the server sent in pieces."""
    query = "SELECT stream_txns FROM pg_stat_replication_slots WHERE slot_name = "
    return int(scene.rows(f"{query}'{scene.slot}'")[0][0])


BIG = (
    "INSERT INTO accounts (id, owner, note)"
    " SELECT g, 'big', repeat(md5(g::text), 8) FROM generate_series({}, {}) g"
)


async def test_C8_large_transactions_are_sent_before_they_commit(relay_scene: RelayScene) -> None:
    """Pieces wait for their commit: savepoints that were rolled back, whole rollbacks, and small
    commits between them, in the order of the commits."""
    streams_early(relay_scene)
    async with relay_scene.relaying():
        await relay_scene.arrives(
            relay_scene.sql("INSERT INTO accounts (id, owner) VALUES (1,'a')")
        )
        with psycopg.connect(relay_scene.dsn) as open_one, psycopg.connect(relay_scene.dsn) as lost:
            open_one.execute(BIG.format(10_000, 12_000))
            lost.execute(BIG.format(20_000, 22_000))
            open_one.execute("SAVEPOINT one")
            open_one.execute(BIG.format(13_000, 15_000))
            open_one.execute("ROLLBACK TO one")
            await relay_scene.arrives(
                relay_scene.sql("UPDATE accounts SET note = 'small' WHERE id = 1")
            )
            await relay_scene.same()
            open_one.execute("UPDATE accounts SET amount = 7 WHERE id = 1")
            open_one.execute(BIG.format(16_000, 17_000))
            lost.rollback()
            open_one.commit()
        await relay_scene.arrives(relay_scene.sql("SELECT 1"))
        await relay_scene.same()
        assert len(await relay_scene.copied()) == 1 + 2_001 + 1_001
        assert streamed(relay_scene) >= 2
    assert not list(relay_scene.folder.rglob("*.open"))


async def test_C8_a_restart_while_a_large_transaction_is_open(relay_scene: RelayScene) -> None:
    """What had been sent of it is sent again, once, under its commit."""
    streams_early(relay_scene)
    async with contextlib.AsyncExitStack() as stack:
        async with relay_scene.relaying():
            await relay_scene.arrives(relay_scene.sql("SELECT 1"))
            open_one = stack.enter_context(psycopg.connect(relay_scene.dsn))
            open_one.execute(BIG.format(1, 3_000))
            await relay_scene.arrives(relay_scene.sql("INSERT INTO accounts VALUES (0, 'small')"))
        async with relay_scene.relaying():
            open_one.execute(BIG.format(3_001, 4_000))
            open_one.commit()
            await relay_scene.arrives(relay_scene.sql("SELECT 1"))
            await relay_scene.same()
    assert len(await relay_scene.copied()) == 4_001


@pytest.mark.parametrize("streaming", [False, True])
async def test_schema_changes_inside_a_large_transaction(
    relay_scene: RelayScene, streaming: bool
) -> None:
    """A table altered between two pieces, and in a part that is rolled back, is read rightly."""
    if streaming:
        streams_early(relay_scene)
    async with relay_scene.relaying():
        await relay_scene.arrives(
            relay_scene.sql("INSERT INTO accounts (id, owner) VALUES (1,'a')")
        )
        with psycopg.connect(relay_scene.dsn) as open_one:
            open_one.execute(BIG.format(1_000, 2_000))
            open_one.execute("ALTER TABLE accounts ADD COLUMN extra text DEFAULT 'x'")
            open_one.execute(BIG.format(2_001, 3_000))
            open_one.execute("SAVEPOINT one")
            open_one.execute("ALTER TABLE accounts DROP COLUMN extra")
            open_one.execute(BIG.format(3_001, 4_000))
            open_one.execute("ROLLBACK TO one")
            open_one.execute(BIG.format(4_001, 5_000))
        await relay_scene.arrives(relay_scene.sql("UPDATE accounts SET amount = 3 WHERE id < 1100"))
        await relay_scene.same()
    assert len(await relay_scene.copied()) == 1 + 3_001


async def test_generated_columns_and_identities_of_several_columns(relay_scene: RelayScene) -> None:
    """A stored generated column is not sent and not missed; a row is known by its whole key."""
    relay_scene.sql(
        "ALTER TABLE accounts ADD COLUMN twice numeric GENERATED ALWAYS AS (amount * 2) STORED"
    )
    async with relay_scene.relaying():
        await relay_scene.arrives(
            relay_scene.sql(
                "INSERT INTO accounts (id, owner, amount) VALUES (1, 'ann', 5), (2, 'bob', 6)",
                "UPDATE accounts SET amount = 7 WHERE id = 2",
                "DELETE FROM accounts WHERE id = 1",
            )
        )
        await relay_scene.same()
