"""Appends of one process share commits and nothing else: what one meets is its own affair."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID, uuid4

import orjson
import psycopg
import pytest
from tests.fixtures.fix_events import NewEvents

from neolayer.engines.endpoints import Database, Endpoints, Role
from neolayer.errors import AccessDenied, EngineUnavailable, InvalidInput
from neolayer.events import (
    NONE,
    EventIdTaken,
    Events,
    EventStore,
    NewEvent,
    StreamAppend,
    WrongCategory,
    WrongVersion,
    grouping,
    open_event_store,
)
from neolayer.tenancy import Principal, TenantDatabase
from neolayer.tenancy.model import TenantLimitExceeded


def deposit(amount: int = 1) -> NewEvent:
    return NewEvent("Deposited", {"amount": amount})


async def put(events: Events, stream: UUID, event: NewEvent | None = None) -> None:
    await events.append(stream, [event or deposit()], category="account")


@pytest.fixture
def admin(module_databases: Endpoints) -> Iterator[psycopg.Connection]:
    dsn = module_databases.event_store.dsn(Role.ADMIN, Database.EVENT_STORE)
    with psycopg.connect(dsn, autocommit=True) as connection:
        yield connection


@asynccontextmanager
async def held(endpoints: Endpoints, tenant: UUID, stream: UUID) -> AsyncIterator[None]:
    """Another process whose transaction has appended to the stream and does not end."""
    async with open_event_store(endpoints, size=1) as other:
        events = other.events(tenant, by=Principal.operator("other"))
        async with events.scope.transaction() as tx:
            await events.append_in(tx, [StreamAppend(stream, [deposit()], "account")])
            yield


async def test_appends_at_once_share_commits(
    new_events: NewEvents, event_store: EventStore
) -> None:
    """A hundred writers of twenty tenants: few commits, every event in its tenant's stream."""
    tenants = [new_events() for _ in range(20)]
    streams = [uuid4() for _ in range(5)]
    before = event_store.grouper.commits
    await asyncio.gather(
        *(put(events, stream) for events in tenants for stream in streams),
    )
    assert event_store.grouper.commits - before <= 3
    for events in tenants:
        found = await events.read_all()
        assert {event.stream_id for event in found} == set(streams)
        assert {(event.tenant_id, event.version) for event in found} == {(events.scope.tenant, 1)}


@pytest.mark.parametrize("appends", (1, 12))
async def test_the_position_of_an_append_lies_behind_its_commit(
    new_events: NewEvents, admin: psycopg.Connection, appends: int
) -> None:
    """A store that has it has the append; so it is asked when the commit is done."""
    tenants = [new_events() for _ in range(3)]
    row = admin.execute("SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint").fetchone()
    assert row is not None
    stored = await asyncio.gather(
        *(
            tenants[number % 3].append(uuid4(), [deposit()], category="account")
            for number in range(appends)
        )
    )
    for one in stored:
        assert one.position is not None and one.position.lsn > row[0]


@pytest.mark.parametrize("appends", (1, 12))
async def test_appends_whose_answer_is_given_up_by_itself_are_stored_once(
    new_events: NewEvents, monkeypatch: pytest.MonkeyPatch, appends: int
) -> None:
    """After the commit the client cancels what they wait for: nobody's task ends of that, and what
    is asked again is stored already."""
    events, whole, calls = new_events(), TenantDatabase.connection, 0

    @asynccontextmanager
    async def given_up_at_first(self: TenantDatabase) -> AsyncIterator[Any]:
        nonlocal calls
        async with whole(self) as connection:
            yield connection
        calls += 1
        if calls == 1:
            raise asyncio.CancelledError

    monkeypatch.setattr(TenantDatabase, "connection", given_up_at_first)
    await asyncio.gather(*(put(events, uuid4()) for _ in range(appends)))
    assert len(await events.read_all()) == appends


async def test_D_what_is_no_json_is_refused_alone(new_events: NewEvents) -> None:
    """Half a character in a field fails the append that has it, and no other; before it is sent."""
    events, other = new_events(), new_events()
    broken = NewEvent("Deposited", {"amount": 1}, key_id="\ud800")
    streams = [uuid4() for _ in range(4)]
    bad, *good = await asyncio.gather(
        put(events, uuid4(), broken),
        *(put(one, stream) for one in (events, other) for stream in streams),
        return_exceptions=True,
    )
    assert isinstance(bad, InvalidInput)
    assert "printable characters" in bad.message
    assert good == [None] * 8
    assert len(await other.read_all()) == 4


async def test_what_one_append_meets_leaves_its_neighbours_alone(new_events: NewEvents) -> None:
    """A conflict, an id that is taken, an absent version beside good ones, in every place."""
    events, other = new_events(), new_events()
    stream, taken = uuid4(), deposit()
    await put(events, stream, taken)
    bad = [
        events.append(stream, [deposit()], expected_version=NONE),
        events.append(uuid4(), [deposit()], category="account", expected_version=7),
        put(events, uuid4(), NewEvent("Deposited", {"amount": 9}, event_id=taken.event_id)),
    ]
    good = [put(whose, uuid4()) for whose in (events, other) for _ in range(3)]
    mixed = [work for pair in zip(good, [*bad, *bad[:0]], strict=False) for work in pair]
    results = await asyncio.gather(*mixed, *good[3:], return_exceptions=True)
    refused = [type(result) for result in results if isinstance(result, BaseException)]
    assert sorted(map(str, refused)) == sorted(map(str, [WrongVersion, WrongVersion, EventIdTaken]))
    assert len(await events.read_all()) == 1 + 3
    assert len(await other.read_all()) == 3


@pytest.mark.parametrize(
    "odd", [("Deposited", None), ("Deposited", "order"), ("StreamClosed", "order")]
)
@pytest.mark.parametrize("place", [0, 1])
async def test_an_append_that_is_refused_leaves_no_hole_and_no_blame(
    new_events: NewEvents, odd: tuple[str, str | None], place: int
) -> None:
    """Beside others of its stream, before or between them: versions have no gap, and whoever is
    refused is so for what it is, not for what a neighbour would have done."""
    events = new_events()
    group = [("Deposited", "account")] * 2
    group.insert(place, odd)

    async def give(stream: UUID) -> list[type]:
        told = await asyncio.gather(
            *(events.append(stream, [NewEvent(kind, {})], category=name) for kind, name in group),
            return_exceptions=True,
        )
        return [type(one) for one in told if isinstance(one, BaseException)]

    async def versions(stream: UUID) -> list[int]:
        return [event.version async for event in events.read_stream(stream)]

    there, new = uuid4(), uuid4()
    await put(events, there)
    refused = await give(there)
    assert refused == [WrongCategory] * (odd[1] is not None)
    assert await versions(there) == list(range(1, 5 - len(refused)))
    stored = 3 - len(await give(new))  # whoever comes first says what it is
    assert stored and await versions(new) == list(range(1, stored + 1))


async def test_a_forged_batch_leaves_no_hole(new_events: NewEvents) -> None:
    """One append is to one stream, and its events follow each other, whatever is sent in SQL."""
    events = new_events()
    one, two = uuid4(), uuid4()

    def row(append: int, stream: UUID) -> dict[str, Any]:
        return {"u": append, "a": append, "s": stream, "c": "c", "x": -1, "i": uuid4(), "t": "T"}

    async def send(*rows: dict[str, Any]) -> None:
        batch = orjson.dumps([line | {"d": {}} for line in rows]).decode()
        await events.scope.one(
            "SELECT public.append_events(%(streams)s::uuid [], %(batch)s::jsonb, true)",
            {"streams": [one, two], "batch": batch},
        )

    with pytest.raises(psycopg.errors.CheckViolation):
        await send(row(0, one), row(0, two))
    await send(row(0, one), row(1, one), row(0, one))
    found = await events.read_all()
    assert [event.version for event in found] == [1, 2, 3]


async def test_whoever_gives_up_is_left_out(new_events: NewEvents) -> None:
    """Cancelled while they wait, half of the appends are not stored; the others all are."""
    events = new_events()
    tasks = [asyncio.create_task(put(events, uuid4())) for _ in range(40)]
    await asyncio.sleep(0)  # the first is on its way now, and all others are waiting
    for task in tasks[1::2]:
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [isinstance(r, asyncio.CancelledError) for r in results] == [False, True] * 20
    assert len(await events.read_all()) == 20


async def test_one_that_gives_up_on_its_way_takes_nobody_along(new_events: NewEvents) -> None:
    """The first of many is sent at once and alone. Cancelled, it ends; whoever waited is stored."""
    events = new_events()
    await put(events, uuid4())
    first = asyncio.create_task(put(events, uuid4()))
    others = [asyncio.create_task(put(events, uuid4())) for _ in range(5)]
    await asyncio.sleep(0)
    first.cancel()
    results = await asyncio.gather(first, *others, return_exceptions=True)
    assert isinstance(results[0], asyncio.CancelledError) and results[1:] == [None] * 5
    await put(events, uuid4())
    assert len(await events.read_all()) - 7 in (0, 1)


async def test_E1_a_group_keeps_tenants_apart(
    new_events: NewEvents, event_store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one transaction of many tenants: a forged context stores nothing, a foreign stream and a
    foreign event id are the attacker's own, and nobody's neighbour notices."""
    victim, forger, copier, neighbour = (new_events() for _ in range(4))
    stream, known = uuid4(), deposit(1)
    await put(victim, stream, known)
    sign = event_store.database.signer.sign

    def forge(tenant: UUID | None, by: Principal) -> str:
        if tenant != forger.scope.tenant:
            return sign(tenant, by)
        signature = sign(neighbour.scope.tenant, by).rsplit(".", 1)[1]
        return sign(victim.scope.tenant, by).rsplit(".", 1)[0] + "." + signature

    monkeypatch.setattr(type(event_store.grouper.lane.signer), "sign", staticmethod(forge))
    results = await asyncio.gather(
        put(neighbour, uuid4()),
        put(forger, stream, deposit(666)),
        put(copier, stream, NewEvent("Deposited", {"amount": 2}, event_id=known.event_id)),
        put(neighbour, stream),
        return_exceptions=True,
    )
    monkeypatch.undo()
    assert [type(result) for result in results] == [type(None), AccessDenied, *[type(None)] * 2]
    assert [event.data for event in await victim.read_all()] == [{"amount": 1}]
    assert [event.data for event in await copier.read_all()] == [{"amount": 2}]
    assert len(await neighbour.read_all()) == 2
    assert await forger.read_all() == []


async def test_a_stream_that_is_held_delays_nobody_else(
    new_events: NewEvents, module_databases: Endpoints
) -> None:
    """Another process stands at one stream: its append waits for it, all others are stored."""
    events, stream = new_events(), uuid4()
    assert events.scope.tenant is not None
    async with held(module_databases, events.scope.tenant, stream):
        waiting = asyncio.create_task(put(events, stream))
        await asyncio.gather(*(put(events, uuid4()) for _ in range(10)))
        assert not waiting.done()
    await waiting
    assert [event.version async for event in events.read_stream(stream)] == [1, 2]


async def test_C_a_lost_connection_stores_all_once(
    new_events: NewEvents, admin: psycopg.Connection
) -> None:
    """Four times the server's process ends under an append: every event is stored, once."""
    events, streams = new_events(), [uuid4() for _ in range(6)]

    async def end_processes() -> None:
        ended = 0
        while ended < 4:
            found = await asyncio.to_thread(
                admin.execute,
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE state = 'active'"
                " AND datname = 'event_store' AND usename = 'neolayer_app' LIMIT 1",
            )
            ended += found.rowcount
            await asyncio.sleep(0.001)

    async def write(stream: UUID) -> None:
        for version in range(20):
            await events.append(
                stream, [deposit(version)], category="account", expected_version=version
            )

    ending = asyncio.create_task(end_processes())
    try:
        await asyncio.gather(*map(write, streams))
    finally:
        ending.cancel()
    for stream in streams:
        found = [event.data["amount"] async for event in events.read_stream(stream)]
        assert found == list(range(20))


@pytest.fixture
def spendthrift(admin: psycopg.Connection) -> Iterator[UUID]:
    """A tenant whose every append meets an error of the database's, such as a limit."""
    tenant = uuid4()
    admin.execute(
        "CREATE FUNCTION public.refuse_spendthrift() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        f" IF NEW.tenant_id = '{tenant}' THEN"
        " RAISE EXCEPTION 'over the limit' USING ERRCODE = 'NL402',"
        """ DETAIL = '{"limit": "events", "allowed": 0}';"""
        " END IF; RETURN NEW; END $$"
    )
    admin.execute(
        "CREATE TRIGGER refuse_spendthrift BEFORE INSERT ON public.events"
        " FOR EACH ROW EXECUTE FUNCTION public.refuse_spendthrift()"
    )
    yield tenant
    admin.execute("DROP FUNCTION public.refuse_spendthrift() CASCADE")


async def test_C_a_group_that_fails_is_one_commit_still_but_for_the_culprits(
    new_events: NewEvents, event_store: EventStore, spendthrift: UUID
) -> None:
    """32 at once, of several tenants: a tenant over a limit, a version conflict, an id that is half
    known, one that no text holds. Each is refused as it would be alone; all others are stored, in
    one commit and one more try for all of them."""
    tenants = [new_events() for _ in range(4)]
    poor = new_events(spendthrift)
    stream, known = uuid4(), deposit()
    await put(tenants[0], stream, known)
    good = [(events, uuid4()) for events in tenants for _ in range(7)]
    odd = NewEvent("Deposited", {}, correlation_id=object())  # type: ignore[arg-type]
    work = [put(events, one) for events, one in good]
    for place, bad in (
        (0, poor.append(uuid4(), [deposit()], category="account")),
        (9, tenants[0].append(stream, [deposit()], expected_version=NONE)),
        (17, tenants[0].append(uuid4(), [deposit(), known], category="account")),
        (30, tenants[3].append(uuid4(), [odd], category="account")),
    ):
        work.insert(place, bad)
    before = event_store.grouper.commits
    results = await asyncio.gather(*work, return_exceptions=True)
    refused = {place: type(one) for place, one in enumerate(results) if one is not None}
    assert refused == {
        0: TenantLimitExceeded,
        9: WrongVersion,
        17: EventIdTaken,
        30: InvalidInput,
    }
    assert event_store.grouper.commits - before == 1
    for events, one in good:
        assert [event.version async for event in events.read_stream(one)] == [1]
    assert await poor.read_all() == []
    assert len(await tenants[0].read_all()) == 8


async def test_C_a_large_group_that_fails_overflows_no_server_process(
    new_events: NewEvents,
    event_store: EventStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A server's process remembers 64 subtransactions; with more, every snapshot of all pays.
    200 appends at once beside one that fails take a few transactions more, none of so many."""
    events, other = new_events(), new_events()
    taken = deposit()
    await put(events, uuid4(), taken)
    send, apart = grouping._send, list[int]()

    async def counted(database: TenantDatabase, turns: Any) -> Any:
        statements = [one for _, part in turns for one, _ in part]
        apart.append(statements.count(grouping.sql.append_apart))
        return await send(database, turns)

    monkeypatch.setattr(grouping, "_send", counted)
    before = event_store.grouper.commits
    results = await asyncio.gather(
        *(put(whose, uuid4()) for whose in (events, other) for _ in range(100)),
        events.append(uuid4(), [deposit(), taken], category="account"),
        return_exceptions=True,
    )
    assert [type(one) for one in results if one is not None] == [EventIdTaken]
    assert sum(apart) == 200 and max(apart) <= 64
    assert event_store.grouper.commits - before <= 6
    assert len(await events.read_all()) + len(await other.read_all()) == 201


async def test_C_a_lost_connection_of_a_group_is_one_more_try(
    new_events: NewEvents, event_store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer to a group's COMMIT is lost: what was stored is known by its ids, in one more
    transaction for all."""
    events, streams = new_events(), [uuid4() for _ in range(12)]
    send, lost = grouping._send, list[int]()

    async def deaf(database: TenantDatabase, turns: Any) -> Any:
        answered = await send(database, turns)
        lost.append(1)
        if len(lost) == 2:  # the first of them has gone ahead
            raise psycopg.OperationalError("the answer to COMMIT was lost")
        return answered

    monkeypatch.setattr(grouping, "_send", deaf)
    before = event_store.grouper.commits
    written = await asyncio.gather(
        *(events.append(stream, [deposit()], category="account") for stream in streams)
    )
    assert event_store.grouper.commits - before == 2
    assert [one.is_repeated for one in written] == [False] + [True] * 11
    for stream in streams:
        assert [event.version async for event in events.read_stream(stream)] == [1]


@pytest.mark.parametrize("count", [1, 12])
async def test_C_nobody_is_sent_apart_in_vain(
    new_events: NewEvents, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """Who fails in no company is by itself at once; a database that does not answer is asked by the
    group once, and then by each as long as it has patience."""
    events, sent, send = new_events(), list[int](), grouping._send
    failures = [EngineUnavailable("postgres", "no")] if count > 1 else [psycopg.DataError("no")]

    async def failing(database: TenantDatabase, turns: Any) -> Any:
        assert grouping.sql.append_apart not in [one for _, part in turns for one, _ in part]
        sent.append(len(turns))
        if failures and len(sent) == min(count, 2):  # of several the first has gone ahead
            raise failures.pop()
        return await send(database, turns)

    monkeypatch.setattr(grouping, "_send", failing)
    await asyncio.gather(*(put(events, uuid4()) for _ in range(count)))
    assert len(sent) == 1 + count


async def test_what_nobody_foresaw_is_told_to_whom_it_concerns(
    new_events: NewEvents, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault of ours in a group: each goes alone, and whoever caused it would get it as it is."""
    events, send, sent = new_events(), grouping._send, list[int]()

    async def broken(database: TenantDatabase, turns: Any) -> Any:
        sent.append(1)
        if len(sent) == 2:  # the first of them has gone ahead
            raise ValueError("a fault of ours")
        return await send(database, turns)

    monkeypatch.setattr(grouping, "_send", broken)
    await asyncio.gather(*(put(events, uuid4()) for _ in range(12)))
    assert len(await events.read_all()) == 12
