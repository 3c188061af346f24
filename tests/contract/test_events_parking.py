"""C8: an event that a read model cannot fold holds up its own stream, and nobody else's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest
from tests.fixtures.bank import (
    BALANCES,
    INLINE_BALANCES,
    TOTALS,
    Balance,
    Deposited,
    Opened,
    Total,
    Withdrawn,
)
from tests.fixtures.fix_projections import Bank
from tests.fixtures.patience import PATIENCE_S

from neolayer.errors import Conflict, NotFound
from neolayer.events.errors import ProjectionFailed, ProjectionNotReady
from neolayer.events.model import NewEvent
from neolayer.events.projections import Mode, Occurrence, Projection, parking
from neolayer.events.projections.model import AnyProjection
from neolayer.events.projections.parking import Replayed, discard, parked, replay
from neolayer.events.projections.rebuild import compare, rebuild, switch, switch_back
from neolayer.events.projections.status import standings
from neolayer.events.rooms import TenantRooms
from neolayer.tenancy import Principal

BAD = NewEvent("deposited", {"amount": "five", "currency": "EUR"}, schema_version=3)


ANN = Principal.operator("ann")


async def append_bad(acme: TenantRooms, stream: UUID, event: NewEvent = BAD) -> None:
    """Past every check of the program's own types, as an older version of it might."""
    await acme.events.stored.append(stream, [replace(event, event_id=uuid4())], category="account")


def refusing(projection: AnyProjection, *amounts: int) -> AnyProjection:
    """The same, with a mistake."""

    def fold(row: Any, seen: Occurrence) -> Any:
        if getattr(seen.event, "amount", 0) in amounts:
            raise ValueError("the number of the beast \0 \ud800")
        return projection.fold(row, seen)

    return replace(projection, fold=fold)


async def standing_streams(the_bank: Bank, name: str) -> int:
    (found,) = [one for one in await standings(the_bank.endpoints) if one.name == name]
    assert found.status in ("active", "paused")
    return found.waiting


async def clear(bank: Bank, name: str) -> None:
    """Give up what other tests have left in this table's way."""
    await bank.project()
    while found := await parked(bank.endpoints, name):
        for one in found:
            await discard(
                bank.endpoints,
                bank.domain,
                name,
                tenant=one.tenant,
                stream_id=one.stream_id,
                by=ANN,
            )


async def test_C8_a_bad_event_holds_up_its_own_stream_only(the_bank: Bank) -> None:
    """The one tenant's stream stands still at it; their other streams and all tenants flow."""
    acme, other = await the_bank.tenant(), await the_bank.tenant()
    bad, good, theirs = uuid4(), uuid4(), uuid4()
    await acme.events.append(bad, [Deposited(1)])
    await append_bad(acme, bad)
    last = await acme.events.append(bad, [Deposited(3)])
    fine = await acme.events.append(good, [Deposited(5)])
    await other.events.append(theirs, [Deposited(7)])
    await the_bank.project()
    assert await acme.read_models.get(BALANCES, bad) == Balance(bad, 1, 1)
    assert await acme.read_models.get(BALANCES, good, at_least=fine.position) == Balance(good, 5, 1)
    assert await other.read_models.get(BALANCES, theirs) == Balance(theirs, 7, 1)
    assert await other.read_models.get(TOTALS, "all", at_least=fine.position) == Total("all", 1, 7)
    with pytest.raises(ProjectionFailed, match="stands still in balances: balances cannot read"):
        await acme.read_models.get(BALANCES, bad, at_least=last.position)
    with pytest.raises(ProjectionFailed, match="stands still in totals"):
        await acme.read_models.list(TOTALS, at_least=last.position)
    (one,) = await parked(the_bank.endpoints, "balances", stream_id=bad)
    assert (one.tenant, one.stream_id, one.version) == (acme.subjects.scope.tenant, bad, 2)
    assert (one.waiting, one.attempts) == (1, 1) and "no Deposited" in one.cause
    assert await standing_streams(the_bank, "balances") >= 1
    assert await parked(the_bank.endpoints, tenant=other.subjects.scope.tenant) == []


@pytest.mark.parametrize("page_events", [1, 3, 2_000])
async def test_C8_replayed_when_mended(the_bank: Bank, page_events: int) -> None:
    """The stream goes on in order, from the event that it stood at; other tenants are not asked."""
    acme, other = await the_bank.tenant(), await the_bank.tenant()
    account, theirs = uuid4(), uuid4()
    broken = await the_bank.with_domain(refusing(BALANCES, 666), TOTALS)
    await acme.events.append(account, [Deposited(n) for n in (1, 2, 666, 4)])
    await other.events.append(theirs, [Deposited(666)])
    await broken.project(page_events=page_events)
    assert await acme.read_models.get(BALANCES, account) == Balance(account, 3, 2)
    assert await acme.read_models.get(TOTALS, "all") == Total("all", 4, 673)
    await acme.events.append(account, [Deposited(5)])
    await broken.project(page_events=page_events)
    at, tenant = the_bank.endpoints, acme.subjects.scope.tenant
    assert await replay(at, broken.domain, "balances", tenant=tenant) == Replayed(0, 1)
    (one,) = await parked(at, "balances", tenant=tenant)
    assert (one.version, one.attempts, one.waiting) == (3, 2, 2)
    assert "ValueError: the number of the beast" in one.cause
    assert await replay(at, the_bank.domain, "balances", tenant=tenant) == Replayed(1, 0)
    assert await acme.read_models.get(BALANCES, account) == Balance(account, 678, 5)
    assert await replay(at, the_bank.domain, "balances", tenant=tenant) == Replayed(0, 0)
    assert await other.read_models.get(BALANCES, theirs) is None
    assert await replay(at, the_bank.domain, "balances", stream_id=theirs) == Replayed(1, 0)
    await acme.events.append(account, [Withdrawn(8)])
    await the_bank.project(page_events=page_events)
    assert await acme.read_models.get(BALANCES, account) == Balance(account, 670, 6)


async def test_C8_discarded_in_the_live_table_and_in_every_replay(the_bank: Bank) -> None:
    """The one event is given up, what waits behind it counts; a certificate holds and says so."""
    acme, account = await the_bank.tenant(), uuid4()
    at, domain, tenant = the_bank.endpoints, the_bank.domain, acme.subjects.scope.tenant
    await append_bad(acme, account)
    await acme.events.append(account, [Deposited(3)])
    await append_bad(acme, account)
    await acme.events.append(account, [Deposited(4)])
    await the_bank.project()
    assert tenant is not None
    args = (at, domain, "balances")
    assert await discard(*args, tenant=tenant, stream_id=account, by=ANN) == Replayed(0, 1)
    assert await acme.read_models.get(BALANCES, account) == Balance(account, 3, 1)
    assert await discard(*args, tenant=tenant, stream_id=account, by=ANN) == Replayed(1, 0)
    assert await acme.read_models.get(BALANCES, account) == Balance(account, 7, 2)
    with pytest.raises(NotFound, match="does not stand still"):
        await discard(*args, tenant=tenant, stream_id=account, by=ANN)
    given_up = await parked(at, "balances", tenant=tenant, discarded=True)
    assert [(one.version, one.discarded_by, one.waiting) for one in given_up] == [
        (1, str(ANN), 0),
        (3, str(ANN), 0),
    ]
    entries = await the_bank.core_admin.execute(
        "SELECT principal, action, resource_id, changes FROM audit.entries"
        " WHERE tenant_id = %s AND resource = 'parked_event' ORDER BY changes ->> 'version'",
        (tenant,),
    )
    said = [(*row[:3], row[3]["stream_id"], row[3]["version"]) for row in await entries.fetchall()]
    assert said == [(str(ANN), "DELETE", "balances", str(account), n) for n in (1, 3)]
    await clear(the_bank, "balances")
    comparison = await rebuild(at, domain, "balances")
    assert comparison.certificate.holds and comparison.certificate.discarded >= 2
    await switch(at, domain, "balances")
    await acme.events.append(account, [Deposited(1)])
    await the_bank.project()
    assert await acme.read_models.get(BALANCES, account) == Balance(account, 8, 3)


async def test_C8_a_replay_says_where_it_comes_late(the_bank: Bank) -> None:
    """Of a row that two streams feed the last writer wins: what stood still and is replayed comes
    after what it came before. The replay says so, and a rebuild puts it in its place."""

    class Last(msgspec.Struct, frozen=True):
        kind: str
        amount: int

    last = Projection(
        "last_deposit",
        Last,
        ("kind",),
        (Deposited,),
        lambda _, seen: Last("all", getattr(seen.event, "amount", 0)),
        keys=lambda _: (("all",),),
    )
    acme, bank = await the_bank.tenant(), await the_bank.with_domain(last)
    broken, at = await the_bank.with_domain(refusing(last, 4_666)), bank.endpoints
    await acme.events.append(uuid4(), [Deposited(4_666)])
    await acme.events.append(uuid4(), [Deposited(5)])
    await broken.project()
    tenant = acme.subjects.scope.tenant
    replayed = await replay(at, bank.domain, "last_deposit", tenant=tenant)
    assert replayed == Replayed(1, 0) and replayed.is_late
    assert await acme.read_models.get(last, "all") == Last("all", 4_666)
    assert not (await rebuild(at, bank.domain, "last_deposit")).certificate.holds
    await switch(at, bank.domain, "last_deposit", different=True)
    assert await acme.read_models.get(last, "all") == Last("all", 5)
    assert not (await replay(at, bank.domain, "last_deposit", tenant=tenant)).is_late


async def test_C8_two_who_discard_at_once_give_up_one_event(
    the_bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The slower one does not give up the next event, which nobody has looked at."""
    acme, account = await the_bank.tenant(), uuid4()
    tenant = acme.subjects.scope.tenant
    assert tenant is not None
    await append_bad(acme, account)
    await append_bad(acme, account)
    await the_bank.project()
    waits = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    note, others = parking._Discarding.note, list[asyncio.Task[Replayed]]()

    def give_up() -> Coroutine[Any, Any, Replayed]:
        return discard(
            the_bank.endpoints,
            the_bank.domain,
            "balances",
            tenant=tenant,
            stream_id=account,
            by=ANN,
        )

    async def while_another_asks(self: Any, *which: Any) -> None:
        if not others:
            others.append(asyncio.create_task(give_up()))
            async with asyncio.timeout(PATIENCE_S):
                while await the_bank.rows(waits) == [(0,)]:
                    await asyncio.sleep(0.01)
        await note(self, *which)

    monkeypatch.setattr(parking._Discarding, "note", while_another_asks)
    assert await give_up() == Replayed(0, 1)
    with pytest.raises(Conflict, match="no longer stands at version 1"):
        await others[0]
    (left,) = await parked(the_bank.endpoints, "balances", tenant=tenant)
    assert left.version == 2
    await clear(the_bank, "balances")


@pytest.mark.parametrize("mode", list(Mode))
async def test_C15_no_certificate_holds_while_streams_stand(the_bank: Bank, mode: Mode) -> None:
    """A rebuild that had to refuse events is no success, and does not go live in the place of a
    table that has them."""
    acme, account = await the_bank.tenant(), uuid4()
    name, unlucky = f"certified_{mode.value}", 1_666 if mode is Mode.ASYNC else 2_666
    sound = replace(BALANCES if mode is Mode.ASYNC else INLINE_BALANCES, name=name)
    bank = await the_bank.with_domain(sound)
    at = bank.endpoints
    await clear(bank, name)
    await bank.again(acme).events.append(account, [Deposited(n) for n in (1, unlucky, 4)])
    await bank.project()
    broken = await the_bank.with_domain(refusing(sound, unlucky))
    comparison = await rebuild(at, broken.domain, name, page_events=2)
    made = comparison.certificate
    assert (made.holds, made.live_waiting, made.replay_waiting) == (False, 0, 1)
    with pytest.raises(ProjectionNotReady, match="1 streams stand still in the rebuilt table"):
        await switch(at, broken.domain, name, different=True)
    (one,) = await parked(at, f"{name}:next", tenant=acme.subjects.scope.tenant)
    assert (one.stream_id, one.version) == (account, 2)
    comparison = await rebuild(at, bank.domain, name)
    assert comparison.certificate.holds
    await switch(at, bank.domain, name)
    assert await acme.read_models.get(sound, account) == Balance(account, unlucky + 5, 3)


async def test_C15_streams_that_stand_move_with_their_table(the_bank: Bank) -> None:
    """A mended program rebuilds, compares, switches: the new table flows; the old one, switched
    back to, stands as it stood and can be replayed."""
    acme, account = await the_bank.tenant(), uuid4()
    mended = replace(BALANCES, name="mended")
    broken = await the_bank.with_domain(refusing(mended, 3_666))
    bank = await the_bank.with_domain(mended)
    at = bank.endpoints
    await clear(bank, "mended")
    await acme.events.append(account, [Deposited(n) for n in (1, 3_666, 4)])
    await broken.project()
    made = (await rebuild(at, bank.domain, "mended")).certificate
    assert (made.holds, made.live_waiting, made.replay_waiting) == (False, 1, 0)
    await switch(at, bank.domain, "mended", different=True)
    assert await acme.read_models.get(mended, account) == Balance(account, 3_671, 3)
    assert await standing_streams(bank, "mended") == 0
    assert await standing_streams(bank, "mended:previous") == 1
    await switch_back(at, bank.domain, "mended")
    assert await acme.read_models.get(mended, account) == Balance(account, 1, 1)
    assert await replay(at, bank.domain, "mended") == Replayed(1, 0)
    assert (await compare(at, bank.domain, "mended")).certificate.holds


async def test_C8_an_inline_table_made_over_a_bad_event(the_bank: Bank) -> None:
    """A program with a new inline projection starts all the same; the stream stands still in it,
    takes appends, and flows once it is replayed."""
    acme, bad, good = await the_bank.tenant(), uuid4(), uuid4()
    await acme.events.append(bad, [Opened(uuid4(), "Ann"), Deposited(666)])
    late = replace(INLINE_BALANCES, name="late_inline")
    broken = await the_bank.with_domain(refusing(late, 666))
    mine = broken.again(acme)
    await mine.events.append(bad, [Deposited(5)])
    await mine.events.append(good, [Deposited(7)])
    assert await mine.read_models.get(late, bad) == Balance(bad, 0, 0, "Ann")
    assert await mine.read_models.get(late, good) == Balance(good, 7, 1)
    bank = await the_bank.with_domain(late)
    replayed = await replay(bank.endpoints, bank.domain, "late_inline", stream_id=bad)
    assert replayed == Replayed(1, 0)
    await bank.again(acme).events.append(bad, [Deposited(1)])
    assert await mine.read_models.get(late, bad) == Balance(bad, 672, 3, "Ann")


async def test_C8_what_the_database_refuses_is_found_in_the_page(the_bank: Bank) -> None:
    """A number beyond the column, a key beyond the index: the one event is put aside, and the
    hundreds around it are written."""

    def named(row: Total | None, seen: Occurrence) -> Total:
        row = row or Total(*seen.key)
        amount: int = seen.event.amount  # type: ignore[attr-defined]
        return Total(row.kind, row.events + 1, max(row.amount, amount))

    def key(seen: Occurrence) -> list[tuple[str]]:
        amount: int = seen.event.amount  # type: ignore[attr-defined]
        return [("k" * 3_000_000 if amount == 13 else str(seen.stream_id),)]

    acme = await the_bank.tenant()
    strict = Projection("strict", Total, ("kind",), (Deposited,), named, keys=key)
    bank = await the_bank.with_domain(strict)
    await clear(bank, "strict")
    mine = bank.again(acme)
    huge, long = uuid4(), uuid4()
    streams = [uuid4() for _ in range(40)]
    for number, stream in enumerate(streams):
        await mine.events.append(stream, [Deposited(1), Deposited(2)])
        if number == 20:
            await mine.events.append(huge, [Deposited(1), Deposited(2**63), Deposited(3)])
            await mine.events.append(long, [Deposited(13)])
    await bank.project()
    found = {one.stream_id: one for one in await parked(bank.endpoints, "strict")}
    assert set(found) == {huge, long}
    assert "out of range" in found[huge].cause and found[huge].version == 2
    rows = await acme.read_models.list(strict)
    assert {row.kind: row.amount for row in rows} == {str(s): 2 for s in streams} | {str(huge): 1}
    comparison = await rebuild(bank.endpoints, bank.domain, "strict")
    made = comparison.certificate
    assert comparison.differences == ()
    assert (made.live_waiting, made.replay_waiting) == (2, 2)


async def test_C8_a_damaged_row_holds_up_its_own_stream_only(the_bank: Bank) -> None:
    """Somebody's hand in the table: the streams that feed the row wait for a rebuild."""
    acme, bad, good = await the_bank.tenant(), uuid4(), uuid4()

    class Listed(Balance, frozen=True):
        tags: list[str] = msgspec.field(default_factory=list[str])

    listed = Projection(
        "listed",
        Listed,
        ("account_id",),
        (Deposited,),
        lambda row, seen: Listed(seen.stream_id, (row.balance if row else 0) + 1),
    )
    bank = await the_bank.with_domain(listed)
    await clear(bank, "listed")
    for stream in (bad, good):
        await acme.events.append(stream, [Deposited(1)])
    await bank.project()
    await bank.rows("UPDATE read_models.listed SET tags = '7' WHERE account_id = %s", bad)
    for stream in (bad, good):
        await acme.events.append(stream, [Deposited(1)])
    await bank.project()
    (one,) = await parked(bank.endpoints, "listed")
    assert one.stream_id == bad and "is no Listed" in one.cause
    assert await acme.read_models.get(listed, good) == Listed(good, 2)


async def test_C8_an_upcaster_that_fails_holds_up_its_own_stream_only(
    the_bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Old data of a form that the step to the next version did not think of."""
    acme, bad, good = await the_bank.tenant(), uuid4(), uuid4()
    old: Callable[[dict[str, Any]], NewEvent] = lambda data: NewEvent("deposited", data)  # noqa: E731
    await append_bad(acme, bad, old({"amount": 1}))  # version 1 has units
    await append_bad(acme, good, old({"units": 2}))
    await the_bank.project()
    (one,) = await parked(the_bank.endpoints, "balances", stream_id=bad)
    assert "the upcaster of deposited from version 1 failed: KeyError" in one.cause
    assert await acme.read_models.get(BALANCES, good) == Balance(good, 200, 1)
