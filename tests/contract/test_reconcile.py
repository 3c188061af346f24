"""Reconcile finds what differs between PostgreSQL and a copy, by key, and puts it right."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any, cast

import msgspec
import pytest
from tests.fixtures.fix_relay import ACCOUNTS, RelayScene, clickhouse_statements
from tests.fixtures.patience import PATIENCE

from neolayer.catalogue import ClickHouseCopy, DataClass
from neolayer.engines.postgres.connections import connect
from neolayer.freshness import Store
from neolayer.freshness.cache_versions import is_tombstone, read_entry, version_text
from neolayer.position import CURRENT_EPOCH
from neolayer.relay.comparable import Shape
from neolayer.relay.comparing.caches import reconcile_cache
from neolayer.relay.comparing.report import Kind, TableReport
from neolayer.relay.comparing.source import open_source
from neolayer.relay.comparing.stores import open_cache, open_compared
from neolayer.relay.reconcile import reconcile_table
from neolayer.relay.sinks.clickhouse import ClickHouseSink
from neolayer.relay.snapshot import export_snapshot

ROWS = """INSERT INTO accounts (id, owner, amount, note, details, seen_at, good, part)
SELECT g, 'owner ' || g % 7, g::numeric ^ 12, CASE WHEN g % 3 > 0 THEN repeat('n', g % 40) END,
    CASE WHEN g % 4 > 0 THEN jsonb_build_object('g', g, 'tab', E'a\\tb') END,
    '2024-01-01'::timestamptz + g * interval '1 ms', g % 2 = 0, g % 2
FROM generate_series(1, {}) g"""
AWKWARD = r"""INSERT INTO accounts (id, owner, amount, note, details, seen_at, good) VALUES
    (-1, E'tab\tand\nline\r\\N', 0, NULL, NULL, '1970-07-20 20:17:40.1+00', false),
    (-2, '', 115792089237316195423570985008687907853269984665640564039457584007913129639935, '',
     '{"a": "x\ty\\z\"", "b": [1.5, null, "ü"]}', '2261-12-31 23:59:59.999999+14', true),
    (-3, 'ünïcödé 😀', 7, '\N', '"\n"', '2024-02-29 00:00:00+00', true)"""


async def reconcile(
    scene: RelayScene,
    *,
    repair: bool = False,
    deep: bool = False,
    classes: DataClass = ACCOUNTS,
) -> TableReport:
    """The accounts compared with ClickHouse."""
    async with open_compared(scene.endpoints, [classes], patience=PATIENCE) as stores:
        (clickhouse,) = [one for one in stores if one.rows.name == "clickhouse"]
        return await reconcile_table(
            clickhouse,
            ACCOUNTS.table,
            "neolayer",
            lambda: export_snapshot(scene.dsn, epoch=CURRENT_EPOCH),
            repair=repair,
            deep=deep,
        )


def named(report: TableReport, kind: Kind) -> set[tuple[str, ...]]:
    return {one.key for one in report.differences if one.kind is kind}


async def test_equal_stores_have_no_difference(relay_scene: RelayScene) -> None:
    """Every kind of value comes to the same digest on both sides, in one request."""
    relay_scene.sql(ROWS.format(3000), AWKWARD)
    async with relay_scene.relaying():
        report = await reconcile(relay_scene)
    assert (report.total, report.unsettled, report.rows, report.transfers) == (0, 0, 3003, 2)


async def test_rows_that_the_store_lets_go_of_are_not_missing(relay_scene: RelayScene) -> None:
    """A TTL removed year-old rows: no difference, nothing to repair; a younger one is missed."""
    (copy, *others) = ACCOUNTS.copies
    assert isinstance(copy, ClickHouseCopy)
    kept = replace(copy, columns=(*copy.columns, "created_at"), keeps=timedelta(days=365))
    aging = replace(ACCOUNTS, copies=(kept, *others))
    relay_scene.sql(
        "ALTER TABLE accounts ADD COLUMN created_at timestamptz NOT NULL DEFAULT now()",
        ROWS.format(3000),
        "UPDATE accounts SET created_at = now() - interval '366 days' WHERE id % 3 = 0",
    )
    at = relay_scene.endpoints.clickhouse
    await clickhouse_statements(
        at, "ALTER TABLE accounts ADD COLUMN created_at DateTime64(6, 'UTC') AFTER good"
    )
    async with relay_scene.relaying(ClickHouseSink(at, [aging], wait_s=0.01)):
        await relay_scene.arrives(relay_scene.sql("SELECT 1"), Store.CLICKHOUSE)
        await clickhouse_statements(
            at, "ALTER TABLE accounts DELETE WHERE id % 6 = 0 SETTINGS mutations_sync = 2"
        )
        report = await reconcile(relay_scene, classes=aging)
        assert (report.total, report.unsettled, report.rows, report.transfers) == (0, 0, 2000, 2)
        await clickhouse_statements(
            at, "ALTER TABLE accounts DELETE WHERE id = 7 SETTINGS mutations_sync = 2"
        )
        report = await reconcile(relay_scene, classes=aging, repair=True)
    assert named(report, Kind.MISSING) == {("7",)}
    assert (report.repaired, report.left) == (1, 0)


async def test_an_empty_table_is_equal(relay_scene: RelayScene) -> None:
    """No rows on either side are no difference."""
    async with relay_scene.relaying():
        report = await reconcile(relay_scene)
    assert (report.total, report.rows) == (0, 0)


async def test_differences_are_named_and_repaired(relay_scene: RelayScene) -> None:
    """A deleted part, an altered value, an extra row and a missing tail, all in one table."""
    relay_scene.sql(ROWS.format(6_000), AWKWARD)
    async with relay_scene.relaying():
        await relay_scene.arrives(relay_scene.sql("DELETE FROM accounts WHERE id = 77"))
        await clickhouse_statements(
            relay_scene.endpoints.clickhouse,
            "ALTER TABLE accounts DELETE WHERE id BETWEEN 100 AND 120 SETTINGS mutations_sync = 2",
            "ALTER TABLE accounts UPDATE amount = amount + 1 WHERE id = 3000"
            " SETTINGS mutations_sync = 2",
            "ALTER TABLE accounts UPDATE details = NULL WHERE id = -2 SETTINGS mutations_sync = 2",
            "INSERT INTO accounts (id, owner, seen_at, _version) VALUES (-999, 'nobody', 0, 1)",
            "ALTER TABLE accounts DELETE WHERE id > 5900 SETTINGS mutations_sync = 2",
        )
        found = await reconcile(relay_scene)
        assert named(found, Kind.MISSING) == {
            (str(i),) for i in (*range(100, 121), *range(5_901, 6_001))
        }
        assert named(found, Kind.DIFFERING) == {("3000",), ("-2",)}
        assert named(found, Kind.EXTRA) == {("-999",)}
        assert not found.agrees
        repaired = await reconcile(relay_scene, repair=True)
        assert (repaired.total, repaired.repaired, repaired.left) == (124, 124, 0)
        assert repaired.agrees
        assert (await reconcile(relay_scene)).total == 0
        await relay_scene.same()


@pytest.mark.parametrize(
    ("unseen", "expected"),
    [
        (("TRUNCATE accounts_1",), {Kind.EXTRA: {str(n) for n in range(1, 101, 2)}}),
        (
            (
                "ALTER TABLE accounts DETACH PARTITION accounts_1",
                "UPDATE accounts_1 SET note = 'unseen' WHERE id = 7",
                "ALTER TABLE accounts ATTACH PARTITION accounts_1 FOR VALUES IN (1)",
            ),
            {Kind.DIFFERING: {"7"}},
        ),
    ],
    ids=["a partition emptied", "a partition detached"],
)
async def test_C14_what_the_log_does_not_tell_is_found_and_repaired(
    relay_scene: RelayScene, unseen: Sequence[str], expected: dict[Kind, set[str]]
) -> None:
    """A partition emptied by its own name or taken out while it is written to: the log has none of
    it. The difference is found by key, and repaired while the relay runs."""
    relay_scene.sql(ROWS.format(100))
    async with relay_scene.relaying():
        for _ in range(2):  # the second is behind the copy; it tells of one partition alone
            change = "UPDATE accounts SET good = true WHERE part = 0"
            await relay_scene.arrives(relay_scene.sql(change))
        await relay_scene.arrives(relay_scene.sql(*unseen, "INSERT INTO unrelated DEFAULT VALUES"))
        found = await reconcile(relay_scene, repair=True)
        by_kind = {kind: {key for (key,) in named(found, kind)} for kind in Kind}
        assert {kind: keys for kind, keys in by_kind.items() if keys} == expected
        assert found.left == 0 and found.repaired == found.total
        await relay_scene.same()


async def test_a_deep_look_says_which_columns_differ(relay_scene: RelayScene) -> None:
    """By name, never by value; and it finds nothing where all is equal."""
    relay_scene.sql(ROWS.format(100), AWKWARD)
    async with relay_scene.relaying():
        assert (await reconcile(relay_scene, deep=True)).total == 0
        await clickhouse_statements(
            relay_scene.endpoints.clickhouse,
            "ALTER TABLE accounts UPDATE amount = amount + 1, note = 'x' WHERE id = 30"
            " SETTINGS mutations_sync = 2",
        )
        report = await reconcile(relay_scene, repair=True, deep=True)
        assert [(one.key, one.columns) for one in report.differences] == [
            (("30",), ("amount", "note"))
        ]
        assert (report.repaired, report.left) == (1, 0)


async def test_one_difference_among_many_is_found_in_few_requests(
    relay_scene: RelayScene,
) -> None:
    """One request finds the range, each further one a sixteenth of it, the last one the key."""
    relay_scene.sql(ROWS.format(20_000))
    async with relay_scene.relaying():
        await relay_scene.arrives(relay_scene.sql("UPDATE accounts SET good = true WHERE id = 1"))
        await clickhouse_statements(
            relay_scene.endpoints.clickhouse,
            "ALTER TABLE accounts UPDATE note = 'x' WHERE id = 13415 SETTINGS mutations_sync = 2",
        )
        report = await reconcile(relay_scene)
    assert [(one.kind, one.key) for one in report.differences] == [(Kind.DIFFERING, ("13415",))]
    # 20,000 rows: the newest, the whole, sixteenths (1,250 rows), theirs (79 rows), the list
    assert report.transfers == 5


async def test_a_running_writer_makes_no_difference(relay_scene: RelayScene) -> None:
    """What changes, comes and goes while it is compared is never called a difference; a planted
    one is found all the same."""
    relay_scene.sql(ROWS.format(1000))
    stop = asyncio.Event()

    async def write() -> int:
        written = 0
        async with await connect(
            relay_scene.dsn, autocommit=True, application_name="tests"
        ) as connection:
            while not stop.is_set():
                low = written * 37 % 1000
                await connection.execute(
                    "UPDATE accounts SET amount = amount + 1 WHERE id BETWEEN %s AND %s",
                    (low, low + 20),
                )
                await connection.execute("DELETE FROM accounts WHERE id = %s", (low + 5,))
                await connection.execute(
                    "INSERT INTO accounts (id, owner) VALUES (%s, 'back'), (%s, 'new')",
                    (low + 5, 10_000 + written),
                )
                written += 1
                await asyncio.sleep(0.02)
        return written

    async with relay_scene.relaying():
        await relay_scene.arrives(relay_scene.sql("SELECT 1"))
        async with asyncio.TaskGroup() as tasks:
            writing = tasks.create_task(write())
            try:
                assert (await reconcile(relay_scene)).total == 0
                await clickhouse_statements(
                    relay_scene.endpoints.clickhouse,
                    "INSERT INTO accounts (id, owner, seen_at, _version)"
                    " VALUES (-999, 'nobody', 0, 1)",
                )
                found = await reconcile(relay_scene, repair=True)
                assert [(one.kind, one.key) for one in found.differences] == [
                    (Kind.EXTRA, ("-999",))
                ]
                assert found.repaired == 1
            finally:
                stop.set()
        assert writing.result() > 10
        assert (await reconcile(relay_scene)).total == 0


async def test_a_version_that_was_never_committed_is_found_and_removed(
    relay_scene: RelayScene,
) -> None:
    """A row from the future would hide every later change: it is named, and taken away."""
    relay_scene.sql(ROWS.format(10))
    async with relay_scene.relaying():
        await relay_scene.arrives(relay_scene.sql("SELECT 1"))
        await clickhouse_statements(
            relay_scene.endpoints.clickhouse,
            "INSERT INTO accounts (id, owner, seen_at, _version) VALUES"
            " (3, 'later', 0, 9000000000000000000)",
        )
        report = await reconcile(relay_scene, repair=True)
        assert [(one.kind, one.key) for one in report.differences] == [(Kind.AHEAD, ("3",))]
        assert report.agrees
        await relay_scene.same()


async def reconcile_redis(scene: RelayScene, *, repair: bool = False) -> TableReport:
    async with open_cache(scene.endpoints, [ACCOUNTS], patience=PATIENCE) as cache:
        return await reconcile_cache(
            cache,
            ACCOUNTS.table,
            "neolayer",
            lambda: export_snapshot(scene.dsn, epoch=CURRENT_EPOCH),
            repair=repair,
        )


async def test_what_is_cached_is_equal_or_taken_back(relay_scene: RelayScene) -> None:
    """A right entry stays; an altered one, one of no row and one from the future are found, and
    their readers are sent to PostgreSQL. Tombstones and strangers are nobody's difference."""
    relay_scene.sql(ROWS.format(50))
    async with relay_scene.relaying():
        await relay_scene.arrives(relay_scene.sql("SELECT 1"))  # up to here nothing is believed
        position = relay_scene.sql("UPDATE accounts SET amount = 1 WHERE id = 1")
        await relay_scene.arrives(position)
        lsn = version_text(position.version)

        def entry(row: tuple[Any, ...], **altered: Any) -> bytes:
            names = ("id", "owner", "amount", "note", "details", "seen_at", "good")
            return f"{lsn}+".encode() + msgspec.msgpack.encode(
                {**dict(zip(names, row, strict=True)), **altered}
            )

        rows = relay_scene.rows(
            "SELECT id, owner, amount, note, details, seen_at, good FROM accounts ORDER BY id"
        )
        places = {row[0]: f"account:{row[1]}:{row[0]}" for row in rows}
        with relay_scene.redis() as redis:
            redis.set(places[1], entry(rows[0]))
            redis.set(places[2], entry(rows[1], amount=7))
            redis.set("account:nobody:99", entry(rows[1]))
            redis.set("account:nobody:not a number", entry(rows[1]))
            redis.set(places[3], version_text(9 << 60) + "+" + "x")
            redis.set(places[4], lsn + "-")
            redis.set("account:unrelated", "anything")
            found = await reconcile_redis(relay_scene)
            assert named(found, Kind.DIFFERING) == {("owner 2", "2")}
            assert named(found, Kind.EXTRA) == {("nobody", "99"), ("nobody", "not a number")}
            assert named(found, Kind.AHEAD) == {("owner 3", "3")}
            repaired = await reconcile_redis(relay_scene, repair=True)
            assert (repaired.total, repaired.repaired, repaired.left) == (4, 4, 0)
            assert redis.get(places[1]) == entry(rows[0])
            assert read_entry(cast("bytes", redis.get(places[2])), None) is None
            assert redis.get("account:unrelated") == b"anything"
        assert (await reconcile_redis(relay_scene)).total == 0


async def test_a_key_that_is_no_entry_is_found_and_replaced(relay_scene: RelayScene) -> None:
    """Of another type or another form, of a row or of none: readers do not believe it, and it keeps
    the row from being cached, so a comparison names it and repairs it. A tombstone is put there."""
    relay_scene.sql(ROWS.format(5))
    async with relay_scene.relaying(relay_scene.redis_sink()):
        await relay_scene.arrives(relay_scene.sql("SELECT 1"), Store.REDIS)
        with relay_scene.redis() as redis:
            redis.hset("account:owner 1:1", "a", "b")
            redis.rpush("account:owner 2:2", "a")
            redis.set("account:owner 3:3", "z" * 16 + "+text")
            redis.sadd("account:nobody:99", "a")
            redis.hset("account:unrelated", "a", "b")
            found = await reconcile_redis(relay_scene)
            assert named(found, Kind.DIFFERING) == {(f"owner {n}", f"{n}") for n in (1, 2, 3)}
            assert named(found, Kind.EXTRA) == {("nobody", "99")}
            assert found.total == 4 and not found.agrees
            repaired = await reconcile_redis(relay_scene, repair=True)
            assert (repaired.total, repaired.repaired, repaired.left) == (4, 4, 0)
            entries = cast("list[bytes]", redis.mget(redis.keys("account:*:*")))
            assert len(entries) == 4 and all(map(is_tombstone, entries))
            assert redis.type("account:unrelated") == b"hash"
        assert (await reconcile_redis(relay_scene)).total == 0


async def test_a_key_of_another_type_holds_up_no_change(relay_scene: RelayScene) -> None:
    """The row under it changes, and others after it: the relay goes on, and the key is marked."""
    relay_scene.sql(ROWS.format(5))
    async with relay_scene.relaying(relay_scene.redis_sink()):
        await relay_scene.arrives(relay_scene.sql("SELECT 1"), Store.REDIS)
        with relay_scene.redis() as redis:
            redis.hset("account:owner 1:1", "a", "b")
            await relay_scene.arrives(
                relay_scene.sql("UPDATE accounts SET amount = 1 WHERE id IN (1, 2)"), Store.REDIS
            )
            marks = cast("list[bytes]", redis.mget("account:owner 1:1", "account:owner 2:2"))
            assert all(map(is_tombstone, marks))


SCEPTICAL = r"""INSERT INTO accounts (id, owner, amount, note, details, seen_at, good) VALUES
    (9223372036854775807, E'\u00e9', 0, NULL, '{"n": 1.10, "big": 123456789012345678901234567890}',
     '1900-01-01 00:00:00+00', false),
    (-9223372036854775808, E'e\u0301', 1, '', '{"n": 1.1}', '1969-12-31 23:59:59.999999+00', true),
    (1, 'a:b', 2, ' ', '{"a": 2, "a": 3}', '2299-12-31 23:59:59.999999+00', true),
    (2, 'a', 3, 'NULL', 'null', '2024-10-10 10:10:10+00', true),
    (3, '\N', 4, E'\\N', '"null"', '2024-10-10 10:10:10.1+00', true),
    (4, ':5:x', 5, '0', '[1e2, -0.0, 0.10]', '2024-10-10 10:10:10.100001+00', true)"""
ALIKE = (
    "note = '' WHERE id = 9223372036854775807",
    "note = NULL WHERE id = -9223372036854775808",
    "owner = '\u00e9' WHERE id = -9223372036854775808",
    "details = '{\"n\": 1.10}' WHERE id = -9223372036854775808",
    "details = NULL WHERE id = 2",
    "note = NULL WHERE id = 3",
    "owner = '5:x' WHERE id = 4",
    "good = 0 WHERE id = 4",
    "amount = 6 WHERE id = 4",
    "seen_at = '2024-10-10 10:10:10.1' WHERE id = 4",
)


async def test_values_that_look_alike_are_told_apart(relay_scene: RelayScene) -> None:
    """Null, empty and blank; texts that spell a null; other normal forms, other digits of the same
    number, other ends of a type: none is a difference as it is, each is one when it is altered."""
    relay_scene.sql(SCEPTICAL)
    async with relay_scene.relaying(relay_scene.clickhouse_sink()):
        await relay_scene.arrives(relay_scene.sql("SELECT 1"), Store.CLICKHOUSE)
        await relay_scene.same()
        assert (await reconcile(relay_scene)).total == 0
        for altered in ALIKE:
            await clickhouse_statements(
                relay_scene.endpoints.clickhouse,
                f"ALTER TABLE accounts UPDATE {altered} SETTINGS mutations_sync = 2",
            )
            report = await reconcile(relay_scene, repair=True)
            assert (report.total, report.agrees) == (1, True), altered
        assert (await reconcile(relay_scene)).total == 0
        await relay_scene.same()


async def test_what_would_win_over_every_change_to_come_is_found(relay_scene: RelayScene) -> None:
    """A row that is right under a version nobody committed, and a deletion under one, which no
    repair could get past."""
    relay_scene.sql(ROWS.format(10))
    async with relay_scene.relaying(relay_scene.clickhouse_sink()):
        await relay_scene.arrives(relay_scene.sql("SELECT 1"), Store.CLICKHOUSE)
        columns = "id, owner, amount, note, details, seen_at, good"
        await clickhouse_statements(
            relay_scene.endpoints.clickhouse,
            f"INSERT INTO accounts SELECT {columns}, 9000000000000000000, 0 FROM accounts"
            " WHERE id = 3",
            f"INSERT INTO accounts SELECT {columns}, 9000000000000000000, 1 FROM accounts"
            " WHERE id = 4",
        )
        assert named(await reconcile(relay_scene), Kind.AHEAD) == {("3",), ("4",)}
        report = await reconcile(relay_scene, repair=True)
        assert (report.total, report.repaired, report.agrees) == (2, 2, True)
        assert (await reconcile(relay_scene)).total == 0
        position = relay_scene.sql("UPDATE accounts SET note = 'later'")
        await relay_scene.arrives(position, Store.CLICKHOUSE)
        await relay_scene.same()


async def test_a_row_that_a_store_refuses_keeps_no_other_from_being_repaired(
    relay_scene: RelayScene,
) -> None:
    """It stays a difference, and is said to be one."""
    relay_scene.sql(ROWS.format(10))
    async with relay_scene.relaying(relay_scene.clickhouse_sink()):
        await relay_scene.arrives(relay_scene.sql("SELECT 1"), Store.CLICKHOUSE)
        position = relay_scene.sql("UPDATE accounts SET seen_at = 'infinity' WHERE id = 5")
        await relay_scene.arrives(position, Store.CLICKHOUSE)
        await clickhouse_statements(
            relay_scene.endpoints.clickhouse,
            "ALTER TABLE accounts DELETE WHERE id IN (5, 6) SETTINGS mutations_sync = 2",
        )
        report = await reconcile(relay_scene, repair=True)
        assert named(report, Kind.MISSING) == {("5",), ("6",)}
        assert (report.repaired, report.left, report.agrees) == (1, 1, False)


async def test_a_cached_value_of_another_type_is_another_value(relay_scene: RelayScene) -> None:
    """True is not 1 and 1 is not 1.0; keys at the ends of their type are known, and those that hold
    the separator; a value that is no number equals itself."""
    last = 9_223_372_036_854_775_807
    relay_scene.sql("ALTER TABLE accounts ADD rate float8 DEFAULT 'NaN'")
    relay_scene.sql(
        ROWS.format(3), f"INSERT INTO accounts (id, owner) VALUES ({last}, 'last'), (5, 'a:b')"
    )
    async with relay_scene.relaying(relay_scene.redis_sink()):
        await relay_scene.arrives(relay_scene.sql("SELECT 1"), Store.REDIS)
        position = relay_scene.sql("UPDATE accounts SET part = part")
        await relay_scene.arrives(position, Store.REDIS)
        lsn = version_text(position.version)

        def put(key: str, **said: Any) -> None:
            with relay_scene.redis() as redis:
                redis.set(f"account:{key}", f"{lsn}+".encode() + msgspec.msgpack.encode(said))

        put("owner 1:1", id=1, good=False, rate=float("nan"), details={"g": 1, "tab": "a\tb"})
        put("owner 2:2", id=2, good=1)
        put("owner 3:3", id=3.0)
        put(f"last:{last}", id=last)
        put("a:b:5", id=5, owner="a:b")
        report = await reconcile_redis(relay_scene)
        assert named(report, Kind.DIFFERING) == {("owner 2", "2"), ("owner 3", "3")}
        assert report.total == 2


async def test_keys_of_an_enumeration_are_ordered_by_their_words(relay_scene: RelayScene) -> None:
    """A store knows the words only: ranges over them hold the same rows on both sides."""
    relay_scene.sql(
        "CREATE TYPE mood AS ENUM ('zest', 'calm', 'awe')",
        "CREATE TABLE moods (mood mood PRIMARY KEY, owner text)",
        "INSERT INTO moods VALUES ('zest', 'z'), ('calm', 'c'), ('awe', 'a')",
    )
    async with export_snapshot(relay_scene.dsn, epoch=CURRENT_EPOCH) as exported:
        source = await open_source(exported, "public.moods", Shape(("mood",), ("mood", "owner")))
        assert await source.bounds(None, None, 2) == [("zest",)]
        assert set(await source.entries(None, ("zest",))) == {("awe",), ("calm",)}
        assert list(await source.rows([("calm",)])) == [("calm",)]
