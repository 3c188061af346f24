"""The webhooks sink: from the commit log into the endpoints' queues, and out over HTTP."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from tests.fixtures.batches import CLASSES, OUTBOX, PlainSnapshot, at, batch, event_row, events
from tests.fixtures.copies import copy_only, copy_whole
from tests.fixtures.fix_tenancy import NewTenant
from tests.fixtures.fix_webhooks import POLICY, Receiver
from tests.fixtures.patience import PATIENCE_S
from tests.fixtures.sink_suite import (
    COLUMNS,
    KEY,
    OTHER,
    OWNER,
    THINGS,
    Log,
    SinkCase,
    SinkSuite,
    Thing,
    folded,
    put,
)

from neolayer import webhooks
from neolayer.catalogue import OutgoingCopy
from neolayer.engines.endpoints import Endpoints, Role
from neolayer.engines.postgres.queries import load_queries
from neolayer.freshness import NotFresh, Stream, position_of, streams_at, wait_for
from neolayer.keys import Keyring
from neolayer.position import Position
from neolayer.relay.sinks.sink import Sink
from neolayer.relay.sinks.webhooks import WebhookSink
from neolayer.tenancy import CoreDatabase, Scope, open_core
from neolayer.webhooks import Webhooks
from neolayer.webhooks.deliverer import Deliverer

URL = "https://acme.example/"


class Sleeping:
    """Delivers nothing."""

    def wake(self) -> None:
        pass

    async def run(self) -> None:
        pass


@pytest.fixture
async def core(module_databases: Endpoints) -> AsyncIterator[CoreDatabase]:
    """Databases of the module; a test leaves neither webhook nor checkpoint behind."""
    async with open_core(module_databases, application_name="tests") as database:
        yield database
    with psycopg.connect(module_databases.postgres.dsn(Role.ADMIN)) as admin:
        admin.execute("DELETE FROM core.webhooks")
        admin.execute("DELETE FROM core.relay_checkpoints")


@pytest.fixture
async def sink(module_databases: Endpoints, core: CoreDatabase) -> AsyncIterator[WebhookSink]:
    made = WebhookSink(module_databases, CLASSES, Sleeping())
    yield made
    await made.close()


THEIRS = dataclasses.replace(
    THINGS, tenant_key="owner", copies=(OutgoingCopy("things", KEY, COLUMNS),)
)


class WebhookCase(SinkCase):
    """What a receiver of each owner has that keeps every key's newest version. It is told of its
    own rows alone, so not that a table was emptied. Queue and checkpoint are one transaction."""

    keeps_rows = False
    tells_again = False

    def __init__(self, at: Endpoints) -> None:
        self.at = at

    def sink(self) -> WebhookSink:
        return WebhookSink(self.at, [THEIRS], Sleeping())

    async def rows(self) -> Mapping[Any, Any]:
        with psycopg.connect(self.at.postgres.dsn(Role.ADMIN)) as admin:
            told = admin.execute(
                "SELECT event_id, envelope::jsonb FROM core.webhook_deliveries ORDER BY number"
            ).fetchall()
        assert len({event_id for event_id, _ in told}) == len(told)
        return folded(envelope for _, envelope in told)


class TestWebhooks(SinkSuite):
    @pytest.fixture
    async def case(self, module_databases: Endpoints, core: CoreDatabase) -> SinkCase:
        with psycopg.connect(module_databases.postgres.dsn(Role.ADMIN)) as admin:
            for number, tenant in enumerate((OWNER, OTHER)):
                admin.execute(
                    "INSERT INTO core.tenants (id, name, identifier) VALUES (%s, %s, %s)"
                    " ON CONFLICT DO NOTHING",
                    (tenant, f"o{number}", f"o{number}"),
                )
                admin.execute(
                    "INSERT INTO core.webhooks (tenant_id, name, url, event_types, created_at)"
                    " VALUES (%s, 'all', 'https://acme.example/', '{*}', '1970-01-01')",
                    (tenant,),
                )
        return WebhookCase(module_databases)

    async def test_each_owner_is_told_of_their_rows(
        self, case: SinkCase, sink: Sink, log: Log
    ) -> None:
        """Whatever the common contract passes by, the rows do arrive."""
        things = [Thing(1, "one"), Thing(2, "two", owner=OTHER)]
        await sink.write([log.commit(*map(put, things))])
        assert dict(await case.rows()) == {one.key: one.note for one in things}


async def queued(scope: Scope) -> list[tuple[str, str]]:
    rows = await scope.fetch(
        "SELECT w.name, d.event_id FROM core.webhook_deliveries d"
        " JOIN core.webhooks w ON w.id = d.webhook_id ORDER BY d.number"
    )
    return [(row[0], row[1]) for row in rows]


async def test_each_event_goes_to_the_endpoints_that_want_it(
    sink: WebhookSink, new_tenant: NewTenant, keyring: Keyring
) -> None:
    """By tenant, filter and state, in commit order, once; tables that hold no tenant's rows to
    nobody."""
    acme, other = await new_tenant(), await new_tenant()
    webhooks = Webhooks(acme, keyring)
    await webhooks.create("all", URL, ["*"])
    await webhooks.create("wallets", URL, ["wallet.*"])
    stopped = await webhooks.create("stopped", URL, ["*"])
    await webhooks.disable(stopped.id)
    await Webhooks(other, keyring).create("theirs", URL, ["*"])
    assert await sink.open(at(1)) == at(1)
    first = event_row(acme.tenant, event_type="wallet.created")
    second = event_row(acme.tenant, event_type="user.created")
    third = event_row(other.tenant)
    assert await sink.write([events(at(2), first, second), events(at(3), third)]) == []
    assert await queued(acme) == [("all", first[1]), ("wallets", first[1]), ("all", second[1])]
    assert await queued(other) == [("theirs", third[1])]
    assert await sink.open(at(1)) == at(3)


async def test_queues_are_waited_for_like_a_store(
    sink: WebhookSink, module_databases: Endpoints, new_tenant: NewTenant, keyring: Keyring
) -> None:
    """A position is there once all up to it is in the queues; before, it says how far they are."""
    acme = await new_tenant()
    await Webhooks(acme, keyring).create("all", URL, ["*"])
    webhooks = Stream.WEBHOOKS
    assert webhooks in streams_at(module_databases)
    assert await position_of(webhooks, module_databases) is None
    await sink.open(at(1))
    await sink.write([events(at(2), event_row(acme.tenant))])
    there, next_one = Position.from_version(at(2)), Position.from_version(at(3))
    soon = timedelta(seconds=0)
    reached = await wait_for(there, module_databases, stores=[webhooks], timeout=soon)
    assert reached == {webhooks: there}
    with pytest.raises(NotFresh, match="webhooks is at"):
        await wait_for(next_one, module_databases, stores=[webhooks], timeout=soon)
    of_events = Position(1, 7, "event_store")
    with pytest.raises(NotFresh, match="webhooks is at nothing yet"):
        await wait_for(of_events, module_databases, stores=[webhooks], timeout=soon)


async def test_C14_what_comes_again_is_queued_once(
    sink: WebhookSink, new_tenant: NewTenant, keyring: Keyring
) -> None:
    """A batch twice, an old one late, and the retained events once more from a snapshot."""
    acme = await new_tenant()
    await Webhooks(acme, keyring).create("all", URL, ["*"])
    await sink.open(at(1))
    rows = [event_row(acme.tenant) for _ in range(3)]
    one, two = events(at(2), rows[0]), events(at(3), rows[1])
    for batches in ([one], [one, two], [one], [two]):
        await sink.write(batches)
    assert [event for _, event in await queued(acme)] == [rows[0][1], rows[1][1]]
    assert await sink.open(at(9)) is None  # what lay between is not in the log any more
    snapshot = PlainSnapshot(at(9), {"core.outbox": (OUTBOX, list(rows))})
    await copy_only(sink, snapshot, "core.outbox")
    assert await sink.open(at(9)) is None
    await copy_whole(sink, snapshot)
    assert [event for _, event in await queued(acme)] == [row[1] for row in rows]
    assert await sink.open(at(9)) == at(9)


async def test_a_checkpoint_does_not_chase_itself(
    sink: WebhookSink, new_tenant: NewTenant, keyring: Keyring
) -> None:
    """Storing it is a commit too: where nothing is told, it moves rarely, and when we stop."""
    acme = await new_tenant()
    await Webhooks(acme, keyring).create("all", URL, ["*"])
    await sink.open(at(1))
    await sink.write([events(at(2), event_row(acme.tenant))])
    for number in range(3, 9):
        await sink.write([batch(position=at(number))])
    row = await acme.one("SELECT version FROM core.relay_checkpoints WHERE sink = 'webhooks'")
    assert row == (at(2),)
    await sink.close()
    assert await sink.open(at(8)) == at(8)


async def test_nobody_is_told_of_what_was_before_them(
    sink: WebhookSink, new_tenant: NewTenant, keyring: Keyring
) -> None:
    """An endpoint made today does not get the events of last week when a copy starts over."""
    acme = await new_tenant()
    await Webhooks(acme, keyring).create("all", URL, ["*"])
    await sink.open(at(1))
    old = event_row(acme.tenant, created_at="2020-01-01 00:00:00+00")
    await copy_whole(sink, PlainSnapshot(at(2), {"core.outbox": (OUTBOX, [old])}))
    assert await queued(acme) == []


async def test_E1_no_year_that_a_tenant_writes_stops_the_others(
    sink: WebhookSink, module_databases: Endpoints, new_tenant: NewTenant, keyring: Keyring
) -> None:
    """Endless, before Christ, in the year 20000: of an announcement and of an endpoint, by SQL.
    Neighbours are told all the same."""
    acme, odd = await new_tenant(), await new_tenant()
    for tenant in (acme, odd):
        await Webhooks(tenant, keyring).create("all", URL, ["*"])
    await sink.open(at(1))
    years = ("infinity", "20000-01-01 00:00:00+00", "-infinity", "0044-03-15 00:00:00+00 BC")
    for number, year in enumerate(years):
        await odd.fetch(
            "UPDATE core.webhooks SET created_at = %s, next_attempt_at = %s RETURNING id",
            (year, year),
        )
        theirs, ours = event_row(odd.tenant, created_at=year), event_row(acme.tenant)
        assert await sink.write([events(at(2 + number), theirs, ours)]) == []
        assert (await queued(acme))[-1] == ("all", ours[1])
    assert len(await queued(odd)) == 2
    await odd.fetch("UPDATE core.webhook_deliveries SET status = 'pending' RETURNING number")
    dsn = module_databases.postgres.dsn(Role.RELAY)
    with psycopg.connect(dsn) as relay:
        due = load_queries(webhooks.__name__, "delivering.sql").next_due
        ((seconds,),) = relay.execute(due).fetchall()
    assert seconds == 0


async def test_E1_no_lock_that_a_tenant_holds_stops_the_others(
    sink: WebhookSink, new_tenant: NewTenant, keyring: Keyring
) -> None:
    """A transaction that locks its endpoint and does not end: what is for that tenant is refused,
    to be seen and sent again, and its neighbours are told."""
    acme, odd = await new_tenant(), await new_tenant()
    for tenant in (acme, odd):
        await Webhooks(tenant, keyring).create("all", URL, ["*"])
    await sink.open(at(1))
    theirs, ours = event_row(odd.tenant), event_row(acme.tenant)
    async with odd.transaction() as holding, asyncio.timeout(PATIENCE_S):
        await holding.fetch("SELECT id FROM core.webhooks FOR UPDATE")
        (refused,) = await sink.write([events(at(2), theirs, ours)])
    assert refused.row["event_id"] == theirs[1] and "locks" in refused.cause
    assert (await queued(acme), await queued(odd)) == ([("all", ours[1])], [])
    assert await sink.open(at(1)) == at(2)


async def test_what_was_swept_from_the_queue_is_told_again_only_when_asked(
    sink: WebhookSink, module_databases: Endpoints, new_tenant: NewTenant, keyring: Keyring
) -> None:
    """A copy that starts by itself leaves out what is older than deliveries are kept, for nobody
    knows any more whom it was told; a rebuild that an operator asks for tells it."""
    acme = await new_tenant()
    await Webhooks(acme, keyring).create("all", URL, ["*"])
    with psycopg.connect(module_databases.postgres.dsn(Role.ADMIN)) as admin:
        admin.execute("UPDATE core.webhooks SET created_at = '2020-01-01'")
    await sink.open(at(1))
    now = datetime.now(UTC)
    old = event_row(acme.tenant, created_at=f"{now - timedelta(days=8)}")
    new = event_row(acme.tenant, created_at=f"{now - timedelta(days=6)}")
    snapshot = PlainSnapshot(at(2), {"core.outbox": (OUTBOX, [old, new])})
    await copy_whole(sink, snapshot)
    assert await queued(acme) == [("all", new[1])]
    await copy_only(sink, snapshot, "core.outbox")
    assert await queued(acme) == [("all", new[1]), ("all", old[1])]


async def test_C1_queue_and_checkpoint_are_kept_or_lost_together(
    sink: WebhookSink, module_databases: Endpoints, new_tenant: NewTenant, keyring: Keyring
) -> None:
    """The connection dies: nothing of the batch is there, and then all of it, once."""
    acme = await new_tenant()
    await Webhooks(acme, keyring).create("all", URL, ["*"])
    await sink.open(at(1))
    row = event_row(acme.tenant)
    with psycopg.connect(module_databases.postgres.dsn(Role.ADMIN), autocommit=True) as admin:
        sinks = " FROM pg_stat_activity WHERE application_name = 'neolayer webhooks sink'"
        async with asyncio.timeout(PATIENCE_S):  # that of the test before may be ending still
            while admin.execute(f"SELECT count(*){sinks}").fetchone() != (1,):
                await asyncio.sleep(0.01)
        admin.execute(f"SELECT pg_terminate_backend(pid){sinks}")
    with pytest.raises(Exception, match="postgres"):
        await sink.write([events(at(2), row)])
    assert await queued(acme) == []
    await sink.write([events(at(2), row)])
    assert [event for _, event in await queued(acme)] == [row[1]]


async def test_an_event_travels_from_the_log_to_the_receiver(
    module_databases: Endpoints,
    core: CoreDatabase,
    new_tenant: NewTenant,
    keyring: Keyring,
    receiver: Receiver,
) -> None:
    """The sink wakes the deliverer; a hundred of one key arrive in order."""
    acme = await new_tenant()
    await Webhooks(acme, keyring).create("all", receiver.url, ["wallet.*"])
    sink = WebhookSink(module_databases, CLASSES, Deliverer(module_databases, keyring, POLICY))
    await sink.open(at(1))
    ids = [uuid4() for _ in range(100)]
    for number, event_id in enumerate(ids):
        await sink.write([events(at(2 + number), event_row(acme.tenant, event_id=event_id))])
    await receiver.until(100)
    await sink.close()
    assert receiver.ids() == [str(event_id) for event_id in ids]
    assert [told.envelope["version"] for told in receiver.told] == [
        str(at(2 + n)) for n in range(100)
    ]
