"""Mappings within events, whose keys are text in JSON whatever they are in the program."""

from __future__ import annotations

from datetime import date
from enum import IntEnum
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest
from tests.fixtures.fix_projections import Bank

from neolayer.events import Aggregate, EventTypes, NewEvent

shop = EventTypes("shop")


class Size(IntEnum):
    SMALL = 1


@shop.event("counted", schema_version=2)
class Counted(msgspec.Struct, frozen=True):
    by_number: dict[int, int] = {}
    by_size: dict[Size, int] = {}
    by_rate: dict[float, int] = {}
    by_id: dict[UUID, int] = {}
    by_day: dict[date, int] = {}


@shop.upcaster("counted", from_version=1)
def rename(data: dict[str, Any]) -> dict[str, Any]:
    return {"by_number": data["n"]}


COUNTS = Aggregate("shop", Counted(), lambda _, event: event, lambda event, _: [event])
FULL = Counted({1: 2, -3: 4}, {Size.SMALL: 1}, {1.5: 2}, {uuid4(): 3}, {date(2020, 1, 2): 4})


@pytest.mark.parametrize(
    ("given", "event"),
    [
        (FULL, FULL),
        (NewEvent("counted", {"by_number": {"1": 2}}, schema_version=2), Counted({1: 2})),
        (NewEvent("counted", {"n": {"1": 2}}), Counted({1: 2})),
    ],
)
async def test_what_fits_its_type_reads_back_by_every_way(
    the_bank: Bank, given: Any, event: Counted
) -> None:
    """As a stream, among all, folded into an aggregate, and as what a command answers."""
    bank = await the_bank.with_domain(types=(shop,))
    acme, stream = bank.again(await the_bank.tenant()), uuid4()
    done = await acme.aggregates.execute(COUNTS, stream, given)
    assert done.state == event
    assert (await acme.aggregates.load(COUNTS, stream)).state == event
    assert [one async for one, _ in acme.events.read_stream(stream)] == [event]
    assert [one for one, _ in await acme.events.read_all()] == [event]
