"""A table is its id: however it is called meanwhile, what is written to it arrives as its own.

PostgreSQL's walsender names a partitioned table once per partition and connection, by the name that
it had then, and tells nobody that it has its old name again.
"""

from __future__ import annotations

import asyncio

from tests.fixtures.fix_relay import RelayScene
from tests.fixtures.patience import PATIENCE_S

from neolayer.engines.postgres.replication import ReplicationConnection
from neolayer.freshness import Store
from neolayer.relay.decoder import Decoder

ROW = "INSERT INTO {} (id, owner, part) VALUES ({}, 'ann', {})"
AWAY, BACK = "ALTER TABLE accounts RENAME TO elsewhere", "ALTER TABLE elsewhere RENAME TO accounts"


async def arrives(scene: RelayScene, *statements: str) -> None:
    await scene.arrives(scene.sql(*statements), Store.CLICKHOUSE)


async def test_C8_postgresql_goes_on_to_call_a_partitioned_table_by_the_name_it_had(
    relay_scene: RelayScene,
) -> None:
    """What the rule is for: under one id, rows come under the other name after the way back too."""
    scene = relay_scene
    stream = await ReplicationConnection.connect(scene.dsn, application_name="tests")
    try:
        slot = await stream.create_slot(scene.slot, temporary=True)
        await stream.start(scene.slot, publication="neolayer_relay", lsn=slot.consistent_lsn)
        decoder = Decoder(epoch=1, after=slot.consistent_lsn)
        names: list[str] = []
        for statements in (
            (ROW.format("accounts", 1, 0),),
            (AWAY, ROW.format("elsewhere", 2, 1)),
            (BACK, ROW.format("accounts", 3, 0), ROW.format("accounts", 4, 1)),
        ):
            position = scene.sql(*statements)
            async with asyncio.timeout(PATIENCE_S):
                while decoder.position < position.lsn:
                    stream.receive(decoder.feed, limit=1000)
                    at = decoder.position
                    stream.confirm(received=at, durable=slot.consistent_lsn, ask=True)
                    await stream.wait(0.05)
            batch = decoder.take()
            assert batch is not None
            names += [one.relation.table for one in batch.changes]
    finally:
        await stream.close()
    assert names == ["public.accounts", "public.elsewhere", "public.elsewhere"]


async def test_C8_what_is_written_to_a_table_under_another_name_arrives(
    relay_scene: RelayScene,
) -> None:
    """Renamed and renamed back, in one transaction or over a restart of the relay, into partitions
    that were written to before and into those that were not: nobody has to do anything."""
    scene = relay_scene
    async with scene.relaying():
        await arrives(scene, ROW.format("accounts", 1, 0))
        await arrives(scene, AWAY, ROW.format("elsewhere", 2, 1), ROW.format("elsewhere", 3, 0))
        await arrives(scene, BACK, ROW.format("accounts", 4, 0), ROW.format("accounts", 5, 1))
        await scene.same()
        once = ";".join(("BEGIN", AWAY, ROW.format("elsewhere", 6, 1), BACK, "COMMIT"))
        await arrives(scene, once)
        await arrives(scene, AWAY, ROW.format("elsewhere", 7, 1))
    scene.sql(ROW.format("elsewhere", 8, 0))
    async with scene.relaying():
        await arrives(scene, ROW.format("elsewhere", 9, 1))
        await arrives(scene, BACK, ROW.format("accounts", 10, 0), ROW.format("accounts", 11, 1))
        await scene.same()


NEW = """BEGIN; ALTER TABLE accounts RENAME TO retired;
CREATE TABLE accounts (LIKE retired INCLUDING ALL) PARTITION BY LIST (part);
CREATE TABLE new_0 PARTITION OF accounts FOR VALUES IN (0);
CREATE TABLE new_1 PARTITION OF accounts FOR VALUES IN (1);
ALTER TABLE new_0 REPLICA IDENTITY FULL; ALTER TABLE new_1 REPLICA IDENTITY FULL;
ALTER PUBLICATION neolayer_relay ADD TABLE accounts;
INSERT INTO accounts SELECT * FROM retired; COMMIT"""


async def test_C8_a_table_whose_name_another_has_goes_by_its_own(relay_scene: RelayScene) -> None:
    """Really renamed, and another made in its place: from the other's first row on the name is the
    other's, and what is written to the one that was retired concerns no copy."""
    scene = relay_scene
    async with scene.relaying():
        await arrives(scene, ROW.format("accounts", 1, 0), ROW.format("accounts", 2, 1))
        await arrives(scene, NEW)
        await arrives(scene, ROW.format("retired", 100, 0), ROW.format("retired", 101, 1))
        await arrives(scene, ROW.format("accounts", 3, 1), "UPDATE retired SET amount = 9")
        await scene.same()


async def test_C8_a_table_that_is_dropped_and_made_anew_is_followed(
    relay_scene: RelayScene,
) -> None:
    """Under the same name it is another: its rows arrive, whichever partition they are in."""
    scene = relay_scene
    async with scene.relaying():
        await arrives(scene, ROW.format("accounts", 1, 0))
        anew = NEW.replace("RENAME TO retired", "RENAME TO dropped").replace("retired", "dropped")
        await arrives(scene, "TRUNCATE accounts", anew, "DROP TABLE dropped")
        await arrives(scene, ROW.format("accounts", 2, 0), ROW.format("accounts", 3, 1))
        await arrives(
            scene,
            "ALTER TABLE accounts DETACH PARTITION new_1",
            "ALTER TABLE accounts ATTACH PARTITION new_1 FOR VALUES IN (1)",
            ROW.format("accounts", 4, 1),
        )
        await scene.same()
