"""Streams that an older program put aside are folded on by a newer one, whatever the others do."""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID, uuid4

import msgspec
import pytest
from tests.fixtures.bank import BALANCES, TOTALS, Balance, Deposited
from tests.fixtures.fix_projections import Bank

from neolayer.errors import EngineUnavailable
from neolayer.events import EventTypes, NewEvent, tasks
from neolayer.events.projections import Occurrence, Projection, tables
from neolayer.events.projections.model import AnyProjection
from neolayer.events.projections.newer import fold_newer
from neolayer.events.projections.parking import parked
from neolayer.events.projections.projector import Projector
from neolayer.events.rooms import TenantRooms
from neolayer.events.tasks import Projecting
from neolayer.settings import EventSettings

PUT_ASIDE = """INSERT INTO public.projection_parked_events
(tenant_id, projection_name, aggregate_id, event_version, event_id, cause)
SELECT tenant_id, %s, aggregate_id, event_version, event_id, 'cannot read event x (version 1 of y):'
    ' deposited was stored at schema version 3, this program knows 2'
FROM public.events WHERE aggregate_id = %s RETURNING 1"""
MANY_OTHERS = """INSERT INTO public.projection_parked_events
(tenant_id, projection_name, aggregate_id, event_version, event_id, cause)
SELECT gen_random_uuid(), 'balances', gen_random_uuid(), 1, gen_random_uuid(), 'poison'
FROM generate_series(1, 10000) RETURNING 1"""
EMPTY = "DELETE FROM public.projection_parked_events WHERE cause = 'poison' RETURNING 1"
OTHER_FIELDS = "UPDATE public.projections SET shape = 'x' WHERE projection_name = %s RETURNING 1"


async def standing(bank: Bank, acme: TenantRooms, *projections: AnyProjection) -> UUID:
    """An account of one deposit at which these projections stand, as an older program left it."""
    account = uuid4()
    await acme.events.append(account, [Deposited(5)])
    for one in projections:
        await bank.rows(PUT_ASIDE, one.name, account)
    return account


async def test_C8_a_table_of_other_fields_holds_up_no_other_read_model(the_bank: Bank) -> None:
    """What stands in a table that this program may not fill is left there; what stands behind it
    in the list is folded on."""
    other, mine = replace(BALANCES, name="newer_a"), replace(BALANCES, name="newer_b")
    bank = await the_bank.with_domain(other, mine)
    acme = bank.again(await the_bank.tenant())
    account = await standing(bank, acme, other, mine)
    await bank.project()
    await bank.rows(OTHER_FIELDS, other.name)
    assert await fold_newer(bank.endpoints, bank.domain) == 1
    left = await parked(bank.endpoints, stream_id=account)
    assert [(one.projection, one.attempts) for one in left] == [(other.name, 1)]
    assert await acme.read_models.get(mine, account) == Balance(account, 5, 1)


async def test_C8_a_stream_that_somebody_holds_is_passed_by(
    the_bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever is at it does not keep the next read model's streams standing."""
    held, free = replace(BALANCES, name="newer_held"), replace(BALANCES, name="newer_next")
    bank = await the_bank.with_domain(held, free)
    acme = bank.again(await the_bank.tenant())
    account = await standing(bank, acme, held, free)
    await bank.project()
    monkeypatch.setattr(tables, "LOCK_PATIENCE_MS", 50)
    async with bank.admin.transaction():
        lock = "SELECT 1 FROM public.projections WHERE projection_name = %s FOR UPDATE"
        await bank.rows(lock, held.name)
        assert await fold_newer(bank.endpoints, bank.domain) == 1
    left = await parked(bank.endpoints, stream_id=account)
    assert [one.projection for one in left] == [held.name]
    assert await fold_newer(bank.endpoints, bank.domain) == 1


async def test_C8_a_look_that_fails_is_not_repeated_at_once(
    the_bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The projector goes on at its own pace; the next look is due in a minute, as any."""
    looks: list[int] = []

    async def fail(*_: object) -> int:
        looks.append(1)
        raise EngineUnavailable("postgres", "gone")

    monkeypatch.setattr(tasks, "fold_newer", fail)
    projector = Projector(the_bank.endpoints, the_bank.domain)
    projecting = Projecting(the_bank.endpoints, EventSettings(), projector)
    try:
        with pytest.raises(EngineUnavailable):
            await projecting.run()
        await projecting.run()
    finally:
        await projecting.close()
    assert looks == [1]


async def test_C8_all_that_stands_is_looked_at(the_bank: Bank) -> None:
    """Ten thousand events that stand for other reasons, in a read model listed first, are in
    nobody's way."""
    late = replace(TOTALS, name="newer_late")
    bank = await the_bank.with_domain(late)
    acme = bank.again(await the_bank.tenant())
    await standing(bank, acme, late)
    await bank.project()
    await bank.rows(MANY_OTHERS)
    try:
        assert await fold_newer(bank.endpoints, bank.domain) == 1
    finally:
        await bank.rows(EMPTY)


async def test_C8_another_category_s_type_of_that_name_is_another_type(the_bank: Bank) -> None:
    """A stream stands at version 2 of its type, of which this program knows 1: that it knows
    version 3 of a type that another category calls so does not have it folded again and again."""
    shops, ships = EventTypes("newer-shop"), EventTypes("newer-ship")

    @shops.event("begun")
    class Begun(msgspec.Struct, frozen=True):
        pass

    @ships.event("begun", schema_version=3)
    class SetOff(msgspec.Struct, frozen=True):
        pass

    for version in (1, 2):
        ships.upcaster("begun", from_version=version)(dict)

    def fold(row: Balance | None, seen: Occurrence) -> Balance:
        return row or Balance(seen.stream_id)

    begun = Projection("newer_begun", Balance, ("account_id",), (Begun, SetOff), fold)
    bank = await the_bank.with_domain(begun, types=(shops, ships))
    acme, shop = bank.again(await the_bank.tenant()), uuid4()
    newer = NewEvent("begun", {}, schema_version=2)
    await acme.events.stored.append(shop, [newer], category="newer-shop")
    await bank.project()
    assert await fold_newer(bank.endpoints, bank.domain) == 0
    (one,) = await parked(bank.endpoints, stream_id=shop)
    assert one.attempts == 1
