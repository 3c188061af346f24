"""C15: one rebuild at a time; no table goes live before it is whole and was compared."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

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
)
from tests.fixtures.fix_projections import Bank
from tests.fixtures.patience import PATIENCE_S

from neolayer.errors import Conflict
from neolayer.events.errors import ProjectionNotReady
from neolayer.events.projections import Mode, Occurrence, Projection, alignment
from neolayer.events.projections import rebuild as rebuilding
from neolayer.events.projections.model import AnyProjection
from neolayer.events.projections.rebuild import compare, rebuild, switch, switch_back

pytestmark = pytest.mark.parametrize("mode", list(Mode))
OF_BALANCES: dict[Mode, Projection[Balance]] = {
    Mode.ASYNC: BALANCES,
    Mode.INLINE: INLINE_BALANCES,
}
OF_TOTALS: dict[Mode, Projection[Total]] = {Mode.ASYNC: TOTALS, Mode.INLINE: INLINE_TOTALS}


async def one_account(the_bank: Bank, projection: AnyProjection) -> tuple[Bank, Any, UUID]:
    """A bank that has this projection alone, and an account in it of ten deposits."""
    bank, account = await the_bank.with_domain(projection), uuid4()
    acme = bank.again(await the_bank.tenant())
    await acme.events.append(account, [Opened(uuid4(), "Ann"), *[Deposited(1)] * 10])
    await bank.project()
    return bank, acme, account


@asynccontextmanager
async def half_way(
    bank: Bank, name: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncGenerator[asyncio.Task[rebuilding.Comparison]]:
    """A rebuild that stands between its first page and its second one until the block ends."""
    reached, go_on = asyncio.Event(), asyncio.Event()
    inner = rebuilding.next_page

    async def and_wait(*arguments: Any, **more: Any) -> int:
        done = await inner(*arguments, **more)
        if not reached.is_set():
            reached.set()
            await go_on.wait()
        return done

    with monkeypatch.context() as patched:
        patched.setattr(rebuilding, "next_page", and_wait)
        running = asyncio.create_task(
            rebuild(bank.endpoints, bank.domain, name, page_events=3), name="the rebuild"
        )
        async with asyncio.timeout(PATIENCE_S):
            await reached.wait()
            yield running
            go_on.set()
            await asyncio.wait([running])


async def test_C15_a_second_rebuild_is_refused(
    the_bank: Bank, mode: Mode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two at once would each fold some pages into one table: the second one is told so, and the
    first one comes to what its events say."""
    projection = replace(OF_TOTALS[mode], name=f"twice_{mode}")
    bank, acme, _ = await one_account(the_bank, projection)
    async with half_way(bank, projection.name, monkeypatch) as running:
        with pytest.raises(Conflict, match=f"{projection.name} is being rebuilt"):
            await rebuild(bank.endpoints, bank.domain, projection.name, page_events=3)
    assert (await running).certificate.holds
    await switch(bank.endpoints, bank.domain, projection.name)
    assert await acme.read_models.get(projection, "all") == Total("all", 10, 10)


@pytest.mark.parametrize("at", [rebuilding, alignment], ids=["rebuild", "switch"])
async def test_C15_it_ends_under_steady_appends(
    the_bank: Bank, mode: Mode, monkeypatch: pytest.MonkeyPatch, at: Any
) -> None:
    """An event comes with each page that is folded: what is left after a page that was not full is
    folded with the comparison, and at the switch."""
    place = "rebuild" if at is rebuilding else "switch"
    projection = replace(OF_TOTALS[mode], name=f"steady_{place}_{mode}")
    bank, acme, account = await one_account(the_bank, projection)
    inner, pages = at.next_page, list[int]()

    async def beside_an_append(*arguments: Any, **more: Any) -> int:
        await acme.events.append(account, [Deposited(1)])
        await bank.project()
        pages.append(await inner(*arguments, **more))
        assert len(pages) < 20
        return pages[-1]

    monkeypatch.setattr(at, "next_page", beside_an_append)
    comparison = await rebuild(bank.endpoints, bank.domain, projection.name, page_events=5)
    assert comparison.certificate.holds
    await switch(bank.endpoints, bank.domain, projection.name)
    deposits = 10 + len(pages)
    assert await acme.read_models.get(projection, "all") == Total("all", deposits, deposits)


async def test_C15_rebuilds_started_at_once_make_one_right_table(
    the_bank: Bank, mode: Mode
) -> None:
    """Whoever comes first rebuilds, the others are refused, and the table is right."""
    projection = replace(OF_TOTALS[mode], name=f"at_once_{mode}")
    bank, acme, _ = await one_account(the_bank, projection)
    ended = await asyncio.gather(
        *(rebuild(bank.endpoints, bank.domain, projection.name, page_events=2) for _ in range(3)),
        return_exceptions=True,
    )
    made = [one for one in ended if isinstance(one, rebuilding.Comparison)]
    assert made and all(one.certificate.holds for one in made)
    assert all(isinstance(one, Conflict) for one in ended if one not in made)
    await switch(bank.endpoints, bank.domain, projection.name)
    assert await acme.read_models.get(projection, "all") == Total("all", 10, 10)


async def test_C15_nothing_goes_live_in_the_middle_of_a_rebuild(
    the_bank: Bank, mode: Mode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither forward nor back, nor compared; readers read on meanwhile, and the rebuild ends."""
    projection = replace(OF_BALANCES[mode], name=f"middle_{mode}")
    bank, acme, account = await one_account(the_bank, projection)
    await rebuild(bank.endpoints, bank.domain, projection.name)
    await switch(bank.endpoints, bank.domain, projection.name)
    async with half_way(bank, projection.name, monkeypatch) as running:
        for verb in (switch, switch_back, compare):
            with pytest.raises(Conflict, match="is being rebuilt"):
                await verb(bank.endpoints, bank.domain, projection.name)
        with pytest.raises(Conflict, match="is being rebuilt"):
            await rebuilding.drop(bank.endpoints, the_bank.domain, projection.name)
        assert await acme.read_models.get(projection, account) == Balance(account, 10, 10, "Ann")
    assert (await running).certificate.holds


async def test_C15_what_is_left_of_a_killed_rebuild_does_not_go_live(
    the_bank: Bank, mode: Mode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half a table is neither compared nor switched to; another rebuild makes it whole."""
    projection = replace(OF_BALANCES[mode], name=f"killed_{mode}")
    bank, acme, account = await one_account(the_bank, projection)
    with monkeypatch.context() as patched:

        def die(_: int) -> None:
            raise RuntimeError("killed")

        with pytest.raises(RuntimeError, match="killed"):
            await rebuild(
                bank.endpoints, bank.domain, projection.name, on_progress=die, page_events=3
            )
        patched.undo()
    for verb in (switch, compare):
        with pytest.raises(ProjectionNotReady, match="did not end") as refused:
            await verb(bank.endpoints, bank.domain, projection.name)
        assert refused.value.hint == f"neolayer projections rebuild {projection.name}"
    assert await acme.read_models.get(projection, account) == Balance(account, 10, 10, "Ann")
    assert (await rebuild(bank.endpoints, bank.domain, projection.name)).certificate.holds
    await switch(bank.endpoints, bank.domain, projection.name)


async def test_C15_what_differs_goes_live_where_that_is_said(the_bank: Bank, mode: Mode) -> None:
    """A table of other rows is what a changed projection is for, and what a fault looks like: the
    certificate's DIFFERENT has to be answered."""
    projection = replace(OF_BALANCES[mode], name=f"differs_{mode}")
    _, acme, account = await one_account(the_bank, projection)

    def fold(row: Balance | None, seen: Occurrence) -> Balance | None:
        row = BALANCES.fold(row, seen)
        return row if row is None else replace_balance(row)

    other = await the_bank.with_domain(replace(projection, fold=fold))
    made = (await rebuild(other.endpoints, other.domain, projection.name)).certificate
    assert not made.holds
    with pytest.raises(ProjectionNotReady, match=rf"certificate {made.number}\)") as refused:
        await switch(other.endpoints, other.domain, projection.name)
    assert f"switch {projection.name} --different" in (refused.value.hint or "")
    assert await acme.read_models.get(projection, account) == Balance(account, 10, 10, "Ann")
    await switch(other.endpoints, other.domain, projection.name, different=True)
    assert await acme.read_models.get(projection, account) == Balance(account, 7, 10, "Ann")


def replace_balance(row: Balance) -> Balance:
    return Balance(row.account_id, 7, row.movements, row.owner)


@pytest.mark.parametrize("back", [False, True], ids=["switch", "switch_back"])
async def test_C15_a_switch_catches_up_before_it_holds_readers_up(
    the_bank: Bank, mode: Mode, back: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever was folded since is in the other table before the live one is locked."""
    projection = replace(OF_BALANCES[mode], name=f"near_{mode}_{str(back).lower()}")
    bank, acme, account = await one_account(the_bank, projection)
    await rebuild(bank.endpoints, bank.domain, projection.name)
    if back:
        await switch(bank.endpoints, bank.domain, projection.name)
    await acme.events.append(account, [Deposited(1)] * 30)
    await bank.project()
    schema, held = f"read_models_{'previous' if back else 'next'}", list[Any]()
    hold = rebuilding.hold

    async def looked_at(*arguments: Awaitable[Any]) -> None:
        held.extend(
            await bank.rows(
                f"SELECT balance FROM {schema}.{projection.name} WHERE account_id = %s", account
            )
        )
        await inner(*arguments)

    inner: Callable[..., Awaitable[None]] = hold
    monkeypatch.setattr(rebuilding, "hold", looked_at)
    verb = switch_back if back else switch
    await verb(bank.endpoints, bank.domain, projection.name)
    assert held == [(40,)]
    await acme.events.append(account, [Deposited(1)])
    await bank.project()
    assert await acme.read_models.get(projection, account) == Balance(account, 41, 41, "Ann")
