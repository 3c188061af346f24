"""Read models: folded inline and behind, once whatever happens, and stopped by what they cannot."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import psycopg
import pytest
from tests.fixtures.bank import (
    BALANCES,
    INLINE_BALANCES,
    INLINE_TOTALS,
    TOTALS,
    AccountClosed,
    Balance,
    Deposited,
    Opened,
    Total,
    Withdrawn,
)
from tests.fixtures.fix_projections import Bank
from tests.fixtures.patience import PATIENCE

from neolayer.errors import EngineUnavailable, InvalidInput
from neolayer.events import resending
from neolayer.events.errors import ProjectionFailed
from neolayer.events.model import NewEvent, StreamAppend
from neolayer.events.projections import Occurrence, Projection, reading
from neolayer.events.projections.reading import NotFoldedYet
from neolayer.events.projections.rebuild import rebuild, resume, switch, switch_back
from neolayer.events.projections.status import Standing, standings
from neolayer.events.rooms import TenantRooms
from neolayer.tenancy import Principal, Transaction


async def open_account(acme: TenantRooms, *amounts: int, owner: str = "Ann") -> UUID:
    account = uuid4()
    events = [Opened(uuid4(), owner), *(Deposited(amount) for amount in amounts)]
    await acme.events.append(account, events)
    return account


async def test_an_asynchronous_read_model_follows_its_events(the_bank: Bank) -> None:
    """A row comes, changes and goes as its events say, for each tenant by itself."""
    acme, other = await the_bank.tenant(), await the_bank.tenant()
    account = await open_account(acme, 5, 7)
    theirs = await open_account(other, 100)
    assert await acme.read_models.get(BALANCES, account) is None
    assert await the_bank.project() > 0
    row = await acme.read_models.get(BALANCES, account)
    assert row == Balance(account, 12, 2, "Ann")
    assert await acme.read_models.get(BALANCES, theirs) is None
    assert await other.read_models.list(TOTALS) == [
        Total("Deposited", 1, 100),
        Total("all", 1, 100),
    ]
    await acme.events.append(account, [Withdrawn(2), AccountClosed()])
    await the_bank.project()
    assert await acme.read_models.get(BALANCES, account) is None
    assert await the_bank.project() == 0


async def test_an_inline_read_model_is_there_with_the_append(the_bank: Bank) -> None:
    """Read at once, and undone with an append that is refused."""
    acme = await the_bank.tenant()
    account = await open_account(acme, 5)
    assert await acme.read_models.get(INLINE_BALANCES, account) == Balance(account, 5, 1, "Ann")
    with pytest.raises(Exception, match="version"):
        await acme.events.append(account, [Deposited(1)], expected_version=1)
    assert await acme.read_models.get(INLINE_BALANCES, account) == Balance(account, 5, 1, "Ann")
    assert await acme.read_models.list(INLINE_TOTALS, kind="all") == [Total("all", 1, 5)]


async def test_appends_at_once_lose_nothing_of_a_shared_inline_row(the_bank: Bank) -> None:
    """Twenty streams feed one row that is not there yet; all are counted."""
    acme = await the_bank.tenant()
    await asyncio.gather(*(acme.events.append(uuid4(), [Deposited(1)]) for _ in range(20)))
    assert await acme.read_models.get(INLINE_TOTALS, "all") == Total("all", 20, 20)


async def test_reading_waits_for_what_was_written(the_bank: Bank) -> None:
    """`at_least` a write's position: the read model has folded it, or says that it has not."""
    acme = await the_bank.tenant()
    account = uuid4()
    written = await acme.events.append(account, [Deposited(5)])
    reading = asyncio.create_task(
        acme.read_models.get(BALANCES, account, at_least=written.position)
    )
    await the_bank.project()
    assert await reading == Balance(account, 5, 1)
    assert await acme.read_models.place(BALANCES) == written.events[0].place
    later = await acme.events.append(account, [Deposited(1)])
    with pytest.raises(NotFoldedYet, match=f"yet: it is at {written.events[0].place}"):
        await acme.read_models.get(
            BALANCES, account, at_least=later.position, within=timedelta(milliseconds=30)
        )


async def test_reading_waits_for_nothing_that_is_written_meanwhile(
    the_bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tenant that never stops writing, and a projector that is never level with it: the read
    ends as soon as what stood there when it began is folded, and says what it reflects."""
    acme, account, polls = await the_bank.tenant(), uuid4(), list[float]()
    written = await acme.events.append(account, [Deposited(5)])
    await acme.events.append(account, [Deposited(1)])

    async def fold_then_write(seconds: float) -> None:
        polls.append(seconds)
        assert len(polls) < 20, "still waiting"
        await the_bank.project()
        await acme.events.append(account, [Deposited(1)])

    monkeypatch.setattr(reading.asyncio, "sleep", fold_then_write)
    row = await acme.read_models.get(BALANCES, account, at_least=written.position)
    assert row is not None and row.balance >= 6
    assert len(polls) == 1
    found = await acme.read_models.get_as_of(BALANCES, account)
    assert found.position is not None and len(polls) == 2


@pytest.mark.parametrize("projection", [BALANCES, INLINE_BALANCES])
async def test_reading_waits_for_a_position_that_is_not_there_yet(
    the_bank: Bank, projection: Projection[Balance]
) -> None:
    """Beyond the log's end it says so, whatever else is folded; once the log is there, it answers.
    A position of another database means nothing here, and is refused."""
    acme, account = await the_bank.tenant(), uuid4()
    written = (await acme.events.append(account, [Deposited(5)])).position
    await the_bank.project()
    assert written is not None
    models, soon = acme.read_models, timedelta(milliseconds=30)
    for ahead in (replace(written, lsn=2**47), replace(written, epoch=7, lsn=5)):
        with pytest.raises(NotFoldedYet, match=f"{ahead} yet: the log is at event_store:"):
            await models.get(projection, account, at_least=ahead, within=soon)
        with pytest.raises(NotFoldedYet, match="the log is at"):
            await models.list_as_of(projection, at_least=ahead, within=soon)
    with pytest.raises(InvalidInput, match="made of event_store, not of neolayer"):
        await models.get(projection, account, at_least=replace(written, database="neolayer"))
    next_one = replace(written, lsn=written.lsn + 1_000_000)
    reading = asyncio.create_task(
        models.get(projection, account, at_least=next_one, within=PATIENCE)
    )
    while not reading.done():
        await acme.events.append(account, [Withdrawn(1), Deposited(1), *[Deposited(0)] * 300])
        await the_bank.project()
    assert await reading is not None


async def test_pages_of_any_size_come_to_the_same(the_bank: Bank) -> None:
    """One event at a time, or all at once."""
    acme = await the_bank.tenant()
    account = await open_account(acme, *range(1, 20))
    await the_bank.project(page_events=3)
    assert await acme.read_models.get(BALANCES, account) == Balance(account, 190, 19, "Ann")


async def test_C8_a_projection_that_cannot_write_stops_and_others_go_on(the_bank: Bank) -> None:
    """What is no event's fault: it says why, and goes on from there when it is mended; then
    nothing of the old cause is left."""
    acme, account = await the_bank.tenant(), uuid4()
    written = await acme.events.append(account, [Deposited(1)])
    await the_bank.rows("REVOKE INSERT ON read_models.balances FROM neolayer_projector")
    await the_bank.project()
    assert await acme.read_models.get(TOTALS, "all") == Total("all", 1, 1)
    stopped = await standing(the_bank, "balances")
    assert (stopped.status, stopped.lag_events) == ("failed", 1)
    assert "permission denied for table balances" in (stopped.cause or "")
    with pytest.raises(ProjectionFailed, match="stands still"):
        await acme.read_models.get(BALANCES, account, at_least=written.position)
    await the_bank.rows("GRANT INSERT ON read_models.balances TO neolayer_projector")
    await resume(the_bank.endpoints, the_bank.domain, "balances")
    await the_bank.project()
    assert await acme.read_models.get(BALANCES, account) == Balance(account, 1, 1)
    mended = await standing(the_bank, "balances")
    assert (mended.status, mended.cause) == ("active", None)


async def test_the_lag_is_what_waits_and_since_when(the_bank: Bank) -> None:
    """In events, and in seconds since the first of them was stored; nothing, once it is folded."""
    acme = await the_bank.tenant()
    await the_bank.project()
    written = await acme.events.append(uuid4(), [Deposited(1), Deposited(2)])
    await acme.events.append(uuid4(), [Deposited(3)])
    behind = await standing(the_bank, "balances")
    waited = (datetime.now(UTC) - written.events[0].recorded_at).total_seconds()
    assert behind.lag_events == 3 and 0 < behind.lag_seconds <= waited
    await the_bank.project()
    level = await standing(the_bank, "balances")
    assert (level.lag_events, level.lag_seconds) == (0, 0.0)


async def standing(the_bank: Bank, name: str) -> Standing:
    (found,) = [one for one in await standings(the_bank.endpoints) if one.name == name]
    return found


async def test_an_inline_projection_that_fails_refuses_the_append(the_bank: Bank) -> None:
    """Nothing is stored, and the refusal names projection and event."""

    def fold(row: Balance | None, seen: Occurrence) -> Balance | None:
        raise ValueError("no")

    broken = await the_bank.with_domain(replace(INLINE_BALANCES, fold=fold))
    acme = broken.again(await the_bank.tenant())
    account = uuid4()
    with pytest.raises(ProjectionFailed, match="inline_balances failed on event"):
        await acme.events.append(account, [Deposited(1)])
    assert await acme.events.state(account) is None


async def test_two_projectors_fold_each_event_once(the_bank: Bank) -> None:
    """The one passes by what the other has in hand."""
    acme = await the_bank.tenant()
    account = await open_account(acme, *range(1, 101))
    await asyncio.gather(*(the_bank.project(page_events=5) for _ in range(3)))
    while await the_bank.project():
        pass
    assert await acme.read_models.get(BALANCES, account) == Balance(account, 5050, 100, "Ann")


async def test_events_of_a_running_transaction_are_not_passed_by(the_bank: Bank) -> None:
    """An append that began first and commits last is folded all the same."""
    acme = await the_bank.tenant()
    late, account = uuid4(), uuid4()
    async with acme.events.scope.transaction() as tx:
        event = NewEvent("deposited", {"amount": 3, "currency": "EUR"}, schema_version=3)
        await acme.events.stored.append_in(tx, [StreamAppend(late, [event], "account")])
        await acme.events.append(account, [Deposited(5)])
        await the_bank.project()
        assert await acme.read_models.get(TOTALS, "all") is None  # not before the older one ends
    await the_bank.project()
    assert await acme.read_models.get(TOTALS, "all") == Total("all", 2, 8)


async def test_G_an_application_sees_no_cause_of_a_projection(the_bank: Bank) -> None:
    """It may quote any tenant's data: neither that, nor anybody's event, nor a certificate over all
    tenants is read with the application's role, in a context or without one."""
    acme = await the_bank.tenant()
    everybody = acme.events.scope.core.platform(by=Principal.operator("tests"))
    for scope in (acme.events.scope, everybody):
        for query in (
            "SELECT cause FROM public.projections",
            "SELECT last_processed_event_id FROM public.projections",
            "SELECT last_processed_timestamp FROM public.projections",
            "SELECT checkpoint_data FROM public.projections",
            "SELECT live_digest FROM public.projection_certificates",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                await scope.fetch(query)


async def test_a_cause_goes_with_the_failure(the_bank: Bank) -> None:
    """A table that failed is switched away: as the previous one, and live again, it is silent."""
    name = "switched_away"
    bank = await the_bank.with_domain(replace(BALANCES, name=name))
    await rebuild(bank.endpoints, bank.domain, name)
    await bank.rows(
        "UPDATE public.projections SET status = 'failed', cause = 'secret'"
        " WHERE projection_name = %s",
        name,
    )
    await switch(bank.endpoints, bank.domain, name)
    assert (await standing(bank, f"{name}:previous")).cause is None
    await switch_back(bank.endpoints, bank.domain, name)
    assert (await standing(bank, name)).cause is None


@pytest.mark.parametrize("projection", [BALANCES, INLINE_BALANCES])
async def test_a_read_says_which_position_it_reflects(
    the_bank: Bank, projection: Projection[Balance]
) -> None:
    """At or above every write that counts in it; none while it lags, or while an older write is
    still under way that may stand below it."""
    acme, account = await the_bank.tenant(), uuid4()
    written = await acme.events.append(account, [Deposited(5)])
    soon = timedelta(milliseconds=30)
    if projection is BALANCES:
        late = await acme.read_models.get_as_of(projection, account, within=soon)
        assert (late.value, late.position) == (None, None)
    await the_bank.project()
    found = await acme.read_models.get_as_of(projection, account)
    assert found.value == Balance(account, 5, 1)
    assert found.position is not None and written.position is not None
    assert found.position >= written.position
    listed = await acme.read_models.list_as_of(projection)
    assert listed.value == [Balance(account, 5, 1)] and listed.position is not None
    async with acme.events.scope.transaction() as tx:
        event = NewEvent("deposited", {"amount": 3}, schema_version=3)
        await acme.events.stored.append_in(tx, [StreamAppend(uuid4(), [event], "account")])
        unsure = await acme.read_models.get_as_of(projection, account, within=soon)
        assert (unsure.value, unsure.position) == (Balance(account, 5, 1), None)


async def test_an_append_past_an_inline_projection_is_noticed(the_bank: Bank) -> None:
    """Stored as bare JSON, or by a program that does not know the projection: it is an event like
    any other, so a replay names the row that lacks it, and a switch has it."""
    acme, one = await the_bank.tenant(), uuid4()
    await acme.events.append(one, [Opened(uuid4(), "Ann"), Deposited(5)])
    past = NewEvent("deposited", {"amount": 7, "currency": "EUR"}, schema_version=3)
    await acme.events.stored.append(one, [past])
    comparison = await rebuild(the_bank.endpoints, the_bank.domain, INLINE_BALANCES.name)
    assert not comparison.certificate.holds
    assert (str(one),) in {difference.key for difference in comparison.differences}
    name = INLINE_BALANCES.name
    await switch(the_bank.endpoints, the_bank.domain, name, different=True)
    again = await rebuild(the_bank.endpoints, the_bank.domain, INLINE_BALANCES.name)
    assert again.certificate.holds
    balance = await acme.read_models.get(INLINE_BALANCES, one)
    assert balance is not None and balance.balance == 12


async def test_C_an_inline_append_survives_lost_connections(
    the_bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before COMMIT and after it: the same events are sent again, and folded once. A database that
    is gone is an error of ours."""
    monkeypatch.setattr(resending, "_PAUSE_S", 0.0)
    acme = await the_bank.tenant()
    account = await open_account(acme, 5)
    commit, losses = Transaction.commit, ["before", "after"]

    async def lose(tx: Transaction) -> None:
        when = losses.pop(0) if losses else "never"
        if when == "after":
            await commit(tx)
        if when != "never":
            raise psycopg.errors.AdminShutdown("terminating connection")
        await commit(tx)

    monkeypatch.setattr(Transaction, "commit", lose)
    written = await acme.events.append(account, [Deposited(7)])
    assert (written.version, written.position is None, losses) == (3, False, [])
    assert await acme.read_models.get(INLINE_BALANCES, account) == Balance(account, 12, 2, "Ann")
    losses += ["before"] * 10
    with pytest.raises(EngineUnavailable):
        await acme.events.append(account, [Deposited(1)])
