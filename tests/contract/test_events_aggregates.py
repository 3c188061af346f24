"""Aggregates: loaded from events and snapshots, executed again where others were faster."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from uuid import UUID, uuid4

import msgspec
import pytest
from tests.fixtures.bank import (
    ACCOUNT,
    KEPT_ACCOUNT,
    Account,
    Deposit,
    Deposited,
    NotEnough,
    Open,
    Withdraw,
)
from tests.fixtures.fix_projections import Bank

from neolayer.events.errors import UnknownEventType
from neolayer.events.model import NewEvent, WrongVersion
from neolayer.events.snapshots import SnapshotPolicy


async def test_a_command_is_decided_on_and_stored(the_bank: Bank) -> None:
    """Load, decide, append; what decide refuses is not stored, what it has nothing to say to is
    no append."""
    acme, account = await the_bank.tenant(), uuid4()
    assert (await acme.aggregates.load(ACCOUNT, account)).version == 0
    opened = await acme.aggregates.execute(ACCOUNT, account, Open(uuid4(), "Ann"))
    assert opened.version == 1 and opened.written is not None
    done = await acme.aggregates.execute(ACCOUNT, account, Deposit(10))
    assert done.state == Account("Ann", 10, True)
    with pytest.raises(NotEnough):
        await acme.aggregates.execute(ACCOUNT, account, Withdraw(11))
    again = await acme.aggregates.execute(ACCOUNT, account, Open(uuid4(), "Ann"))
    assert again.written is None and again.version == 2
    loaded = await acme.aggregates.load(ACCOUNT, account)
    assert (loaded.state, loaded.version) == (done.state, 2)
    assert [type(event).__name__ async for event, _ in acme.events.read_stream(account)] == [
        "Opened",
        "Deposited",
    ]


async def test_commands_at_once_all_count(the_bank: Bank) -> None:
    """Each is decided on the state it is appended to: no lost update, no overdraft."""
    acme, account = await the_bank.tenant(), uuid4()
    await acme.aggregates.execute(ACCOUNT, account, Deposit(3))
    outcomes = await asyncio.gather(
        *(acme.aggregates.execute(ACCOUNT, account, Withdraw(1)) for _ in range(5)),
        return_exceptions=True,
    )
    refused = [one for one in outcomes if isinstance(one, NotEnough)]
    assert len(refused) == 2, outcomes
    assert (await acme.aggregates.load(ACCOUNT, account)).state.balance == 0


async def test_typed_events_are_appended_at_a_version(the_bank: Bank) -> None:
    """The design's snippet: the category is the type's own."""
    acme, account = await the_bank.tenant(), uuid4()
    await acme.events.append(account, [Deposited(1), Deposited(2), Deposited(3)])
    written = await acme.events.append(account, [Deposited(amount=5)], expected_version=3)
    assert written.version == 4
    with pytest.raises(WrongVersion):
        await acme.events.append(account, [Deposited(amount=5)], expected_version=3)
    state = await acme.events.state(account)
    assert state is not None and state.category == "account"
    with pytest.raises(UnknownEventType):
        await acme.events.append(account, [Deposit(1)])


async def test_old_schema_versions_load(the_bank: Bank) -> None:
    """Through the upcasters, beside new ones."""
    acme, account = await the_bank.tenant(), uuid4()
    old = [
        NewEvent("deposited", {"units": 2}, schema_version=1),
        NewEvent("deposited", {"amount": 5}, schema_version=2),
    ]
    await acme.events.append(account, [*old, Deposited(1)], category="account")
    assert (await acme.aggregates.load(ACCOUNT, account)).state.balance == 206
    events = [event async for event, _ in acme.events.read_stream(account)]
    assert events == [Deposited(200), Deposited(5), Deposited(1)]


async def snapshots(the_bank: Bank, stream: UUID) -> list[tuple[int, int]]:
    return [
        (row[0], row[1])
        for row in await the_bank.rows(
            "SELECT snapshot_version, schema_version FROM public.snapshots"
            " WHERE aggregate_id = %s ORDER BY 1",
            stream,
        )
    ]


async def test_snapshots_come_by_policy_and_may_go(the_bank: Bank) -> None:
    """One every ten events, used for loading; deleted, the same state is loaded without it."""
    acme, account = await the_bank.tenant(), uuid4()
    for _ in range(25):
        await acme.aggregates.execute(KEPT_ACCOUNT, account, Deposit(1))
        await the_bank.rooms.background.settle()
    assert await snapshots(the_bank, account) == [(20, 1)]
    loaded = await acme.aggregates.load(KEPT_ACCOUNT, account)
    assert (loaded.version, loaded.snapshot, loaded.state.balance) == (25, 20, 25)
    assert await acme.aggregates.delete_snapshots(account) == 1
    without = await acme.aggregates.load(KEPT_ACCOUNT, account)
    assert (without.version, without.snapshot, without.state) == (25, 0, loaded.state)


async def test_a_state_that_is_too_large_is_loaded_from_its_events(
    the_bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No snapshot is written of what the database would refuse, and nothing else changes."""
    monkeypatch.setattr("neolayer.events.aggregates.MOST_SNAPSHOT_BYTES", 10)
    acme, account = await the_bank.tenant(), uuid4()
    for _ in range(10):
        await acme.aggregates.execute(KEPT_ACCOUNT, account, Deposit(1))
    await the_bank.rooms.background.settle()
    assert await snapshots(the_bank, account) == []
    assert (await acme.aggregates.load(KEPT_ACCOUNT, account)).state.balance == 10


async def test_a_snapshot_of_another_schema_version_is_ignored(the_bank: Bank) -> None:
    """Until there is one of the present form, which takes its place."""

    class Richer(msgspec.Struct, frozen=True):
        balance: int = 0
        deposits: int = 0

    def evolve(state: Richer, event: object) -> Richer:
        return Richer(state.balance + getattr(event, "amount", 0), state.deposits + 1)

    acme, account = await the_bank.tenant(), uuid4()
    for _ in range(10):
        await acme.aggregates.execute(KEPT_ACCOUNT, account, Deposit(1))
    await the_bank.rooms.background.settle()
    richer = replace(
        KEPT_ACCOUNT,
        initial=Richer(),
        evolve=evolve,
        decide=lambda command, state: [Deposited(1)],
        snapshots=SnapshotPolicy(10, 2, name=KEPT_ACCOUNT.folded_by),
    )
    assert (await acme.aggregates.load(richer, account)).state == Richer(10, 10)
    await acme.aggregates.execute(richer, account, Deposit(1))
    await the_bank.rooms.background.settle()
    assert await snapshots(the_bank, account) == [(11, 2)]
    assert (await acme.aggregates.load(KEPT_ACCOUNT, account)).state.balance == 11


async def test_a_snapshot_that_is_no_state_is_passed_by(
    the_bank: Bank, capsys: pytest.CaptureFixture[str]
) -> None:
    """Damaged: the events tell, a warning says so, and the next snapshot takes its place."""
    acme, account = await the_bank.tenant(), uuid4()
    for _ in range(10):
        await acme.aggregates.execute(KEPT_ACCOUNT, account, Deposit(1))
    await the_bank.rooms.background.settle()
    await the_bank.admin.execute(
        "UPDATE public.snapshots SET snapshot_data"
        """ = jsonb_set(snapshot_data, '{state}', '{"balance": "much"}')"""
        " WHERE aggregate_id = %s",
        (account,),
    )
    loaded = await acme.aggregates.load(KEPT_ACCOUNT, account)
    assert (loaded.state.balance, loaded.version, loaded.snapshot) == (10, 10, 0)
    assert "a snapshot does not fit its state" in capsys.readouterr().out
    await acme.aggregates.execute(KEPT_ACCOUNT, account, Deposit(1))
    await the_bank.rooms.background.settle()
    loaded = await acme.aggregates.load(KEPT_ACCOUNT, account)
    assert (loaded.state.balance, loaded.snapshot) == (11, 11)


async def test_an_append_does_not_wait_for_its_snapshot(the_bank: Bank) -> None:
    """Nor does it fail with it: here nobody can write snapshots."""
    acme, account = await the_bank.tenant(), uuid4()
    await the_bank.admin.execute("REVOKE INSERT ON public.snapshots FROM neolayer_app")
    try:
        await acme.events.append(account, [Deposited(1)] * 9)
        done = await acme.aggregates.execute(KEPT_ACCOUNT, account, Deposit(1))
        await the_bank.rooms.background.settle()
    finally:
        await the_bank.admin.execute("GRANT INSERT ON public.snapshots TO neolayer_app")
    assert done.version == 10
    assert await snapshots(the_bank, account) == []


async def test_a_long_stream_is_loaded_in_pages(
    the_bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of it, whatever a page holds."""
    monkeypatch.setattr("neolayer.events.aggregates.PAGE_EVENTS", 7)
    acme, account = await the_bank.tenant(), uuid4()
    await acme.events.append(account, [Deposited(n) for n in range(30)])
    loaded = await acme.aggregates.load(ACCOUNT, account)
    assert (loaded.version, loaded.state.balance) == (30, 435)
