"""A running relay does what it is asked: it pauses, sends again and rebuilds, and loses nothing."""

from __future__ import annotations

import asyncio
import dataclasses
import re
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import pytest
from tests.crash.writer import Writer
from tests.fixtures.fix_relay import ACCOUNTS, COPIES, RelayScene, clickhouse_statements
from tests.fixtures.fix_relay_operations import (
    desk_at,
    differences,
    eventually,
    relaying_with_desk,
    tables,
)

from neolayer.catalogue import DataClass, SealedField
from neolayer.cli import relay as command
from neolayer.cli.root import run
from neolayer.engines.endpoints import Endpoints, Role
from neolayer.errors import EngineUnavailable, NotSupported, RelayError
from neolayer.freshness import Store
from neolayer.relay.changes import Batch
from neolayer.relay.comparable import Shape
from neolayer.relay.copying import tables as copying
from neolayer.relay.operations import desk as desks
from neolayer.relay.operations import watch
from neolayer.relay.operations.desk import Desk, RebuildStatus, desk_of
from neolayer.relay.sinks.null import NullSink
from neolayer.relay.sinks.sink import Park, Rejected, Snapshot
from neolayer.relay.state import read_state

TABLE = "public.accounts"
SEED = 20261127


@pytest.fixture
def scene(relay_scene: RelayScene, monkeypatch: pytest.MonkeyPatch) -> RelayScene:
    relay_scene.sql(tables())
    monkeypatch.setattr(watch, "LOOK_S", 0.05)
    return relay_scene


def is_paused(scene: RelayScene, sink: str) -> bool:
    state = read_state(scene.state_file)
    return state is not None and state.lanes[sink].paused


def error_of(scene: RelayScene, sink: str = "clickhouse") -> str:
    state = read_state(scene.state_file)
    return (state.lanes[sink].error if state else None) or ""


def hint_of(scene: RelayScene, sink: str = "clickhouse") -> str:
    state = read_state(scene.state_file)
    return (state.lanes[sink].hint if state else None) or ""


async def rebuilt(desk: Desk, sink: str = "clickhouse", *, table: str = TABLE) -> RebuildStatus:
    """The rebuild once it has ended."""
    found: list[RebuildStatus] = []

    async def has_ended() -> bool:
        found[:] = await desk.rebuilds(sink, table)
        return bool(found and found[0].ended)

    await eventually(has_ended)
    return found[0]


async def test_a_paused_sink_has_nothing_more_while_others_flow(scene: RelayScene) -> None:
    """Pause holds one sink, over a restart of the relay too; resume loses nothing."""
    other = NullSink()
    async with desk_at(scene) as desk:
        async with relaying_with_desk(scene, scene.clickhouse_sink(), other):
            await scene.arrives(
                scene.sql("INSERT INTO accounts (id, owner) VALUES (1, 'ann')"), Store.CLICKHOUSE
            )
            await desk.pause("clickhouse")
            await eventually(lambda: is_paused(scene, "clickhouse"))
            with Writer(scene.dsn, SEED) as writer:
                await eventually(lambda: writer.committed > 20)
            position = scene.sql("SELECT 1")
            await scene.arrives_at(other, position)
            assert len(await scene.copied()) == 1
        async with relaying_with_desk(scene, scene.clickhouse_sink(), other):
            position = scene.sql("INSERT INTO accounts (id, owner) VALUES (-2, 'bob')")
            await scene.arrives_at(other, position)
            assert len(await scene.copied()) == 1
            assert await desk.resume("clickhouse")
            assert not await desk.resume("clickhouse")
            await scene.arrives(scene.sql("SELECT 1"), Store.CLICKHOUSE)
            await scene.same()


async def test_C8_a_poison_row_is_parked_and_replayed(scene: RelayScene) -> None:
    """C8: its neighbours flow, the letter says why; sent again it is refused again, and taken once
    its cause is mended: as it is then."""
    async with desk_at(scene) as desk, relaying_with_desk(scene, scene.clickhouse_sink()):
        position = scene.sql(
            "INSERT INTO accounts (id, owner, amount)"
            " SELECT g, 'ann', CASE g WHEN 50 THEN -1 ELSE g END FROM generate_series(1, 100) g"
        )
        await scene.arrives(position, Store.CLICKHOUSE)
        assert len(await scene.copied()) == 99
        await eventually(lambda: desk.letters("clickhouse"))
        (letter,) = await desk.letters("clickhouse")
        assert (letter.table, letter.key, letter.tries) == (TABLE, ("50",), 1)
        assert letter.row["amount"] == "-1"
        assert letter.cause
        assert await desk.request_replay("clickhouse", key=("50",)) == 1
        await eventually(lambda: _none_asked(desk))
        (letter,) = await desk.letters("clickhouse")
        assert letter.tries == 2
        await clickhouse_statements(
            scene.endpoints.clickhouse, "ALTER TABLE accounts MODIFY COLUMN amount Int256"
        )
        scene.sql("UPDATE accounts SET owner = 'bob' WHERE id = 51")
        assert await desk.request_replay("clickhouse") == 1
        await eventually(lambda: _none_asked(desk))
        assert await desk.letters("clickhouse") == []
        await scene.arrives(scene.sql("SELECT 1"), Store.CLICKHOUSE)
        await scene.same()


async def test_a_number_that_the_copy_cannot_hold_waits_for_a_wider_column(
    scene: RelayScene,
) -> None:
    """ClickHouse would keep its low bits and say nothing; so nothing is written until it fits."""
    await clickhouse_statements(
        scene.endpoints.clickhouse, "ALTER TABLE accounts MODIFY COLUMN amount Int32"
    )
    scene.sql("ALTER TABLE accounts ALTER COLUMN amount TYPE integer")
    async with desk_at(scene), relaying_with_desk(scene, scene.clickhouse_sink()):
        position = scene.sql("INSERT INTO accounts (id, owner, amount) VALUES (1, 'ann', 7)")
        await scene.arrives(position, Store.CLICKHOUSE)
        scene.sql("ALTER TABLE accounts ALTER COLUMN amount TYPE bigint")
        position = scene.sql("UPDATE accounts SET amount = 4000000000")
        await eventually(lambda: "amount of table public.accounts has 64 bits" in error_of(scene))
        await clickhouse_statements(
            scene.endpoints.clickhouse, "ALTER TABLE accounts MODIFY COLUMN amount Int64"
        )
        await scene.arrives(position, Store.CLICKHOUSE)
        assert [row[2] for row in await scene.copied()] == ["4000000000"]


async def test_a_copy_writes_no_number_that_its_column_cannot_hold(scene: RelayScene) -> None:
    """A first copy and a rebuild look as the stream does; what the hint says can be done as it
    stands, and then the copy ends by itself."""
    await clickhouse_statements(
        scene.endpoints.clickhouse, "ALTER TABLE accounts MODIFY COLUMN amount Nullable(Int32)"
    )
    scene.sql(
        "ALTER TABLE accounts ALTER COLUMN amount TYPE bigint",
        "INSERT INTO accounts (id, owner, amount) VALUES (1, 'ann', 4000000000)",
    )
    async with desk_at(scene) as desk, relaying_with_desk(scene, scene.clickhouse_sink()):
        await eventually(lambda: "amount of table public.accounts has 64 bits" in error_of(scene))
        assert await scene.copied() == []
        widened = re.match("in ClickHouse: (ALTER .*?);", hint_of(scene))
        assert widened and widened[1] == "ALTER TABLE accounts MODIFY COLUMN amount Nullable(Int64)"
        await clickhouse_statements(scene.endpoints.clickhouse, widened[1])
        await scene.arrives(scene.sql("SELECT 1"), Store.CLICKHOUSE)
        assert [row[2] for row in await scene.copied()] == ["4000000000"]
        await clickhouse_statements(
            scene.endpoints.clickhouse,
            "ALTER TABLE accounts MODIFY COLUMN amount Int32 DEFAULT 0 SETTINGS mutations_sync = 2",
        )
        await desk.request_rebuild("clickhouse", TABLE)
        failed = await rebuilt(desk)
        assert failed.error and "has 64 bits" in failed.error
        assert len(await scene.copied()) == 1


async def test_a_key_that_clickhouse_cannot_alter_is_made_anew(scene: RelayScene) -> None:
    """MODIFY COLUMN is refused for what rows are sorted by, so it is not what the hint says."""
    await clickhouse_statements(
        scene.endpoints.clickhouse,
        "DROP TABLE accounts",
        COPIES[0].replace("id Int64", "id Int32"),
    )
    scene.sql("INSERT INTO accounts (id, owner) VALUES (4000000000, 'ann')")
    async with desk_at(scene), relaying_with_desk(scene, scene.clickhouse_sink()):
        await eventually(lambda: "id of table public.accounts has 64 bits" in error_of(scene))
        assert "made anew" in hint_of(scene) and "MODIFY" not in hint_of(scene)
        await clickhouse_statements(scene.endpoints.clickhouse, "DROP TABLE accounts", COPIES[0])
        await scene.arrives(scene.sql("SELECT 1"), Store.CLICKHOUSE)
        await scene.same()


async def test_a_column_that_was_wide_for_a_while_holds_up_nothing(scene: RelayScene) -> None:
    """The log still tells of it as it was; once the table itself fits again, a copy leads past."""
    await clickhouse_statements(
        scene.endpoints.clickhouse, "ALTER TABLE accounts MODIFY COLUMN amount Int32"
    )
    scene.sql("ALTER TABLE accounts ALTER COLUMN amount TYPE integer")
    async with desk_at(scene), relaying_with_desk(scene, scene.clickhouse_sink()):
        position = scene.sql("INSERT INTO accounts (id, owner, amount) VALUES (1, 'ann', 7)")
        await scene.arrives(position, Store.CLICKHOUSE)
        scene.sql(
            "ALTER TABLE accounts ALTER COLUMN amount TYPE bigint", "UPDATE accounts SET amount = 8"
        )
        await eventually(lambda: "amount of table public.accounts has 64 bits" in error_of(scene))
        scene.sql("ALTER TABLE accounts ALTER COLUMN amount TYPE integer")
        position = scene.sql("INSERT INTO accounts (id, owner, amount) VALUES (2, 'bob', 9)")
        await scene.arrives(position, Store.CLICKHOUSE)
        assert [row[2] for row in await scene.copied()] == ["8", "9"]


async def test_C8_a_word_that_an_enum_does_not_have_is_a_poison_row(scene: RelayScene) -> None:
    """C8: the server's code for it (691) is told apart from trouble that passes."""
    await clickhouse_statements(
        scene.endpoints.clickhouse,
        "ALTER TABLE accounts MODIFY COLUMN note Nullable(Enum8('ann' = 1))",
    )
    async with desk_at(scene) as desk, relaying_with_desk(scene, scene.clickhouse_sink()):
        position = scene.sql(
            "INSERT INTO accounts (id, owner, note) VALUES (1, 'ann', 'ann'), (2, 'bob', 'bob')"
        )
        await scene.arrives(position, Store.CLICKHOUSE)
        await eventually(lambda: desk.letters("clickhouse"))
        (letter,) = await desk.letters("clickhouse")
        assert (letter.key, "691" in letter.cause) == (("2",), True)


async def test_C8_a_poison_row_that_is_gone_is_replayed_as_a_deletion(scene: RelayScene) -> None:
    """The letter of a row that was deleted since is removed, and the sink has no row."""
    async with desk_at(scene) as desk, relaying_with_desk(scene, scene.clickhouse_sink()):
        await scene.arrives(scene.sql("SELECT 1"), Store.CLICKHOUSE)
        scene.sql("INSERT INTO accounts (id, owner, amount) VALUES (1, 'ann', -1)")
        await eventually(lambda: desk.letters("clickhouse"))
        await scene.arrives(scene.sql("DELETE FROM accounts"), Store.CLICKHOUSE)
        await desk.request_replay("clickhouse", table=TABLE)
        await eventually(lambda: _none_asked(desk))
        assert await desk.letters("clickhouse") == []
        assert await scene.copied() == []


async def test_C8_a_poison_row_that_is_deleted_is_gone(scene: RelayScene) -> None:
    """Whatever else it had: only its key is told, so what was refused before holds up nothing."""
    scene.sql("ALTER TABLE accounts REPLICA IDENTITY FULL")
    async with desk_at(scene) as desk, relaying_with_desk(scene, scene.clickhouse_sink()):
        await scene.arrives(scene.sql("SELECT 1"), Store.CLICKHOUSE)
        scene.sql("INSERT INTO accounts (id, owner, amount) VALUES (1, 'ann', 1), (2, 'bob', 1)")
        scene.sql("UPDATE accounts SET amount = -1 WHERE id = 1")
        await scene.arrives(scene.sql("DELETE FROM accounts WHERE id = 1"), Store.CLICKHOUSE)
        assert [row[0] for row in await scene.copied()] == [2]
        scene.sql("UPDATE accounts SET amount = -1 WHERE id = 2")
        position = scene.sql("UPDATE accounts SET id = 3, amount = 1 WHERE id = 2")
        await scene.lane_at("clickhouse", position)
        assert [row[0] for row in await scene.copied()] == [3]
        assert not any(one.deleted for one in await desk.letters("clickhouse"))


async def test_C8_a_poison_row_of_a_first_copy_is_parked_too(scene: RelayScene) -> None:
    """What the store refuses of the tables as they stand has a letter as well."""
    scene.sql("INSERT INTO accounts (id, owner, amount) VALUES (1, 'ann', -1), (2, 'bob', 1)")
    async with desk_at(scene) as desk, relaying_with_desk(scene, scene.clickhouse_sink()):
        await eventually(lambda: desk.letters("clickhouse"))
        await scene.arrives(scene.sql("SELECT 1"), Store.CLICKHOUSE)
        assert [one.key for one in await desk.letters("clickhouse")] == [("1",)]
        assert [row[0] for row in await scene.copied()] == [2]


class PoisonedSink(NullSink):
    """Refuses every row for ever."""

    name = "poisoned"

    async def write(self, batches: Sequence[Batch]) -> Sequence[Rejected]:
        await super().write(batches)
        rows = [row for batch in batches for row in range(batch.rows)]
        return [
            Rejected(TABLE, (str(row),), batches[-1].position, False, "no", {"owner": "ann"})
            for row in rows
        ]


async def test_C8_nothing_is_passed_by_while_it_cannot_be_parked(
    scene: RelayScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While letters cannot be written the sink's place in the log stays before the row."""
    park, calls = Desk.park, 0

    async def failing(desk: Desk, sink: str, database: str, rejected: Sequence[Rejected]) -> None:
        nonlocal calls
        calls += bool(rejected)
        if rejected and calls < 3:
            raise EngineUnavailable("postgres", "the letters' table is away")
        await park(desk, sink, database, rejected)

    monkeypatch.setattr(Desk, "park", failing)
    async with desk_at(scene) as desk, relaying_with_desk(scene, PoisonedSink()):
        await eventually(lambda: scene.is_streaming())
        scene.sql("INSERT INTO accounts (id, owner) VALUES (1, 'ann')")

        async def is_parked() -> bool:
            return bool(await desk.letters("poisoned"))

        await eventually(is_parked)
        assert calls == 3


async def test_letters_are_bounded_and_the_rest_is_counted(scene: RelayScene) -> None:
    """The oldest are kept; for how many there was no room is known."""
    async with desk_at(scene) as desk, relaying_with_desk(scene, PoisonedSink(), room=3):
        await eventually(lambda: scene.is_streaming())
        scene.sql("INSERT INTO accounts (id, owner) SELECT g, 'ann' FROM generate_series(1, 5) g")

        async def is_counted() -> bool:
            return [(one.letters, one.unparked) for one in await desk.standings()] == [(3, 2)]

        await eventually(is_counted)
        assert [one.key for one in await desk.letters("poisoned")] == [("0",), ("1",), ("2",)]


async def test_letters_hold_no_sealed_and_no_personal_values(scene: RelayScene) -> None:
    """They are masked in the row and where the store's words quote them."""
    seal = SealedField("note", "owner", bound_to={"tenant": "id"})
    hidden = DataClass(
        "accounts", "neolayer", TABLE, personal_fields=("owner",), sealed_fields=(seal,)
    )
    row = {"id": "1", "owner": "Ann Example", "note": "sealed:secret", "good": "t"}
    one = Rejected(TABLE, ("1",), 7, False, "bad owner 'Ann Example'\0", row)
    async with desk_at(scene, classes=(hidden,)) as desk:
        await desk.park("clickhouse", "neolayer", [one])
        (letter,) = await desk.letters("clickhouse")
    assert letter.row == {"id": "1", "owner": "(masked)", "note": "(masked)", "good": "t"}
    assert letter.cause == "bad owner '(masked)'\\0"


async def test_a_rebuild_beside_a_writer_leaves_no_difference(
    scene: RelayScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy that was damaged, rebuilt in many ranges while rows change, equals the source; what
    the source lacks is gone."""
    monkeypatch.setattr(copying, "RANGE_ROWS", 200)
    scene.sql(
        "INSERT INTO accounts (id, owner) SELECT g, 'ann' FROM generate_series(10001, 12000) g"
    )
    async with desk_at(scene) as desk, relaying_with_desk(scene, scene.clickhouse_sink()):
        await scene.arrives(scene.sql("SELECT 1"), Store.CLICKHOUSE)
        await clickhouse_statements(
            scene.endpoints.clickhouse,
            "ALTER TABLE accounts DELETE WHERE id % 3 = 0 SETTINGS mutations_sync = 2",
            "INSERT INTO accounts (id, owner, seen_at, _version) VALUES (-9, 'nobody', 0, 1)",
        )
        assert (await differences(scene)).total > 600
        with Writer(scene.dsn, SEED):
            assert await desk.request_rebuild("clickhouse", TABLE)
            status = await rebuilt(desk)
            assert (status.state, status.error) == ("done", None)
            assert status.ranges == status.ranges_done >= 10
            assert status.rows >= 2000
        report = await differences(scene)
        assert (report.total, report.unsettled) == (0, 0)
        await scene.same()


async def test_a_rebuild_waits_while_the_sink_is_paused_and_goes_on(
    scene: RelayScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ranges that are in stay in; the others follow after resume, also after a restart."""
    monkeypatch.setattr(copying, "RANGE_ROWS", 100)
    monkeypatch.setattr(copying, "PARALLEL", 1)
    scene.sql("INSERT INTO accounts (id, owner) SELECT g, 'ann' FROM generate_series(1, 1000) g")
    copies = 0
    sink = scene.clickhouse_sink()
    copy_part = sink.copy_part

    async def counted(part: object, table: str, park: Park) -> None:
        nonlocal copies
        copies += 1
        if copies == 4:
            await desk.pause("clickhouse")
            await eventually(lambda: is_paused(scene, "clickhouse"))
        await copy_part(part, table, park)  # type: ignore[arg-type]

    async with desk_at(scene) as desk:
        async with relaying_with_desk(scene, sink):
            await scene.arrives(scene.sql("SELECT 1"), Store.CLICKHOUSE)
            sink.copy_part = counted  # type: ignore[method-assign]
            await desk.request_rebuild("clickhouse", TABLE)
            assert not await desk.request_rebuild("clickhouse", TABLE)

            async def is_halfway() -> bool:
                (found,) = await desk.rebuilds("clickhouse", TABLE)
                return found.ranges_done == 4 and is_paused(scene, "clickhouse")

            await eventually(is_halfway)
        copies = 4
        await desk.resume("clickhouse")
        async with relaying_with_desk(scene, sink):
            status = await rebuilt(desk)
        assert (status.state, status.ranges_done, status.rows, copies) == ("done", 10, 1000, 10)


async def test_C12_a_first_copy_that_is_cut_short_goes_on_with_what_is_left(
    scene: RelayScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ranges that are in are not read again by the next process, whatever changed between the two
    snapshots; the checkpoint is stored when all is there, and then nothing differs."""
    monkeypatch.setattr(copying, "RANGE_ROWS", 100)
    monkeypatch.setattr(copying, "PARALLEL", 1)
    scene.sql("INSERT INTO accounts (id, owner) SELECT g, 'ann' FROM generate_series(1, 1000) g")
    parts = 0
    sink = scene.clickhouse_sink()
    copy_part = sink.copy_part

    async def counted(part: object, table: str, park: Park) -> None:
        nonlocal parts
        parts += 1
        if parts == 4:
            await desk.pause("clickhouse")
            await eventually(lambda: is_paused(scene, "clickhouse"))
        await copy_part(part, table, park)  # type: ignore[arg-type]

    sink.copy_part = counted  # type: ignore[method-assign]
    async with desk_at(scene) as desk:
        async with relaying_with_desk(scene, sink):

            async def is_halfway() -> bool:
                found = [one for one in await desk.rebuilds() if one.whole]
                return [one.ranges_done for one in found] == [4]

            await eventually(is_halfway)
        assert await sink.open(0) is None
        scene.sql(
            "DELETE FROM accounts WHERE id IN (7, 950)",
            "UPDATE accounts SET id = 2000 WHERE id = 8",
            "UPDATE accounts SET id = 9 - 10000 WHERE id = 960",
            "INSERT INTO accounts (id, owner) VALUES (-5, 'new')",
            "UPDATE accounts SET owner = 'bob' WHERE id % 7 = 0",
        )
        await desk.resume("clickhouse")
        async with relaying_with_desk(scene, sink):
            await scene.arrives(scene.sql("SELECT 1"), Store.CLICKHOUSE)
            assert parts == 10
            assert [one for one in await desk.rebuilds() if one.whole] == []
            report = await differences(scene)
        assert (report.total, report.unsettled) == (0, 0)
        await scene.same()


async def test_C12_a_copy_of_a_store_that_was_emptied_meanwhile_starts_over(
    scene: RelayScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is noted as copied lay in the store that is gone: nothing of it is believed."""
    monkeypatch.setattr(copying, "RANGE_ROWS", 100)
    monkeypatch.setattr(copying, "PARALLEL", 1)
    scene.sql("INSERT INTO accounts (id, owner) SELECT g, 'ann' FROM generate_series(1, 300) g")
    sink = scene.clickhouse_sink()
    copy_part, parts = sink.copy_part, 0

    async def emptied(part: object, table: str, park: Park) -> None:
        nonlocal parts
        parts += 1
        await copy_part(part, table, park)  # type: ignore[arg-type]
        if parts == 2:
            await clickhouse_statements(
                scene.endpoints.clickhouse,
                "TRUNCATE TABLE accounts",
                "TRUNCATE TABLE relay_checkpoints",
            )

    sink.copy_part = emptied  # type: ignore[method-assign]
    async with desk_at(scene), relaying_with_desk(scene, sink):
        await scene.arrives(scene.sql("SELECT 1"), Store.CLICKHOUSE)
        assert parts == 6
        await scene.same()


class Teller(NullSink):
    """A labelled stand-in for a stream: what it was told, in order."""

    name = "teller"
    tables = frozenset({TABLE})

    def __init__(self) -> None:
        super().__init__()
        self.told: list[str] = []
        self.began = 0
        self.before_part: Callable[[int], Awaitable[None]] | None = None
        self.refuses: Exception | None = None

    def shape(self, table: str) -> Shape:
        return Shape(("id",), ("id", "owner"))

    async def begin_copy(self, version: int) -> None:
        self.began = version

    async def copy_began(self) -> int:
        return self.began

    async def begin_again(self, version: int, table: str) -> None:
        if self.refuses is not None:
            raise self.refuses
        self.told.append("truncated")

    async def copy_part(self, part: Snapshot, table: str, park: Park, *, asked: bool) -> None:
        if self.before_part is not None:
            await self.before_part(len(self.told))
        self.told.append("part")
        lines = [block async for block in part.rows(table, ["id"])]
        keys = b"".join(lines).split()
        self.told += [key.decode() for key in keys]
        await park([Rejected(TABLE, ("13",), part.version, False, "unlucky", {})] * (b"13" in keys))

    async def write(self, batches: Sequence[Batch]) -> Sequence[Rejected]:
        self.told.append("write")
        return await super().write(batches)


async def test_a_stream_is_told_a_table_again_in_parts_between_its_writes(
    scene: RelayScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`truncated` once, then each range once, also when the relay starts anew in their midst; no
    write comes into a range, and what is refused leaves a letter."""
    monkeypatch.setattr(copying, "RANGE_ROWS", 100)
    scene.sql("INSERT INTO accounts (id, owner) SELECT g, 'ann' FROM generate_series(1, 500) g")
    sink = Teller()

    async def stop_at_the_third(told: int) -> None:
        if sink.told.count("part") == 2:
            await desk.pause("teller")
            await eventually(lambda: is_paused(scene, "teller"))

    async with desk_at(scene) as desk:
        async with relaying_with_desk(scene, sink):
            await eventually(lambda: scene.is_streaming())
            sink.before_part = stop_at_the_third
            await desk.request_rebuild("teller", TABLE)

            async def is_halfway() -> bool:
                (found,) = await desk.rebuilds("teller", TABLE)
                scene.sql("INSERT INTO unrelated (text) VALUES ('x')")
                return found.ranges_done == 3 and is_paused(scene, "teller")

            await eventually(is_halfway)
        sink.before_part = None
        await desk.resume("teller")
        async with relaying_with_desk(scene, sink):
            task = asyncio.create_task(rebuilt(desk, "teller"))
            await _moving(scene, task)
        status = task.result()
        assert (status.state, status.ranges_done, status.rows) == ("done", 5, 500)
        (letter,) = await desk.letters("teller")
        assert (letter.key, letter.cause) == (("13",), "unlucky")
    told = [one for one in sink.told if one != "write"]
    assert told[0] == "truncated" and told.count("truncated") == 1
    assert sorted(int(one) for one in told if one.isdigit()) == [*range(1, 501)]
    for place, one in enumerate(sink.told):
        if one == "part":
            assert all(key.isdigit() for key in sink.told[place + 1 : place + 101])


async def test_what_cannot_be_told_again_is_refused_in_one_sentence(scene: RelayScene) -> None:
    """Webhooks have nothing to tell again of states: the rebuild fails and says so."""
    sink = Teller()
    sink.refuses = NotSupported("teller", "tells changes as they happen")
    async with desk_at(scene) as desk, relaying_with_desk(scene, sink):
        await eventually(lambda: scene.is_streaming())
        await desk.request_rebuild("teller", TABLE)
        task = asyncio.create_task(rebuilt(desk, "teller"))
        while not task.done():
            scene.sql("INSERT INTO unrelated (text) VALUES ('x')")
            await asyncio.sleep(0.05)
        assert (task.result().state, task.result().error) == (
            "failed",
            "teller: tells changes as they happen",
        )


async def test_a_rebuild_of_what_is_not_there_fails_and_says_so(scene: RelayScene) -> None:
    """It ends, with a cause, and the flow goes on."""
    async with desk_at(scene) as desk, relaying_with_desk(scene, scene.clickhouse_sink()):
        await desk.request_rebuild("clickhouse", "public.nothing")

        async def has_failed() -> bool:
            (found,) = await desk.rebuilds("clickhouse", "public.nothing")
            return found.error == "clickhouse has no copy of public.nothing"

        await eventually(has_failed)
        await scene.arrives(scene.sql("SELECT 1"), Store.CLICKHOUSE)


async def test_a_cache_is_rebuilt_by_forgetting(scene: RelayScene) -> None:
    """Redis holds no rows of its own: what it has from before is no longer believed."""
    async with desk_at(scene) as desk, relaying_with_desk(scene, scene.redis_sink()):
        await eventually(lambda: scene.is_streaming())
        await desk.request_rebuild("redis", TABLE)
        await _moving(scene, asyncio.create_task(rebuilt(desk, "redis")))


async def _moving(scene: RelayScene, task: asyncio.Task[RebuildStatus]) -> None:
    while not task.done():
        scene.sql("INSERT INTO unrelated (text) VALUES ('x')")
        await asyncio.sleep(0.05)
    assert (await task).state == "done"


async def _none_asked(desk: Desk) -> bool:
    return not await desk.still_requested("clickhouse")


PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "relay-operations.md").read_text("utf-8")


def test_the_commands_of_the_page_are_there() -> None:
    """Every command of docs/how-to/relay-operations.md parses."""
    blocks = re.findall(r"```sh\n(.*?)```", PAGE, flags=re.DOTALL)
    lines = [line.partition("#")[0] for block in blocks for line in block.splitlines()]
    commands = [line.split()[2:] for line in lines if line.strip()]
    assert len(commands) == 10
    for arguments in commands:
        _, _, unused = command.app.parse_args(arguments, exit_on_error=False, print_error=False)
        assert not unused


TENANTS = dataclasses.replace(ACCOUNTS, tenant_key="owner")


def poison(owner: str | None, number: int, *, version: int = 7) -> Rejected:
    row = {"id": str(number), "owner": owner}
    return Rejected(TABLE, (str(number),), version, False, "poison", row)


async def test_C8_a_tenants_poison_rows_do_not_hide_those_of_others(scene: RelayScene) -> None:
    """All the room is one tenant's while nobody else needs it; then each has its share, the oldest
    of its letters, and what found no room is counted. The status says whose the most are."""
    async with desk_at(scene, classes=(TENANTS,), room=9) as desk:
        await desk.park("clickhouse", "neolayer", [poison("flood", n) for n in range(20)])
        assert [one.tenant for one in await desk.letters("clickhouse")] == ["flood"] * 9
        for first, owner in ((100, "ann"), (200, None), (300, "flood")):
            some = [poison(owner, first + n) for n in range(5)]
            await desk.park("clickhouse", "neolayer", some)
        kept = await desk.letters("clickhouse")
        numbers = sorted(int(one.key[0] or "") for one in kept)
        assert numbers == [0, 1, 2, 100, 101, 102, 200, 201, 202]
        await desk.park("clickhouse", "neolayer", [poison("ann", 100, version=8)])
        (standing,) = await desk.standings()
        assert (standing.letters, standing.most, standing.unparked) == (9, 3, 11 + 15)
        (refused, lacking) = standing.alarms(1 << 20)
        assert "9 changes (3 of tenant" in refused and "For 26 more" in lacking


async def test_C8_a_full_room_is_counted_once_a_batch(scene: RelayScene) -> None:
    """What a flood of letters reads of those that are there grows with the batch, and not with the
    batch times the room."""
    room, flood = 200, 400
    reads = (
        "SELECT (SELECT seq_tup_read FROM pg_stat_user_tables WHERE relname = 'relay_dead_letters')"
        " + sum(idx_tup_read) FROM pg_stat_user_indexes WHERE relname = 'relay_dead_letters'"
    )
    async with desk_at(scene, classes=(TENANTS,), room=room) as desk:
        await desk.park("clickhouse", "neolayer", [poison("flood", n) for n in range(room)])
        many = [poison(f"tenant {n % 7}", 1000 + n) for n in range(flood)]
        await desk.park("clickhouse", "neolayer", many)
        (standing,) = await desk.standings()
        assert (standing.letters, standing.most, standing.unparked) == (room, room // 8, flood)
    await eventually(lambda: scene.rows(reads)[0][0])  # the desk's session tells of it as it ends
    assert scene.rows(reads)[0][0] < 20 * (room + flood)


async def test_C7_a_sink_and_a_table_with_many_letters_hold_up_no_other(
    layer_databases: Endpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each gets its share of a look; a request that ends leaves the letters where they are."""
    monkeypatch.setattr(desks, "_REPLAYED_AT_ONCE", 2)
    many = [Rejected("public.a", (f"{n}",), 7, False, "no", {}) for n in range(3)]
    async with desk_of(layer_databases, Role.RELAY) as desk:
        await desk.park("clickhouse", "neolayer", [*many, dataclasses.replace(many[0], table="b")])
        await desk.park("mongodb", "neolayer", many[:1])
        for sink in ("clickhouse", "mongodb"):
            async with desk_of(layer_databases, Role.OPERATOR) as operator:
                await operator.request_replay(sink)
        found = await desk.requested_letters(["clickhouse", "mongodb"])
        assert {at: len(keys) for at, keys in found.items()} == {
            ("clickhouse", "b"): 1,
            ("clickhouse", "public.a"): 2,
            ("mongodb", "public.a"): 1,
        }
        await desk.end_replay("clickhouse", "public.a")
        assert ("clickhouse", "public.a") not in await desk.requested_letters(["clickhouse"])
        assert len(await desk.letters("clickhouse")) == 4
        assert await desk.still_requested("clickhouse") == 1


async def test_operators_ask_and_the_relay_does(layer_databases: Endpoints) -> None:
    """Each role may do its part on the migrated database, and the application nothing."""
    one = Rejected(TABLE, ("1",), 7, False, "no", {"id": "1"})
    shape = Shape(("id",), ("id",))
    async with (
        desk_of(layer_databases, Role.OPERATOR) as operator,
        desk_of(layer_databases, Role.RELAY) as relay,
        desk_of(layer_databases, Role.APP) as app,
    ):
        await operator.pause("clickhouse")
        assert await relay.pauses() == {"clickhouse"}
        assert await operator.resume("clickhouse")
        await relay.park("clickhouse", "neolayer", [one])
        assert len(await operator.letters("clickhouse")) == 1
        assert await operator.request_replay("clickhouse", table=TABLE, key=("1",)) == 1
        assert await relay.requested_letters(["clickhouse"]) == {("clickhouse", TABLE): [("1",)]}
        await relay.remove_letters("clickhouse", TABLE, [("1",)], version=7)
        assert await operator.request_rebuild("clickhouse", TABLE)
        (wanted,) = await relay.wanted_rebuilds(["clickhouse"])
        await relay.begin_table(wanted.under(shape), 9, [(None, ("5",)), (("5",), None)])
        (begun,) = await relay.wanted_rebuilds(["clickhouse"])
        assert begun.version == 9 and begun.under(shape) == begun
        assert begun.under(Shape(("id",), ("id", "owner"))).version is None
        for part in await relay.ranges_left(wanted):
            await relay.range_done(wanted, part.number, rows=3)
        await relay.end_rebuild(wanted)
        (done,) = await operator.rebuilds("clickhouse", TABLE)
        assert (done.state, done.ranges_done, done.rows) == ("done", 2, 6)
        assert await operator.request_rebuild("clickhouse", TABLE)
        with pytest.raises(RelayError, match="permission denied"):
            await app.letters("clickhouse")


async def test_a_copy_ends_as_a_whole(layer_databases: Endpoints) -> None:
    """Also where one of its tables was begun anew, under a later version; a copy that began since
    is another one."""
    async with desk_of(layer_databases, Role.RELAY) as relay:
        await relay.begin_copy("mongodb", ["public.a", "public.b"])
        for version, wanted in enumerate(await relay.copy_of("mongodb"), 8):
            await relay.begin_table(wanted, version, [(None, None)])
        for version, left in ((7, 2), (9, 2), (8, 0)):
            await relay.end_copy("mongodb", version)
            assert len(await relay.copy_of("mongodb")) == left


def test_replay_and_rebuild_name_what_they_are_about(
    layer_databases: Endpoints, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An empty key is not all keys, a letter that is not there is said, and the sinks of webhooks
    are sinks: of them an event table may be told again."""
    monkeypatch.setattr(command, "endpoints", lambda _: layer_databases)
    for arguments, code, said in (
        (("replay", "clickhouse", "--key", ""), 2, "--key names no row"),
        (("replay", "clickhouse", "--key", "nothing"), 1, "clickhouse has no such letter"),
        (("replay", "clickhouse", "--table", "blocks"), 1, "clickhouse has no such letter"),
        (("replay", "webhooks"), 2, "neolayer relay rebuild webhooks TABLE"),
        (("rebuild", "webhooks", "nothing"), 2, "one of: outbox"),
        (("rebuild", "webhooks", "outbox", "--wait", "0"), 4, ""),
        (("pause", "nothing"), 2, "webhooks:event_store"),
    ):
        assert run(["relay", *arguments]) == code
        shown = capsys.readouterr()
        assert said in shown.err + shown.out, shown
