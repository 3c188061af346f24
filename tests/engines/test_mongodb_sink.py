"""The MongoDB sink on a real server of its protocol (FerretDB)."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeAlias

import pymongo
import pytest
from tests.fixtures.copies import copy_whole
from tests.fixtures.fix_mongodb import address_of, forget_sockets, running_ferretdb
from tests.fixtures.sink_suite import (
    SPELLED,
    TABLE,
    THINGS,
    Log,
    SinkCase,
    SinkSuite,
    StillTables,
    Thing,
    change,
    put,
    remove,
)

from neolayer.engines.endpoints import MongoEndpoint
from neolayer.engines.mongodb.dsn import parse_dsn
from neolayer.errors import EngineUnavailable
from neolayer.relay.comparing.mongodb import MongoRows
from neolayer.relay.digests import row_digest, summarise
from neolayer.relay.sinks.mongodb import MongoSink

pytestmark = pytest.mark.engines
Client: TypeAlias = pymongo.MongoClient[dict[str, Any]]


class MongoCase(SinkCase):
    checkpoint_step = "neolayer.relay.sinks.mongodb.MongoSink.reflect"

    def __init__(self, endpoint: MongoEndpoint, client: Client) -> None:
        self.endpoint = endpoint
        self.database = client[endpoint.database]
        self.client = client

    def sink(self) -> MongoSink:
        return MongoSink(self.endpoint, [THINGS], wait_s=0.01)

    def documents(self) -> list[dict[str, Any]]:
        return list(self.database.things.find({"_deleted": {"$exists": False}}, sort=[("_id", 1)]))

    async def rows(self) -> Mapping[Any, Any]:
        return {(one["owner"], one["id"]): one.get("note") for one in self.documents()}

    def refused(self) -> Thing:
        return Thing(5, "poison", details={"a.b": 1})

    async def wipe(self) -> bool:
        self.client.drop_database(self.database.name)
        return True


@pytest.fixture
def mongo_case(mongodb_database: MongoEndpoint, mongodb_client: Client) -> MongoCase:
    return MongoCase(mongodb_database, mongodb_client)


class TestMongoDB(SinkSuite):
    @pytest.fixture
    def case(self, mongo_case: MongoCase) -> SinkCase:
        return mongo_case


async def opened(case: MongoCase, log: Log) -> MongoSink:
    sink = case.sink()
    if await sink.open(log.position) is None:
        await copy_whole(sink, StillTables(log.position, []))
    return sink


async def test_a_document_is_the_row(mongo_case: MongoCase) -> None:
    """Types as BSON has them, null left out, the key as `_id`, version and checksum beside it."""
    log = Log()
    sink = await opened(mongo_case, log)
    thing = Thing(7, None, details={"n": [1, 2.5, None]}, amount=2**70, good=False)
    batch = log.commit(put(thing))
    await sink.write([batch])
    await sink.close()
    (document,) = mongo_case.documents()
    assert document.pop("_version") == batch.changes[0].versions[0]
    high, low = document.pop("_digest_high"), document.pop("_digest_low")
    texts = (text if isinstance(text, bytes) else None for text in thing.texts())
    assert (high << 32) + low == row_digest(texts)
    assert document == {
        "_id": {"owner": str(thing.owner), "id": 7},
        "owner": str(thing.owner),
        "id": 7,
        "details": {"n": [1, 2.5, None]},
        "amount": str(2**70),
        "seen_at": datetime(2024, 2, 29, 12, 30, 15, 250_000, tzinfo=UTC),
        "good": False,
    }


async def test_the_servers_words_come_back_with_a_refused_row(mongo_case: MongoCase) -> None:
    """What FerretDB does not take, in its words; what no MongoDB takes, in ours."""
    log = Log()
    sink = await opened(mongo_case, log)
    rows = [
        Thing(1, details={"a.b": 1}),
        Thing(2, details=[[1]]),
        Thing(3, "x" * (17 << 20)),
        Thing(4, "good"),
    ]
    rejected = await sink.write([log.commit(*map(put, rows))])
    await sink.close()
    causes = {one.key[1]: one.cause for one in rejected}
    assert set(causes) == {"1", "2", "3"}
    assert "key must not contain '.' sign" in causes["1"]
    assert "nested arrays are not supported" in causes["2"]
    assert "MongoDB takes 16777216" in causes["3"]
    assert [one["id"] for one in mongo_case.documents()] == [4]


async def test_a_stray_document_gives_way(mongo_case: MongoCase) -> None:
    """A document that somebody put there by hand has no version, and loses."""
    log = Log()
    sink = await opened(mongo_case, log)
    name = {"owner": str(Thing(1).owner), "id": 1}
    mongo_case.database.things.insert_one({"_id": name, "note": "by hand"})
    await sink.write([log.commit(put(Thing(1, "from the log")))])
    await sink.close()
    assert await mongo_case.rows() == {Thing(1).key: "from the log"}


async def test_of_two_relays_at_once_the_newer_version_stays(mongo_case: MongoCase) -> None:
    """One that should be dead and writes on cannot take back what the other has written."""
    log = Log()
    one, two = await opened(mongo_case, log), mongo_case.sink()
    await two.open(log.position)
    old = [log.commit(put(Thing(number, "old"))) for number in range(40)]
    new = [log.commit(change(Thing(number, "new"))) for number in range(40)]
    await asyncio.gather(one.write(old), two.write(new))
    await one.close()
    await two.close()
    assert list((await mongo_case.rows()).values()) == ["new"] * 40


async def test_traces_of_deletions_are_cleared_away(
    mongo_case: MongoCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the server expires nothing the sink does, when a trace's day is over."""
    log = Log()
    sink = await opened(mongo_case, log)
    await sink.write([log.commit(put(Thing(1)), put(Thing(2)), put(Thing(3)))])
    await sink.write([log.commit(remove(Thing(1)), remove(Thing(3)))])
    things = mongo_case.database.things
    assert things.count_documents({"_deleted": True}) == 2
    over = {"$set": {"_expires_at": datetime.now(UTC) - timedelta(seconds=1)}}
    things.update_one({"_deleted": True}, over)
    monkeypatch.setattr("neolayer.relay.sinks.mongodb._CLEAR_EVERY_S", 0.0)
    await sink.write([log.commit(change(Thing(2, "x")))])
    await sink.close()
    assert things.count_documents({"_deleted": True}) == 1
    assert things.count_documents({}) == 2


async def test_C7_what_may_pass_is_tried_again(
    mongo_case: MongoCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An election in the middle of a write is no dead letter: the checkpoint stays where it was,
    and the next try writes everything once."""
    log = Log()
    sink = await opened(mongo_case, log)
    before = log.position
    batch = log.commit(*(put(Thing(number)) for number in range(3)))
    answered = sink._database.command

    async def stepping_down(_: object, command: dict[str, Any]) -> dict[str, Any]:
        answer: dict[str, Any] = await answered(command)
        error = {"index": 1, "code": 189, "errmsg": "primary stepped down"}
        return {**answer, "writeErrors": [error]}

    with monkeypatch.context() as patched:
        patched.setattr(type(sink._database), "command", stepping_down)
        with pytest.raises(EngineUnavailable, match="stepped down"):
            await sink.write([batch])
    again = mongo_case.sink()
    assert await again.open(before) == before
    assert await again.write([batch]) == []
    assert await again.open(batch.position) == batch.position
    assert len(await mongo_case.rows()) == 3
    await sink.close()
    await again.close()


async def test_C14_a_server_that_is_away_is_one_sentence(tmp_path: Path) -> None:
    """A write fails within the time limit, in words, and leaves nothing half-told."""
    log = Log()
    with running_ferretdb(tmp_path / "data") as server:
        endpoint = parse_dsn(f"{address_of(server)}/away?serverSelectionTimeoutMS=500")
        sink = MongoSink(endpoint, [THINGS])
        await sink.open(log.position)
        await copy_whole(sink, StillTables(log.position, []))
    with pytest.raises(EngineUnavailable, match=r"refuses the connection|cannot be used"):
        await sink.write([log.commit(put(Thing(1)))])
    await sink.close()
    await forget_sockets()


async def test_values_that_look_alike_are_no_difference(mongo_case: MongoCase) -> None:
    """Written in a document's own way, each has the digest of PostgreSQL's text, and the looking
    into documents finds nothing altered."""
    log = Log()
    sink, rows = await opened(mongo_case, log), MongoRows(mongo_case.endpoint, [THINGS])
    try:
        assert list(await sink.write([log.commit(*map(put, SPELLED))])) == []
        digests = [
            row_digest(v if isinstance(v, bytes) else None for v in one.texts()) for one in SPELLED
        ]
        assert await rows.summaries(TABLE, [None, None]) == [summarise(digests)]
        assert await rows.altered(TABLE, StillTables(log.position + 1, SPELLED)) == []
        for thing, digest in zip(SPELLED, digests, strict=True):
            stored = await rows.entry(TABLE, (str(thing.owner), str(thing.id)))
            assert stored is not None and stored.digest == digest
    finally:
        await rows.close()
        await sink.close()


async def test_more_updates_at_once_than_the_server_has_connections(
    mongo_case: MongoCase,
) -> None:
    """FerretDB, which takes one for each update of a command, does not wait for itself; of those
    it refuses each is named."""
    log = Log()
    sink = await opened(mongo_case, log)
    await sink.write([log.commit(*(put(Thing(n)) for n in range(120)))])
    now = [Thing(n, "now", details={"a.b": 1} if n == 15 else None) for n in range(120)]
    changed = log.commit(*(change(one, was=Thing(one.id)) for one in now))
    (rejected,) = await sink.write([changed])
    assert rejected.key == (str(now[15].owner), "15")
    notes = dict(await mongo_case.rows())
    assert notes.pop(now[15].key) == "note"
    assert len(notes) == 119 and set(notes.values()) == {"now"}
    await sink.close()
