"""Archived streams still count: in a rebuild, in a new projection, in an aggregate."""

from __future__ import annotations

from dataclasses import replace
from uuid import uuid4

import pytest
from tests.fixtures.bank import (
    ACCOUNT,
    BALANCES,
    INLINE_BALANCES,
    INLINE_TOTALS,
    TOTALS,
    Deposited,
    Opened,
    Total,
    accounts,
)
from tests.fixtures.fix_projections import Bank

from neolayer.engines.endpoints import ObjectsEndpoint
from neolayer.engines.engine import Level
from neolayer.errors import Conflict
from neolayer.events.archive import Archive, NotArchived, SegmentStore
from neolayer.events.errors import ProjectionNotReady, UnknownProjection
from neolayer.events.model import NewEvent
from neolayer.events.projections.domain import Domain
from neolayer.events.projections.parking import discard
from neolayer.events.projections.rebuild import compare, drop, ensure, rebuild, switch


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> ObjectsEndpoint:
    """One archive for all: a read model that is made anew looks at every archived stream."""
    folder = tmp_path_factory.mktemp("objects")
    return ObjectsEndpoint(Level.EMBEDDED, folder.as_uri(), folder)


async def test_archived_streams_are_replayed_too(the_bank: Bank, objects: ObjectsEndpoint) -> None:
    """What is not folded yet is not archived; what is archived is folded by whatever is made
    anew, and a table from before does not pretend to know it."""
    bank = replace(the_bank, endpoints=replace(the_bank.endpoints, objects=objects))
    acme, one = await bank.tenant(), uuid4()
    await acme.events.append(one, [Opened(uuid4(), "Ann"), Deposited(5)])
    await bank.project()
    await rebuild(bank.endpoints, bank.domain, "balances")
    segments = SegmentStore(objects)
    stored = replace(acme.events.stored, segments=segments)
    await stored.close(one, {})
    archive = Archive(acme.events.scope, segments)
    with pytest.raises(NotArchived, match="projection 'balances' has not folded"):
        await archive.archive(one)
    await bank.project()
    assert (await archive.archive(one)).events == 3
    for change in (compare, switch):
        with pytest.raises(ProjectionNotReady, match="streams were archived since"):
            await change(bank.endpoints, bank.domain, "balances")
    for projection in (BALANCES, TOTALS, INLINE_BALANCES, INLINE_TOTALS):
        comparison = await rebuild(bank.endpoints, bank.domain, projection.name, page_events=2)
        assert comparison.certificate.holds, comparison.differences
        await switch(bank.endpoints, bank.domain, projection.name)
    for totals in (TOTALS, INLINE_TOTALS):
        late = replace(totals, name=f"late_{totals.name}")
        await ensure(bank.endpoints, Domain.of([accounts], [late]))
        assert await acme.read_models.get(late, "all") == Total("all", 1, 5)
        await drop(bank.endpoints, bank.domain, late.name)
    aggregates = replace(acme.aggregates, events=replace(acme.events, stored=stored))
    loaded = await aggregates.load(ACCOUNT, one)
    assert (loaded.state.balance, loaded.state.owner, loaded.version) == (5, "Ann", 3)


async def test_C8_archiving_keeps_only_streams_that_wait(
    the_bank: Bank, objects: ObjectsEndpoint
) -> None:
    """A closed stream behind another one's bad event goes; the one that stands still stays, until
    it is given up. So does what a read model waits for that nobody runs, until that is dropped."""
    the_bank = replace(the_bank, endpoints=replace(the_bank.endpoints, objects=objects))
    acme, bad, good = await the_bank.tenant(), uuid4(), uuid4()
    wrong = NewEvent("deposited", {"amount": "five"}, schema_version=3)
    await acme.events.stored.append(bad, [wrong], category="account")
    abandoned = replace(BALANCES, name="abandoned")
    await ensure(the_bank.endpoints, Domain.of([accounts], [abandoned]))
    await acme.events.append(good, [Deposited(5)])
    for stream in (bad, good):
        await acme.events.stored.close(stream, {})
    await the_bank.project()
    archive = Archive(acme.events.scope, SegmentStore(objects))
    with pytest.raises(NotArchived, match="projection 'abandoned' has not folded"):
        await archive.archive(good)
    with pytest.raises(Conflict, match="is declared"):
        await drop(the_bank.endpoints, the_bank.domain, "balances")
    await drop(the_bank.endpoints, the_bank.domain, "abandoned")
    with pytest.raises(UnknownProjection, match="no read model 'abandoned'"):
        await drop(the_bank.endpoints, the_bank.domain, "abandoned")
    assert (await archive.archive(good)).events == 2
    with pytest.raises(NotArchived, match="it stands still in the projection 'balances'"):
        await archive.archive(bad)
    tenant = acme.subjects.scope.tenant
    assert tenant is not None
    for name in ("balances", "totals"):
        await discard(
            the_bank.endpoints,
            the_bank.domain,
            name,
            tenant=tenant,
            stream_id=bad,
            by=acme.subjects.scope.by,
        )
    assert (await archive.archive(bad)).events == 2
