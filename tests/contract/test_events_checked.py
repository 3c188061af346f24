"""D3, E15: a typed event is stored only if it reads back, and its personal fields only sealed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import inf, nan
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest
from tests.fixtures.bank import ACCOUNT, Deposited, Opened
from tests.fixtures.fix_projections import Bank

from neolayer.errors import InvalidInput
from neolayer.events import Erased, EventTypes, NewEvent, Personal, StreamAppend, UnfitEvent
from neolayer.events.aggregates import Aggregate

things = EventTypes("thing")


@things.event("camel", subject="customer_id")
class Camel(msgspec.Struct, frozen=True, rename="camel"):
    customer_id: UUID
    owner_name: Personal


@things.event("measured")
class Measured(msgspec.Struct, frozen=True):
    value: float | None
    more: list[float] = msgspec.field(default_factory=list[float])


@things.event('quo"ted')
class Quoted(msgspec.Struct, frozen=True):
    by: int


@things.event("count")
class Count(msgspec.Struct, frozen=True):
    by: int = 1


class Sum(msgspec.Struct, frozen=True):
    of: int = 0


def evolve(state: Sum, event: object) -> Sum:
    return Sum(state.of + getattr(event, "by", 0))


THING = Aggregate("thing", Sum(), evolve, lambda command, state: [])


def odd(event: type[msgspec.Struct], *values: Any) -> msgspec.Struct:
    """An event of values that no type checker would let through."""
    return event(*values)


@pytest.mark.parametrize(
    ("event", "complaint"),
    [
        (odd(Deposited, "five"), r"this is no deposited: .*amount"),
        (odd(Deposited, 1.5), "this is no deposited"),
        (odd(Deposited, object()), "this is no deposited"),
        (odd(Opened, uuid4(), None), "this is no opened: .*owner"),
        (odd(Opened, None, "PLAINANN"), "this is no opened: .*customer_id"),
        (odd(Opened, str(uuid4()), "PLAINANN"), "opened.customer_id is str, no UUID"),
        (odd(Opened, uuid4(), b"PLAINANN"), "opened.owner is personal text, not bytes"),
        (odd(Opened, uuid4(), "\ud800"), "opened.owner is no text"),
    ],
)
async def test_D_a_typed_event_that_does_not_read_back_is_refused(
    the_bank: Bank, event: msgspec.Struct, complaint: str
) -> None:
    """Nothing is stored, and the stream goes on."""
    acme, account = await the_bank.tenant(), uuid4()
    with pytest.raises(UnfitEvent, match=complaint):
        await acme.events.append(account, [event])
    with pytest.raises(UnfitEvent):
        await acme.events.append_all([StreamAppend(account, [Deposited(1), event])])
    assert await acme.events.state(account) is None
    await acme.events.append(account, [Deposited(2)])
    assert (await acme.aggregates.load(ACCOUNT, account)).state.balance == 2


async def test_D_numbers_that_JSON_cannot_say_are_refused(the_bank: Bank) -> None:
    """Instead of being stored as null; null itself is stored."""
    thing = await the_bank.with_domain(types=[things])
    acme, stream = thing.again(await the_bank.tenant()), uuid4()
    for event in (
        Measured(nan),
        Measured(inf),
        Measured(1, [0.5, -inf]),
        NewEvent("raw", {"a": {"b": [None, nan]}}),
        NewEvent("raw", {}, metadata={"a": inf}),
        NewEvent("raw", {"a": 2**64}),
    ):
        with pytest.raises(InvalidInput, match="JSON") as refused:
            await acme.events.append(stream, [event], category="thing")
        assert refused.value.hint
    await acme.events.append(stream, [Measured(None), Measured(1)])
    assert [event async for event, _ in acme.events.read_stream(stream)] == [
        Measured(None),
        Measured(1),
    ]


async def test_E15_a_renamed_personal_field_is_sealed_under_its_stored_name(the_bank: Bank) -> None:
    """And nowhere else; erased with its key."""
    thing = await the_bank.with_domain(types=[things])
    acme, stream, who = thing.again(await the_bank.tenant()), uuid4(), uuid4()
    await acme.events.append(stream, [Camel(who, "SECRETCAMEL")])
    (stored,) = [one async for one in acme.events.stored.read_stream(stream)]
    assert set(stored.data) == {"customerId", "ownerName"}
    assert "SECRETCAMEL" not in json.dumps(stored.data)
    assert [event async for event, _ in acme.events.read_stream(stream)] == [
        Camel(who, "SECRETCAMEL")
    ]
    await acme.subjects.erase(who)
    assert [event async for event, _ in acme.events.read_stream(stream)] == [Camel(who, Erased())]


@pytest.mark.parametrize(
    ("events", "total"),
    [
        ([Count(1), Quoted(2)], 3),
        ([Count(1), NewEvent("count", {"by": 2}, key_id='a"b')], 3),
        ([Count(1), NewEvent("count", {"by": 2}, key_id="subject:nonsense")], 3),
    ],
)
async def test_an_aggregate_loads_whatever_names_and_keys_hold(
    the_bank: Bank, events: list[Any], total: int
) -> None:
    """Quotes are characters like others, and a key id that names nobody is no key."""
    thing = await the_bank.with_domain(types=[things])
    acme, stream = thing.again(await the_bank.tenant()), uuid4()
    await acme.events.append(stream, events)
    assert (await acme.aggregates.load(THING, stream)).state.of == total
    assert len([event async for event, _ in acme.events.read_stream(stream)]) == 2


async def test_no_name_of_a_type_invents_events(the_bank: Bank) -> None:
    """What `load` folds are the events that `read_stream` shows."""
    thing = await the_bank.with_domain(types=[things])
    acme, stream = thing.again(await the_bank.tenant()), uuid4()
    data: Mapping[str, Any] = {"by": 5}
    name = 'count",1,null,{"by":1000}],["count'
    await acme.events.append(stream, [Count(1), NewEvent(name, data)])
    with pytest.raises(InvalidInput, match="nothing is registered for events"):
        await acme.aggregates.load(THING, stream)


async def test_D_limits_and_versions_that_are_none_are_refused(the_bank: Bank) -> None:
    """In our own words, typed and as stored: expected, of a schema, or to read from."""
    acme, stream = await the_bank.tenant(), uuid4()
    wrong: list[Any] = [-3, 2**31, True, "3", 1.5, None]
    for limit in (*wrong, 0):
        for events in (acme.events, acme.events.stored):
            with pytest.raises(InvalidInput, match="a limit is a number of events"):
                await events.read_all(limit=limit)
    for version in wrong:
        with pytest.raises(InvalidInput, match="no version"):
            await acme.events.append(stream, [Deposited(1)], expected_version=version)
        with pytest.raises(InvalidInput, match="no schema version"):
            event = NewEvent("x", {}, schema_version=version)
            await acme.events.append(stream, [event], category="c")
    for version in wrong[1:]:
        with pytest.raises(InvalidInput, match="no version"):
            await anext(acme.events.stored.read_backwards(stream, from_version=version), None)
    nameless: Any = 3
    with pytest.raises(InvalidInput, match="a type is text"):
        await acme.events.append(stream, [NewEvent(nameless, {})], category="c")
