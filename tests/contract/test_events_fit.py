"""D3: an event given as bare JSON must fit the type that the program has for it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from uuid import UUID, uuid4

import pytest
from tests.fixtures.bank import ACCOUNT, INLINE_BALANCES, Balance, Deposit, Deposited, Opened
from tests.fixtures.fix_projections import Bank

from neolayer.cli import event_options as command
from neolayer.cli import main
from neolayer.events import (
    EventIdTaken,
    NewEvent,
    RecordedEvent,
    StreamAppend,
    StreamIsClosed,
    UnfitEvent,
)
from neolayer.keys import Keyring
from neolayer.settings import Settings
from neolayer.tenancy import Transaction

OPENED = {"owner": "Ann Arbor", "email": None}


def deposited(data: dict[str, object], version: int = 3) -> NewEvent:
    return NewEvent("deposited", data, schema_version=version)


@pytest.mark.parametrize(
    "event",
    [
        deposited({"amount": "five"}),
        deposited({}),
        deposited({"amount": 5}, version=1),  # version 1 has units, and its upcaster fails
        deposited({"amount": 5}, version=99),  # of a program that is still to come
    ],
)
async def test_D_an_event_that_does_not_fit_its_type_is_refused(
    the_bank: Bank, event: NewEvent
) -> None:
    """Nothing is stored, whether the category is said or is the stream's, and among others too."""
    acme, account = await the_bank.tenant(), uuid4()
    with pytest.raises(UnfitEvent, match="this is no deposited"):
        await acme.events.append(account, [event], category="account")
    assert await acme.events.state(account) is None
    await acme.events.append(account, [Deposited(1)])
    with pytest.raises(UnfitEvent):
        await acme.events.append(account, [event])
    with pytest.raises(UnfitEvent):
        other = StreamAppend(uuid4(), [Deposited(2)])
        await acme.events.append_all([other, StreamAppend(account, [event])])
    assert (await acme.aggregates.load(ACCOUNT, account)).state.balance == 1


async def test_D_an_event_that_fits_is_stored_as_it_is(the_bank: Bank) -> None:
    """Older versions and types that nobody registered too; ids and metadata stay."""
    acme, account = await the_bank.tenant(), uuid4()
    event = NewEvent("deposited", {"units": 2}, metadata={"by": "import"}, correlation_id=uuid4())
    await acme.events.append(account, [event, NewEvent("noted", {"x": "y"})], category="account")
    stored = [one async for one in acme.events.stored.read_stream(account)]
    assert (stored[0].event_id, stored[0].data) == (event.event_id, {"units": 2})
    assert (stored[0].correlation_id, stored[0].metadata) == (event.correlation_id, event.metadata)
    row = await acme.read_models.get(INLINE_BALANCES, account)
    assert row == Balance(account, 200, 1)


async def test_E15_personal_text_given_as_json_is_sealed(the_bank: Bank) -> None:
    """As it would be in a typed event, and left alone where it is sealed already."""
    acme, account, customer = await the_bank.tenant(), uuid4(), uuid4()
    event = NewEvent("opened", {"customer_id": str(customer), **OPENED})
    await acme.events.append(account, [event], category="account")
    stored = [one async for one in acme.events.stored.read_stream(account)]
    assert "Ann Arbor" not in str(stored[0].data) and stored[0].event_id == event.event_id
    assert stored[0].key_id == f"subject:{customer}"
    assert (await acme.aggregates.load(ACCOUNT, account)).state.owner == "Ann Arbor"
    again = NewEvent("opened", stored[0].data, key_id=stored[0].key_id)
    await acme.events.append(account, [again])  # sealed already: stored as it is
    stored = [one async for one in acme.events.stored.read_stream(account)]
    assert stored[1].data == stored[0].data


async def test_E15_personal_text_given_twice_under_one_id_is_one_event(the_bank: Bank) -> None:
    """A second try is known, though what is stored is sealed; another text is another event."""
    acme, account, customer = await the_bank.tenant(), uuid4(), uuid4()
    event = NewEvent("opened", {"customer_id": str(customer), **OPENED})
    first = await acme.events.append(account, [event], category="account")
    second = await acme.events.append(account, [event], category="account")
    assert first.events == second.events
    other = {"customer_id": str(customer), "owner": "Ben", "email": None}
    with pytest.raises(EventIdTaken):
        await acme.events.append(account, [replace(event, data=other)], category="account")


async def test_D_the_command_line_asks_the_same(
    the_bank: Bank,
    keyring: Keyring,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """By the modules of the settings; the data is of today's version unless said otherwise."""
    acme, account = await the_bank.tenant(), str(uuid4())

    @asynccontextmanager
    async def same_keyring(_: Settings) -> AsyncGenerator[Keyring]:
        yield keyring

    monkeypatch.setattr(command, "endpoints", lambda _: the_bank.endpoints)
    monkeypatch.setattr(command, "keyring", same_keyring)
    monkeypatch.setenv("NEOLAYER_EVENTS__MODULES", '["tests.fixtures.bank"]')

    async def append(data: dict[str, object], *more: str) -> tuple[int, str]:
        of = ("--tenant", str(acme.subjects.scope.tenant), "--data", json.dumps(data))
        line = ("events", "append", account, "--type", "deposited", *of, *more)
        with pytest.raises(SystemExit) as stopped:
            await asyncio.to_thread(main, line)
        return int(stopped.value.code or 0), capfd.readouterr().err

    new = ("--category", "account")
    code, err = await append({"amount": "five"}, *new)
    assert code == 2 and "this is no deposited" in err
    assert (await append({"amount": 5}, *new))[0] == 0
    code, err = await append({"amount": "five"})
    assert code == 2 and "this is no deposited" in err
    assert (await append({"amount": 6}))[0] == 0
    assert (await append({"units": 1}, "--schema-version", "1"))[0] == 0
    row = await acme.read_models.get(INLINE_BALANCES, UUID(account))
    assert row == Balance(UUID(account), 111, 3)


async def test_a_programs_own_types_are_followed_and_closed(the_bank: Bank) -> None:
    """`acme.events` has what the stored events have: a handler is given its own classes, opened."""
    acme, account, seen = await the_bank.tenant(), uuid4(), list[object]()
    opened = Opened(uuid4(), "Ann")
    written = await acme.events.append(account, [opened, Deposited(5)])
    subscription = await acme.events.subscribe("mine", partitions=1)

    async def handle(_: Transaction, event: object, recorded: RecordedEvent) -> None:
        seen.append((event, recorded.version))

    assert await subscription.catch_up(acme.events.typed(handle)) == 2
    assert seen == [(opened, 1), (Deposited(5), 2)]
    (one,) = await acme.events.subscriptions.list()
    assert (one.name, one.lag_events) == ("mine", 0)
    closed = await acme.events.close(account, {"reason": "moved"}, expected_version=2)
    assert closed.version == 3
    with pytest.raises(StreamIsClosed):
        await acme.events.append(account, [Deposited(1)])
    following = acme.events.follow(after=written.events[0].place)
    event, recorded = await anext(following)
    assert (event, recorded.version) == (Deposited(5), 2)
    await acme.events.subscriptions.delete("mine")
    assert await acme.events.subscriptions.list() == []


async def test_E15_a_parked_events_cause_keeps_no_personal_words(the_bank: Bank) -> None:
    """A handler's error quotes what was opened for it; what is written down is the error's kind."""
    acme, account = await the_bank.tenant(), uuid4()
    await acme.events.append(account, [Opened(uuid4(), "Zebulon Quarterdeck")])
    subscription = await acme.events.subscribe("letters", partitions=1)

    async def refuse(_: Transaction, event: object, recorded: RecordedEvent) -> None:
        raise ValueError(f"cannot write to {event}")

    await subscription.catch_up(acme.events.typed(refuse))
    assert [one.cause for one in await subscription.parked()] == ["ValueError"]
    assert await subscription.replay(acme.events.typed(refuse)) == 0
    assert [one.cause for one in await subscription.parked()] == ["ValueError"]


async def test_a_typed_event_of_another_category_is_refused(the_bank: Bank) -> None:
    """Its stream, and all that are read with it, could not be read by type any more."""
    acme, stream = await the_bank.tenant(), uuid4()
    orders = replace(ACCOUNT, category="order")
    with pytest.raises(UnfitEvent, match="deposited is an event of category 'account', not of 'o"):
        await acme.events.append(stream, [Deposited(5)], category="order")
    with pytest.raises(UnfitEvent):
        await acme.aggregates.execute(orders, stream, Deposit(5))
    bare = NewEvent("ordered", {})
    with pytest.raises(UnfitEvent):
        await acme.events.append_all([StreamAppend(stream, [bare, Deposited(5)], "order")])
    assert await acme.events.state(stream) is None
    await acme.events.append(stream, [Deposited(5)], category="account")
    assert [event for event, _ in await acme.events.read_all()] == [Deposited(5)]
