"""Archived streams still count: in a rebuild, in a new projection, in an aggregate."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
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
from neolayer.events.archive import Archive, NotArchived, SegmentStore
from neolayer.events.errors import ProjectionNotReady
from neolayer.events.projections.domain import Domain
from neolayer.events.projections.rebuild import compare, ensure, rebuild, switch


async def test_archived_streams_are_replayed_too(the_bank: Bank, tmp_path: Path) -> None:
    """What is not folded yet is not archived; what is archived is folded by whatever is made
    anew, and a table from before does not pretend to know it."""
    folder = tmp_path / "objects"
    objects = ObjectsEndpoint(Level.EMBEDDED, folder.as_uri(), folder)
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
    aggregates = replace(acme.aggregates, events=replace(acme.events, stored=stored))
    loaded = await aggregates.load(ACCOUNT, one)
    assert (loaded.state.balance, loaded.state.owner, loaded.version) == (5, "Ann", 3)
