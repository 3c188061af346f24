"""What the application's own SQL cannot do to events: it appends by the function, as who it is."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from uuid import UUID, uuid4

import orjson
import psycopg
import pytest
from tests.fixtures.fix_events import NewEvents

from neolayer.errors import InvalidInput
from neolayer.events import Events, EventStore, NewEvent, StreamAppend, WrongVersion
from neolayer.events.units import MOST_STREAMS
from neolayer.tenancy import Principal

APPEND = "SELECT public.append_events(%s, %s, true)"
ONE = (
    "SELECT public.append_event(%(context)s, %(stream)s, %(category)s, -1, %(id)s, 'Deposited',"
    " '{}', '{}', NULL, NULL, 1, NULL)"
)
GROUP = "SELECT public.append_group(%s, %s, %s::json, %s)"


def batch(stream: UUID, **more: object) -> str:
    event = {"u": 0, "a": 0, "s": stream, "c": "account", "x": -1, "i": uuid4(), "t": "Deposited"}
    return orjson.dumps([event | {"d": {}} | more]).decode()


async def only(events: Events, stream: UUID) -> UUID | None:
    (event,) = [event async for event in events.read_stream(stream)]
    return event.user_id


async def test_E14_an_event_is_by_who_appends_it(new_events: NewEvents) -> None:
    """The user is the context's, whatever else the batch names; nobody's where no user acts."""
    user, stream, other = uuid4(), uuid4(), uuid4()
    member = new_events(by=Principal.user(user))
    operator = new_events(member.scope.tenant)
    forged = {"w": uuid4(), "user_id": uuid4(), "position": 1, "transaction_id": "3"}
    await member.scope.fetch(APPEND, ([stream], batch(stream, **forged)))
    await operator.scope.fetch(APPEND, ([other], batch(other, w=user)))
    assert (await only(member, stream), await only(member, other)) == (user, None)
    third = uuid4()
    written = await member.append(third, [NewEvent("Deposited", {})], category="account")
    assert (written.events[0].user_id, await only(member, third)) == (user, user)


async def test_E14_no_insert_names_its_own_place(new_events: NewEvents) -> None:
    """A transaction, a position or a user that were others': the table takes none from SQL."""
    events = new_events()
    for column, value in (("transaction_id", "'3'"), ("user_id", "gen_random_uuid()")):
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="permission denied"):
            await events.scope.fetch(
                "INSERT INTO public.events (tenant_id, aggregate_id, aggregate_type, event_type,"  # type: ignore[arg-type]
                f" event_version, event_data, {column}) VALUES"
                f" (core.current_tenant(), gen_random_uuid(), 'a', 'b', 1, '{{}}', {value})"
            )


async def test_D_one_call_takes_so_many_locks_and_no_more(new_events: NewEvents) -> None:
    """Each is a place in memory that all sessions share; the error names the limit."""
    events = new_events()
    many = [StreamAppend(uuid4(), [NewEvent("Moved", {})], "a") for _ in range(MOST_STREAMS + 1)]
    with pytest.raises(InvalidInput, match="1 to 500 streams"):
        await events.append_all(many)
    too_many = [uuid4() for _ in range(501)]
    context = events.scope.core.signer.sign(events.scope.tenant, events.scope.by)
    for query, parameters in (
        (APPEND, (too_many, "[]")),
        (GROUP, (context, too_many, "[]", True)),
        (GROUP, (context, too_many, "[]", False)),
        ("SELECT public.append_events(%s, %s, false)", (too_many, "[]")),
        ("SELECT public.append_within(%s, %s)", (too_many, "[]")),
        ("SELECT public.lock_read_model_rows('totals', %s)", ([str(i) for i in too_many],)),
    ):
        with pytest.raises(psycopg.errors.ProgramLimitExceeded, match=r"500 .* at most, not 501"):
            await events.scope.fetch(query, parameters)  # type: ignore[arg-type]
    assert len((await events.append_all(many[1:])).events) == MOST_STREAMS


async def test_D_a_group_takes_no_more_locks_than_one_append(
    new_events: NewEvents, event_store: EventStore
) -> None:
    """Appends of many streams each, at once: more groups, and all is stored."""
    events, before = new_events(), event_store.grouper.commits
    appends = [
        [StreamAppend(uuid4(), [NewEvent("Moved", {})], "a") for _ in range(200)] for _ in range(5)
    ]
    await asyncio.gather(*(events.append_all(some) for some in appends))
    assert len(await events.read_all(limit=2000)) == 1000
    assert event_store.grouper.commits - before == 3


def forged(context: str) -> list[str]:
    """A context of somebody else, with another principal, another end, another seal, or none."""
    tenant, principal, ends, seal = context.split(".")
    return [
        f"{uuid4()}.{principal}.{ends}.{seal}",
        f"{tenant}.system:x.{ends}.{seal}",
        f"{tenant}.{principal}.{int(ends) + 1}.{seal}",
        f"{tenant}.{principal}.{ends}.{seal[:-1]}{'0' if seal[-1] != '0' else '1'}",
        f"{tenant}.{principal}.{ends}-{seal}",
        f"{tenant}.{principal}.{ends}",
        seal,
        ".",
        "",
    ]


async def test_E1_a_context_that_is_no_ones_appends_nothing(
    new_events: NewEvents, event_store: EventStore
) -> None:
    """The doors that take the context as a value ask for its signature and its end."""
    events = new_events()
    signer, tenant, by = event_store.database.signer, events.scope.tenant, events.scope.by
    good = signer.sign(tenant, by)
    past = signer.sign(tenant, by, lifetime=timedelta(seconds=-1))
    nobody = signer.sign(None, by)
    for context in (*forged(good), past, nobody, None):
        stream = uuid4()
        values = {"context": context, "stream": stream, "category": "account", "id": uuid4()}
        one = await events.scope.one(ONE, values)
        group = [
            await events.scope.one(GROUP, (context, [stream], batch(stream), is_plain))
            for is_plain in (True, False)
        ]
        assert (one, *group) == ((["refused"],), *[({"refused": True},)] * 2), context
    assert await events.read_all() == []


async def test_E14_one_event_is_by_who_appends_it(new_events: NewEvents) -> None:
    """The context says whose event it is, not the session's tenant; a user is the one it names."""
    user = uuid4()
    member, other = new_events(by=Principal.user(user)), new_events()
    context = member.scope.core.signer.sign(member.scope.tenant, member.scope.by)
    one, group = uuid4(), uuid4()
    values = {"context": context, "stream": one, "category": "account", "id": uuid4()}
    await other.scope.one(ONE, values)
    await other.scope.one(GROUP, (context, [group], batch(group, w=uuid4()), True))
    assert await only(member, one) == await only(member, group) == user
    assert await other.read_all() == []


async def test_D_a_plain_group_that_is_none_leaves_no_hole(new_events: NewEvents) -> None:
    """Two events for one stream, or one for another than was locked, where one each was said."""
    events = new_events()
    context = events.scope.core.signer.sign(events.scope.tenant, events.scope.by)
    stream, other = uuid4(), uuid4()

    def rows(*streams: UUID) -> str:
        return "[" + ",".join(batch(one)[1:-1] for one in streams) + "]"

    async def send(locked: list[UUID], *streams: UUID) -> list[str]:
        row = await events.scope.one(GROUP, (context, locked, rows(*streams), True))
        assert row is not None
        return [status for _, status, *_ in row[0]["appends"]]

    with pytest.raises(psycopg.errors.UniqueViolation):
        await send([stream, stream], stream, stream)
    assert await send([stream], other) == ["busy"]
    assert await send([stream], stream, other) == ["stored", "busy"]
    assert await send([stream, other], stream, other) == ["stored", "stored"]
    assert [event.version for event in await events.read_all()] == [1, 2, 1]
    with pytest.raises(WrongVersion):
        await events.append(stream, [NewEvent("Deposited", {})], expected_version=1)
