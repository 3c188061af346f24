"""Appending: expected versions, ids that make a second try harmless, several streams at once."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from uuid import UUID, uuid4

import psycopg
import pytest
from tests.fixtures.fix_events import NewEvents

from neolayer.engines.endpoints import Database, Endpoints, Role
from neolayer.errors import InvalidInput
from neolayer.events import (
    ANY,
    EXISTS,
    NONE,
    EventIdTaken,
    Events,
    NewEvent,
    StreamAppend,
    StreamIsClosed,
    WrongCategory,
    WrongVersion,
)
from neolayer.tenancy import Principal, Transaction


def deposits(*amounts: int) -> list[NewEvent]:
    return [NewEvent("Deposited", {"amount": amount}) for amount in amounts]


async def amounts(events: Events, stream: UUID) -> list[int]:
    return [event.data["amount"] async for event in events.read_stream(stream)]


async def test_an_append_comes_back_as_it_was_given(new_events: NewEvents) -> None:
    """All that was given is stored, and what append returns is what a reader reads."""
    events, stream = new_events(), uuid4()
    given = NewEvent(
        "Deposited",
        {"amount": 5, "text": 'say "é" \\'},
        metadata={"ip": "192.0.2.1"},
        correlation_id=uuid4(),
        causation_id=uuid4(),
        schema_version=3,
        key_id="k1",
    )
    written = await events.append(stream, [given, *deposits(7)], category="account")
    assert written.versions == {stream: 2}
    assert [event async for event in events.read_stream(stream)] == list(written.events)
    assert written.events[0].data == given.data
    assert written.events[0].event_id == given.event_id
    assert written.position is not None and written.position.database == "event_store"
    backwards = [event.version async for event in events.read_backwards(stream, page=1)]
    assert backwards == [2, 1]
    assert await events.read_all() == list(written.events)
    assert await events.read_all(after=written.events[0].place) == [written.events[1]]


@pytest.mark.parametrize("before", [0, 2])
@pytest.mark.parametrize("expected", [ANY, NONE, EXISTS, 1, 2, 3])
async def test_C_expected_versions(new_events: NewEvents, before: int, expected: int) -> None:
    """Exact, any, none, exists: the stream is at it, or the append says where it is."""
    events, stream = new_events(), uuid4()
    if before:
        await events.append(stream, deposits(*range(before)), category="account")
    fits = expected in (ANY, before) or (expected == EXISTS and before > 0)
    append = events.append(stream, deposits(9), category="account", expected_version=expected)
    if fits:
        assert (await append).version == before + 1
        return
    with pytest.raises(WrongVersion) as refused:
        await append
    assert refused.value.present == before
    assert len(await amounts(events, stream)) == before


async def test_a_second_try_gives_the_first_outcome(new_events: NewEvents) -> None:
    """Also where the stream has gone on, and whatever version the first try expected."""
    events, stream = new_events(), uuid4()
    batch = deposits(1, 2)
    first = await events.append(stream, batch, category="account", expected_version=NONE)
    await events.append(stream, deposits(3))
    again = await events.append(stream, batch, category="account", expected_version=NONE)
    assert again.is_repeated and not first.is_repeated
    assert (again.versions, list(again.events)) == (first.versions, list(first.events))
    assert await amounts(events, stream) == [1, 2, 3]


@pytest.mark.parametrize("is_within", [False, True])
async def test_the_first_tries_metadata_stay(new_events: NewEvents, is_within: bool) -> None:
    """A second try may tell of itself what it likes: neither compared nor stored, nor answered."""
    events, stream = new_events(), uuid4()
    (event,) = deposits(1)
    first = replace(event, metadata={"try": 1}, correlation_id=uuid4())
    stored = (await events.append(stream, [first], category="account")).events
    second = replace(event, metadata={"try": 2}, correlation_id=uuid4(), causation_id=uuid4())
    other = new_events(events.scope.tenant, by=Principal.user(uuid4()))
    if is_within:
        async with other.scope.transaction() as tx:
            again = await other.append_in(tx, [StreamAppend(stream, [second])])
    else:
        again = await other.append(stream, [second])
    assert again.is_repeated and list(again.events) == list(stored)
    assert [one async for one in events.read_stream(stream)] == list(stored)


async def test_no_success_for_an_event_that_is_not_stored(new_events: NewEvents) -> None:
    """An id with another content, in another stream, beside a new one: a conflict."""
    events, stream, other = new_events(), uuid4(), uuid4()
    stored = deposits(1)[0]
    await events.append(stream, [stored], category="account")
    changed = NewEvent("Deposited", {"amount": 2}, event_id=stored.event_id)
    for target, batch in (
        (stream, [changed]),
        (other, [stored]),
        (stream, [stored, *deposits(5)]),
        (stream, [*deposits(5), stored]),
    ):
        with pytest.raises(EventIdTaken):
            await events.append(target, batch, category="account")
    assert await amounts(events, stream) == [1]
    assert await amounts(events, other) == []


async def test_ids_of_another_tenant_are_free(new_events: NewEvents) -> None:
    """One tenant's event ids and streams say nothing to another."""
    stream, event = uuid4(), deposits(1)[0]
    for events in (new_events(), new_events()):
        written = await events.append(stream, [event], category="account", expected_version=NONE)
        assert not written.is_repeated


async def test_several_streams_all_or_nothing(new_events: NewEvents) -> None:
    """One stream's conflict keeps the others from being stored."""
    events, one, two = new_events(), uuid4(), uuid4()
    pair = [StreamAppend(one, deposits(1), "account"), StreamAppend(two, deposits(-1), "account")]
    written = await events.append_all(pair)
    assert written.versions == {one: 1, two: 1}
    again = [
        StreamAppend(one, deposits(1), expected_version=1),
        StreamAppend(two, deposits(-1), expected_version=7),
    ]
    with pytest.raises(WrongVersion) as refused:
        await events.append_all(again)
    assert refused.value.stream_id == two
    assert (await amounts(events, one), await amounts(events, two)) == ([1], [-1])


async def test_a_stream_has_one_category(new_events: NewEvents) -> None:
    """A new one needs one, and keeps it."""
    events, stream = new_events(), uuid4()
    with pytest.raises(WrongCategory, match="is new"):
        await events.append(stream, deposits(1))
    await events.append(stream, deposits(1), category="account")
    with pytest.raises(WrongCategory, match="'account'"):
        await events.append(stream, deposits(1), category="order")


@pytest.mark.parametrize(
    "event",
    [
        NewEvent("Deposited", {"text": "\0"}),
        NewEvent("Deposited", {"number": 2**70}),
        NewEvent("Deposited", {"thing": object()}),
        NewEvent("Deposited", [1]),  # type: ignore[arg-type]
        NewEvent("", {}),
        NewEvent("x" * 256, {}),
        NewEvent("Deposited", {}, schema_version=0),
        NewEvent("Deposited", {}, key_id="k" * 101),
        object(),
    ],
)
async def test_what_cannot_be_stored_is_refused_here(new_events: NewEvents, event: object) -> None:
    """Before it travels with anybody else's."""
    with pytest.raises(InvalidInput):
        await new_events().append(uuid4(), [event], category="account")


async def test_writers_of_one_stream_take_turns(new_events: NewEvents) -> None:
    """Fifty at once, any version: fifty versions, each once."""
    events, stream = new_events(), uuid4()
    written = await asyncio.gather(
        *(events.append(stream, deposits(n), category="account") for n in range(50))
    )
    assert sorted(each.version for each in written) == list(range(1, 51))
    assert sorted(await amounts(events, stream)) == list(range(50))


async def test_nothing_follows_the_event_that_closes(new_events: NewEvents) -> None:
    """Neither in one append, nor in one of the same group; the closing one comes again."""
    events, stream, closing = new_events(), uuid4(), NewEvent("StreamClosed", {})
    with pytest.raises(InvalidInput, match="no event after the one that closes"):
        await events.append(stream, [closing, *deposits(1)], category="account")
    first, second = await asyncio.gather(
        events.append(stream, [closing], category="account"),
        events.append(stream, deposits(1), category="account"),
        return_exceptions=True,
    )
    assert not isinstance(first, BaseException) and isinstance(second, StreamIsClosed)
    again = await events.append(stream, [closing], category="account", expected_version=NONE)
    assert again.is_repeated and again.events == first.events


async def test_an_id_twice_is_one_event(new_events: NewEvents) -> None:
    """In one append it is refused; two appends of it at once are one and its second try."""
    events, stream, event = new_events(), uuid4(), deposits(1)[0]
    with pytest.raises(EventIdTaken) as refused:
        await events.append(stream, [*deposits(5), event, event], category="account")
    assert refused.value.event_id == event.event_id
    written = await asyncio.gather(
        *(events.append(stream, [event], category="account") for _ in range(3)),
        *(events.append(uuid4(), deposits(2), category="account") for _ in range(3)),
    )
    assert sorted(each.is_repeated for each in written[:3]) == [False, True, True]
    assert await amounts(events, stream) == [1]
    assert len(await events.read_all()) == 4


async def test_a_second_try_within_a_transaction(new_events: NewEvents) -> None:
    """The first outcome, whatever version it expects; a part of it is refused with its id."""
    events, stream, batch = new_events(), uuid4(), deposits(1, 2)
    first = await events.append(stream, batch, category="account", expected_version=NONE)
    async with events.scope.transaction() as tx:
        again = await events.append_in(tx, [StreamAppend(stream, batch, "account", NONE)])
    assert again.is_repeated and list(again.events) == list(first.events)
    for mixed in ([*deposits(3), batch[1]], [batch[0], *deposits(3)]):
        with pytest.raises(EventIdTaken) as refused:
            async with events.scope.transaction() as tx:
                await events.append_in(tx, [StreamAppend(stream, mixed)])
        assert refused.value.event_id in {event.event_id for event in batch}
    assert await amounts(events, stream) == [1, 2]


@pytest.mark.parametrize("streams", [1, 3])
async def test_an_append_costs_the_same_whatever_is_stored(
    new_events: NewEvents, module_databases: Endpoints, streams: int
) -> None:
    """A plan from when the tables were empty reads no more rows once they are not."""
    events = new_events()

    async def append(tx: Transaction) -> None:
        appends = [StreamAppend(uuid4(), deposits(1, 2), "account") for _ in range(streams)]
        await events.append_in(tx, appends)

    for _ in range(8):
        await events.scope.run(append)
    dsn = module_databases.event_store.dsn(Role.ADMIN, Database.EVENT_STORE)
    with psycopg.connect(dsn) as admin:
        admin.execute("SET session_replication_role = replica")
        for statement in (
            "INSERT INTO public.events (tenant_id, aggregate_id, aggregate_type, event_type,"
            " event_version, event_data) SELECT %s, gen_random_uuid(), 'account', 'x', 1, '{}'"
            " FROM generate_series(1, 3000)",
            "INSERT INTO public.stream_heads (tenant_id, aggregate_id, aggregate_type, version,"
            " appended) SELECT %s, gen_random_uuid(), 'account', 1, 1"
            " FROM generate_series(1, 3000)",
        ):
            admin.execute(statement, (events.scope.tenant,))
    async with events.scope.transaction() as tx:
        await append(tx)
        ((rows,),) = await tx.fetch(
            "SELECT sum(seq_tup_read + coalesce(idx_tup_fetch, 0))::int"
            " FROM pg_stat_xact_user_tables WHERE relname IN ('events', 'stream_heads')"
        )
    assert rows <= 4 * streams
