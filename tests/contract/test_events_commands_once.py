"""Commands and events that are given again count once; nothing is stored that cannot be loaded."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from uuid import uuid4

import msgspec
import pytest
from tests.fixtures.bank import (
    ACCOUNT,
    KEPT_ACCOUNT,
    Account,
    Deposit,
    Deposited,
    NotEnough,
    Opened,
    Withdraw,
    Withdrawn,
    evolve,
)
from tests.fixtures.fix_projections import Bank

from neolayer.events import (
    Aggregate,
    Envelope,
    EventIdTaken,
    NewEvent,
    SnapshotPolicy,
    UnfitEvent,
    UnknownEventType,
    WrongCategory,
)


async def test_a_typed_event_given_again_is_stored_once(the_bank: Bank) -> None:
    """By the id of its envelope, sealed fields included; other data under the id is refused."""
    acme, account = await the_bank.tenant(), uuid4()
    ids = {"metadata": {"by": "import"}, "correlation_id": uuid4(), "causation_id": uuid4()}
    events = [
        Envelope(Opened(uuid4(), "Ann"), event_id=uuid4(), **ids),  # type: ignore[arg-type]
        Envelope(Deposited(5), event_id=uuid4()),
    ]
    first = await acme.events.append(account, events)
    again = await acme.events.append(account, events)
    assert (first.version, first.is_repeated) == (2, False)
    assert (again.version, again.is_repeated) == (2, True)
    stored = [one async for _, one in acme.events.read_stream(account)]
    assert [one.event_id for one in stored] == [one.event_id for one in events]
    assert {name: getattr(stored[0], name) for name in ids} == ids
    with pytest.raises(EventIdTaken):
        await acme.events.append(account, [Envelope(Deposited(6), event_id=events[1].event_id)])


async def test_a_command_given_again_counts_once(the_bank: Bank) -> None:
    """Though it could not be decided any more, and others appended since; its circumstances stand
    with its events."""
    acme, account, other = await the_bank.tenant(), uuid4(), uuid4()
    await acme.events.append(account, [Deposited(5)])
    command_id, request = uuid4(), uuid4()

    def give(command: Withdraw, account: object = account) -> object:
        return acme.aggregates.execute(
            ACCOUNT,
            account,  # type: ignore[arg-type]
            command,
            command_id=command_id,
            correlation_id=request,
            metadata={"by": "app"},
        )

    first = await give(Withdraw(5))  # type: ignore[misc]
    await acme.aggregates.execute(ACCOUNT, account, Deposit(1))
    again = await give(Withdraw(5))  # type: ignore[misc]
    assert not first.written.is_repeated and again.written.is_repeated
    assert again.written.version == first.version == 2
    assert again.written.events[0].event_id == first.written.events[0].event_id
    assert again.written.position >= first.written.position
    assert (again.state.balance, again.version) == (1, 3)
    (stored,) = again.written.events
    assert (stored.correlation_id, stored.metadata) == (request, {"by": "app"})
    with pytest.raises(NotEnough):
        await acme.aggregates.execute(ACCOUNT, account, Withdraw(5))
    with pytest.raises(EventIdTaken):
        await give(Withdraw(5), other)  # type: ignore[misc]


async def test_a_command_given_twice_at_once_counts_once(the_bank: Bank) -> None:
    """By two processes: neither sees the other until it appends."""
    acme, account, command_id = await the_bank.tenant(), uuid4(), uuid4()
    elsewhere = (await the_bank.with_domain()).again(acme)
    done = await asyncio.gather(
        *(
            one.aggregates.execute(ACCOUNT, account, Deposit(5), command_id=command_id)
            for one in (acme, elsewhere, acme, elsewhere)
        )
    )
    assert sorted(one.written.is_repeated for one in done if one.written) == [False] + [True] * 3
    assert (await acme.aggregates.load(ACCOUNT, account)).state.balance == 5


async def test_commands_to_a_hot_stream_take_turns(the_bank: Bank) -> None:
    """Forty at once all count, and none is decided twice."""
    acme, account, decided = await the_bank.tenant(), uuid4(), list[object]()

    def decide(command: object, _: Account) -> Sequence[msgspec.Struct]:
        decided.append(command)
        return [Deposited(1)]

    hot = replace(ACCOUNT, decide=decide)
    rooms = [the_bank.again(acme) for _ in range(4)]
    await asyncio.gather(*(rooms[n % 4].aggregates.execute(hot, account, n) for n in range(40)))
    assert (await acme.aggregates.load(ACCOUNT, account)).state.balance == 40
    assert len(decided) == 40
    assert len(the_bank.rooms.turns) == 0


async def test_what_evolve_cannot_take_is_not_stored(the_bank: Bank) -> None:
    """Else nobody could load the stream any more; what does not fit its type neither."""

    def fail(state: Account, event: object) -> Account:
        if event == Deposited(666):
            raise RuntimeError("evolve has a bug")
        return evolve(state, event)

    acme, account = await the_bank.tenant(), uuid4()
    frail = Aggregate("account", Account(), fail, lambda command, _: command)
    with pytest.raises(RuntimeError):
        await acme.aggregates.execute(frail, account, [Deposited(1), Deposited(666)])
    with pytest.raises(UnfitEvent):
        await acme.aggregates.execute(frail, account, [Withdrawn("all")])  # type: ignore[arg-type]
    with pytest.raises(UnknownEventType):
        await acme.aggregates.execute(frail, account, [NewEvent("nobody's", {})])
    assert await acme.events.state(account) is None


async def test_bare_events_that_a_command_led_to_count_like_typed_ones(the_bank: Bank) -> None:
    """For the state that comes back and for the snapshot that is due."""
    acme, account, who = await the_bank.tenant(), uuid4(), uuid4()
    opened = NewEvent("opened", {"customer_id": str(who), "owner": "Ann"})
    bare = replace(KEPT_ACCOUNT, decide=lambda command, _: command)
    deposits = [NewEvent("deposited", {"units": 1}) for _ in range(9)]
    done = await acme.aggregates.execute(bare, account, [opened, *deposits])
    assert done.state == Account("Ann", 900, True)
    await the_bank.rooms.background.settle()
    loaded = await acme.aggregates.load(KEPT_ACCOUNT, account)
    assert (loaded.state, loaded.snapshot) == (done.state, 10)
    stored = [one async for one in acme.events.stored.read_stream(account, up_to=1)]
    again = NewEvent("opened", stored[0].data, key_id=stored[0].key_id)
    done = await acme.aggregates.execute(bare, account, [again])
    assert done.state.owner == "Ann"


class Renamed(msgspec.Struct, frozen=True):
    owner: str | None = None
    amount: int = 0


def sum_up(state: Renamed, event: object) -> Renamed:
    return Renamed(state.owner, state.amount + getattr(event, "amount", 0))


SUM = Aggregate("account", Renamed(), sum_up, lambda command, _: [], SnapshotPolicy(every=10))


async def test_a_snapshot_of_another_aggregate_is_none(the_bank: Bank) -> None:
    """Nor is one of another form of the state: each aggregate loads what it folds itself, and
    keeps its own snapshot."""
    acme, account = await the_bank.tenant(), uuid4()
    await acme.events.append(account, [Deposited(1)] * 9)
    await acme.aggregates.execute(KEPT_ACCOUNT, account, Deposit(1))
    await the_bank.rooms.background.settle()
    loaded = await acme.aggregates.load(SUM, account)
    assert (loaded.state, loaded.snapshot) == (Renamed(None, 10), 0)
    changed = replace(SUM, initial=Renamed(amount=5))
    adding = replace(changed, decide=lambda command, _: [Deposited(1)])
    await acme.aggregates.execute(adding, account, None)
    await the_bank.rooms.background.settle()
    own = await acme.aggregates.load(KEPT_ACCOUNT, account)
    assert (own.snapshot, own.state.balance) == (10, 11)
    present, before = [await acme.aggregates.load(one, account) for one in (changed, SUM)]
    assert (present.snapshot, present.state.amount) == (11, 16)
    assert (before.snapshot, before.state.amount) == (0, 11)


async def test_a_stream_of_another_category_is_not_loaded(the_bank: Bank) -> None:
    """Though its events bear the same names."""
    acme, stream = await the_bank.tenant(), uuid4()
    await acme.events.append(stream, [NewEvent("deposited", {"amount": 7})], category="other")
    with pytest.raises(WrongCategory, match="is of category 'other'"):
        await acme.aggregates.load(ACCOUNT, stream)
