"""C15: a read model rebuilt beside the live one, compared row by row, switched, switched back."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest
from tests.fixtures.bank import (
    BALANCES,
    INLINE_BALANCES,
    INLINE_TOTALS,
    TOTALS,
    Balance,
    Deposited,
    Opened,
    Total,
    Withdrawn,
    accounts,
)
from tests.fixtures.fix_projections import Bank
from tests.fixtures.patience import PATIENCE_S

from neolayer.events.errors import ProjectionNotReady
from neolayer.events.projections import Mode, Occurrence, Projection, projector
from neolayer.events.projections.domain import Domain
from neolayer.events.projections.inline import InlineProjections
from neolayer.events.projections.model import AnyProjection
from neolayer.events.projections.rebuild import compare, rebuild, switch, switch_back
from neolayer.events.projections.status import Standing, standings
from neolayer.events.rooms import TenantRooms

pytestmark = pytest.mark.parametrize("mode", list(Mode))
CHOSEN = {
    Mode.ASYNC: (BALANCES, TOTALS),
    Mode.INLINE: (INLINE_BALANCES, INLINE_TOTALS),
}

WAITING = """SELECT 1 FROM pg_stat_activity
WHERE datname = current_database() AND wait_event_type = 'Lock'"""


def doubled(balances: AnyProjection) -> Projection[Balance]:
    """The same projection with another opinion: a deposit counts twice."""

    def fold(row: Balance | None, seen: Occurrence) -> Balance | None:
        row = BALANCES.fold(row, seen)
        if row is None or not isinstance(seen.event, Deposited):
            return row
        return msgspec.structs.replace(row, balance=row.balance + seen.event.amount)

    return replace(balances, fold=fold)


async def two_accounts(the_bank: Bank) -> tuple[TenantRooms, UUID, UUID]:
    acme, one, two = await the_bank.tenant(), uuid4(), uuid4()
    await acme.events.append(one, [Opened(uuid4(), "Ann"), Deposited(5), Withdrawn(2)])
    await acme.events.append(two, [Opened(uuid4(), "Ben"), Deposited(10)])
    await the_bank.project()
    return acme, one, two


async def standing(the_bank: Bank, name: str) -> Standing | None:
    found = [one for one in await standings(the_bank.endpoints) if one.name == name]
    return found[0] if found else None


async def test_C15_a_replay_certifies_the_live_table(the_bank: Bank, mode: Mode) -> None:
    """The same rows, to the last bit, of every tenant; and the certificate is kept."""
    acme, one, _ = await two_accounts(the_bank)
    await the_bank.tenant()
    for projection in CHOSEN[mode]:
        comparison = await rebuild(
            the_bank.endpoints, the_bank.domain, projection.name, page_events=2
        )
        assert comparison.certificate.holds
        assert comparison.certificate.live.rows >= 2
        assert comparison.differences == ()
        kept = await standing(the_bank, projection.name)
        assert kept is not None and kept.certificate_holds is True
    (at_fault,) = await the_bank.rows(
        f"UPDATE read_models.{CHOSEN[mode][0].name} SET balance = balance + 1"
        " WHERE account_id = %s RETURNING tenant_id",
        one,
    )
    comparison = await compare(the_bank.endpoints, the_bank.domain, CHOSEN[mode][0].name)
    assert not comparison.certificate.holds
    kept = await standing(the_bank, CHOSEN[mode][0].name)
    assert kept is not None and kept.certificate_holds is False
    (difference,) = comparison.differences
    assert (difference.tenant, difference.key) == (at_fault[0], (str(one),))
    assert difference.fields == ("balance",)
    name = CHOSEN[mode][0].name
    await switch(the_bank.endpoints, the_bank.domain, name, different=True)  # which mends it
    assert (await acme.read_models.get(CHOSEN[mode][0], one)) == Balance(one, 3, 2, "Ann")


async def test_C15_switch_and_switch_back(the_bank: Bank, mode: Mode) -> None:
    """Readers see the old version until the switch, the new one after it, and the old one again;
    at every moment with all events that were written until then."""
    acme, one, two = await two_accounts(the_bank)
    projection = CHOSEN[mode][0]
    others = [one for one in the_bank.domain.projections if one.name != projection.name]
    other = await the_bank.with_domain(doubled(projection), *others)
    comparison = await rebuild(other.endpoints, other.domain, projection.name)
    assert {d.key for d in comparison.differences} >= {(str(one),), (str(two),)}

    async def balance() -> int:
        row = await acme.read_models.get(projection, one)
        assert row is not None
        return row.balance

    assert await balance() == 3
    await acme.events.append(one, [Deposited(1)])
    await the_bank.project()
    assert await balance() == 4
    await switch(other.endpoints, other.domain, projection.name, different=True)
    assert await balance() == 10
    previous = await standing(the_bank, f"{projection.name}:previous")
    assert previous is not None and previous.status == "paused"
    await other.again(acme).events.append(one, [Deposited(1)])
    await other.project()
    assert await balance() == 12
    await switch_back(the_bank.endpoints, the_bank.domain, projection.name)
    assert await balance() == 5
    await acme.events.append(one, [Deposited(1)])
    await the_bank.project()
    assert await balance() == 6
    await switch(other.endpoints, other.domain, projection.name, different=True)  # forward again
    assert await balance() == 14
    await switch_back(the_bank.endpoints, the_bank.domain, projection.name)
    assert (await rebuild(the_bank.endpoints, the_bank.domain, projection.name)).certificate.holds


async def test_C15_a_rebuild_while_events_are_written(the_bank: Bank, mode: Mode) -> None:
    """Nothing is lost between the replay, the switch and the writers that never stop."""
    acme = await the_bank.tenant()
    _, totals = CHOSEN[mode]
    done = asyncio.Event()
    written = 0

    async def keep_writing() -> None:
        nonlocal written
        while not done.is_set():
            await acme.events.append(uuid4(), [Deposited(1)])
            written += 1

    async def keep_projecting() -> None:
        while not done.is_set():
            await the_bank.project(page_events=50)

    busy = [asyncio.create_task(keep_writing()) for _ in range(2)]
    busy.append(asyncio.create_task(keep_projecting()))
    for page_events in (10, 1000):
        await rebuild(the_bank.endpoints, the_bank.domain, totals.name, page_events=page_events)
        await switch(the_bank.endpoints, the_bank.domain, totals.name)
        await switch_back(the_bank.endpoints, the_bank.domain, totals.name)
    done.set()
    await asyncio.gather(*busy)
    await the_bank.project()
    assert await acme.read_models.get(totals, "all") == Total("all", written, written)
    assert (await rebuild(the_bank.endpoints, the_bank.domain, totals.name)).certificate.holds


async def test_C15_a_certificate_is_about_whose_rows_they_are(the_bank: Bank, mode: Mode) -> None:
    """Rows that are the same but for their tenant are not the same."""
    acme, one, _ = await two_accounts(the_bank)
    other = (await the_bank.tenant()).subjects.scope.tenant
    name = CHOSEN[mode][0].name
    assert (await rebuild(the_bank.endpoints, the_bank.domain, name)).certificate.holds
    given = f"UPDATE read_models.{name} SET tenant_id = %s WHERE account_id = %s"
    await the_bank.rows(given, other, one)
    comparison = await compare(the_bank.endpoints, the_bank.domain, name)
    assert comparison.certificate.live.rows == comparison.certificate.replay.rows
    assert not comparison.certificate.holds
    await the_bank.rows(given, acme.subjects.scope.tenant, one)
    assert (await compare(the_bank.endpoints, the_bank.domain, name)).certificate.holds


@pytest.mark.parametrize("step", ["read_page", "save"])
@pytest.mark.parametrize("back", [False, True], ids=["switch", "switch_back"])
async def test_C15_a_switch_waits_for_what_is_being_folded(
    the_bank: Bank, mode: Mode, back: bool, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An event that is folded into the live table as a switch begins is in the table that readers
    see after it: the switch waits, and looks at the events only then. Whether the projector has
    only begun or is done but for its commit, neither stands in the other's way."""
    if mode is Mode.INLINE and step == "read_page":
        pytest.skip("an append folds in one step")
    acme, one, _ = await two_accounts(the_bank)
    projection = CHOSEN[mode][0]
    await rebuild(the_bank.endpoints, the_bank.domain, projection.name)
    if back:
        await switch(the_bank.endpoints, the_bank.domain, projection.name)
    folded, go_on = asyncio.Event(), asyncio.Event()

    def then_wait(inner: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def stepped(*arguments: Any, **more: Any) -> Any:
            done = await inner(*arguments, **more)
            if mode is Mode.INLINE or arguments[1].projection.name == projection.name:
                folded.set()
                await go_on.wait()
            return done

        return stepped

    if mode is Mode.INLINE:
        monkeypatch.setattr(InlineProjections, "apply", then_wait(InlineProjections.apply))
        folding = asyncio.create_task(acme.events.append(one, [Deposited(100)]))
    else:
        await acme.events.append(one, [Deposited(100)])
        monkeypatch.setattr(projector, step, then_wait(getattr(projector, step)))
        folding = asyncio.create_task(the_bank.project())
    async with asyncio.timeout(PATIENCE_S):
        await folded.wait()
        verb = switch_back if back else switch
        switching = asyncio.create_task(verb(the_bank.endpoints, the_bank.domain, projection.name))
        while not await the_bank.rows(WAITING):
            assert not switching.done()
            await asyncio.sleep(0.01)
        go_on.set()
        await asyncio.gather(switching, folding)
    assert await acme.read_models.get(projection, one) == Balance(one, 103, 3, "Ann")
    monkeypatch.undo()


async def test_C15_rows_of_other_fields_need_a_rebuild(the_bank: Bank, mode: Mode) -> None:
    """A new field comes with a rebuild and a switch; until then the old table serves."""

    class Statement(msgspec.Struct, frozen=True):
        account_id: UUID
        balance: int
        deposits: int

    def fold(row: Statement | None, seen: Occurrence) -> Statement:
        row = row or Statement(seen.stream_id, 0, 0)
        if not isinstance(seen.event, Deposited):
            return row
        return Statement(row.account_id, row.balance + seen.event.amount, row.deposits + 1)

    acme, one, _ = await two_accounts(the_bank)
    old, _ = CHOSEN[mode]
    new = Projection(old.name, Statement, ("account_id",), old.events, fold, mode=mode)
    domain = Domain.of([accounts], [new])
    comparison = await rebuild(the_bank.endpoints, domain, old.name)
    assert comparison.new_fields == ("deposits",)
    assert set(comparison.gone_fields) == {"movements", "owner"}
    assert (await acme.read_models.get(old, one)) == Balance(one, 3, 2, "Ann")
    await switch(the_bank.endpoints, domain, old.name, different=True)
    assert await acme.read_models.get(new, one) == Statement(one, 5, 1)
    assert await the_bank.project() == 0  # the old program leaves the new table alone
    back = the_bank.domain if mode is Mode.INLINE else domain
    await switch_back(the_bank.endpoints, back, old.name)
    assert (await acme.read_models.get(old, one)) == Balance(one, 3, 2, "Ann")


async def test_a_switch_needs_a_rebuild(the_bank: Bank, mode: Mode) -> None:
    """And going back needs something to go back to; both refusals change nothing."""
    fresh = replace(CHOSEN[mode][1], name=f"unbuilt_{mode.value}")
    domain = (await the_bank.with_domain(fresh)).domain
    with pytest.raises(ProjectionNotReady, match="was not rebuilt"):
        await switch(the_bank.endpoints, domain, fresh.name)
    with pytest.raises(ProjectionNotReady, match="nothing to go back to"):
        await switch_back(the_bank.endpoints, domain, fresh.name)
    with pytest.raises(ProjectionNotReady, match="was not rebuilt"):
        await compare(the_bank.endpoints, domain, fresh.name)


async def test_a_new_projection_knows_all_of_history(the_bank: Bank, mode: Mode) -> None:
    """Declared long after its first events."""
    acme, one, _ = await two_accounts(the_bank)
    late = replace(CHOSEN[mode][0], name=f"late_{mode.value}")
    later = await the_bank.with_domain(late)
    await later.project()
    assert await acme.read_models.get(late, one) == Balance(one, 3, 2, "Ann")
