"""What a reader of a read model may ask, and what it is told where that makes no sense."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest
from tests.fixtures.bank import BALANCES, INLINE_BALANCES, Balance, Deposited, Opened
from tests.fixtures.fix_projections import Bank

from neolayer.errors import InvalidInput
from neolayer.events import Mode, Occurrence, Projection, ReadModels
from neolayer.events.errors import ProjectionNotReady
from neolayer.position import Position

Ask = Callable[[ReadModels], Awaitable[Any]]
KEY = UUID(int=7)


class Wide(msgspec.Struct, frozen=True):
    """A column of every type."""

    stream: UUID
    flag: bool
    number: int
    ratio: float
    exact: Decimal
    text: str
    at: datetime
    day: date
    many: list[int]
    maybe: str | None = None


NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
NOTED = {
    "flag": True,
    "number": 5,
    "ratio": 0.5,
    "exact": Decimal("1.50"),
    "text": "Ann",
    "at": NOON,
    "day": date(2026, 1, 2),
}


def fold_wide(_: Wide | None, seen: Occurrence) -> Wide:
    return Wide(seen.stream_id, **NOTED, many=[1])


WIDE = Projection("wide", Wide, ("stream",), (Deposited,), fold_wide, mode=Mode.INLINE)


async def test_values_of_every_type_are_found(the_bank: Bank) -> None:
    """By the value itself or by its text where JSON has no better; None finds what has none."""
    bank, stream = await the_bank.with_domain(WIDE), uuid4()
    acme = bank.again(await the_bank.tenant())
    await acme.events.append(stream, [Deposited(1)])
    row = Wide(stream, **NOTED, many=[1])
    for name, value in (NOTED | {"maybe": None}).items():
        assert await acme.read_models.list(WIDE, **{name: value}) == [row], name
    assert await acme.read_models.list(WIDE, text=None) == []
    assert await acme.read_models.list(WIDE, many=None) == []
    assert await acme.read_models.list(WIDE, **NOTED, maybe=None) == [row]
    assert await acme.read_models.list(WIDE, number=6) == []
    assert await acme.read_models.list(WIDE, limit=0) == []
    assert await acme.read_models.list(WIDE, after=(stream,)) == []
    assert await acme.read_models.list(WIDE, after=(UUID(int=0),)) == [row]
    assert await acme.read_models.get(WIDE, str(stream)) == row


ASKED: dict[str, tuple[Ask, str]] = {
    "key": (lambda models: models.get(BALANCES, "x"), "account_id of balances cannot be"),
    "no key": (lambda models: models.get(BALANCES), "a key of balances is account_id"),
    "no key, as of": (lambda models: models.get_as_of(BALANCES), "a key of balances is account_id"),
    "key None": (lambda models: models.get(BALANCES, None), "holds no None"),
    "after": (lambda models: models.list(BALANCES, after=()), "a key of balances is account_id"),
    "field": (lambda models: models.list(BALANCES, size=3), "no field 'size'"),
    "type": (lambda models: models.list(BALANCES, balance="a"), "balance of balances cannot be"),
    "bool": (lambda models: models.list(BALANCES, balance=True), "balance of balances cannot be"),
    "object": (lambda models: models.list(BALANCES, owner=object()), "owner of balances cannot be"),
    "range": (lambda models: models.list(BALANCES, balance=2**70), "64 bits at most"),
    "nul": (lambda models: models.list(BALANCES, owner="a\0"), "NUL"),
    "lone": (lambda models: models.list(BALANCES, owner="\ud800"), "owner of balances cannot be"),
    "limit": (lambda models: models.list(BALANCES, limit=-1), "limit is 0 to"),
    "json": (lambda models: models.list(WIDE, many=[1]), "many of wide is JSON"),
    "position": (
        lambda models: models.list(BALANCES, at_least="event_store:1:0/5"),  # type: ignore[arg-type]
        "at_least is a Position",
    ),
    "other database": (
        lambda models: models.list(BALANCES, at_least=Position(1, 5)),
        "made of event_store",
    ),
}


@pytest.mark.parametrize("which", ASKED)
async def test_what_makes_no_sense_is_refused_by_name(the_bank: Bank, which: str) -> None:
    """With the field, and never with the words of a driver."""
    acme = await the_bank.tenant()
    ask, said = ASKED[which]
    with pytest.raises(InvalidInput, match=said):
        await ask(acme.read_models)


class More(msgspec.Struct, frozen=True):
    account_id: UUID
    balance: int = 0
    extra: int = 0


class OtherType(msgspec.Struct, frozen=True):
    account_id: UUID
    balance: str


class OtherKey(msgspec.Struct, frozen=True):
    account_id: str
    balance: int


@pytest.mark.parametrize("has_rows", [True, False], ids=["rows", "no rows"])
@pytest.mark.parametrize("row", [More, OtherType, OtherKey])
async def test_rows_of_other_fields_are_not_ready(
    the_bank: Bank, row: type[msgspec.Struct], has_rows: bool
) -> None:
    """A program with a field more, or of another type, reads before its switch: it is told to
    rebuild, and gets neither a default for the truth nor a driver's error."""
    acme, account = await the_bank.tenant(), uuid4()
    if has_rows:
        await acme.events.append(account, [Opened(uuid4(), "Ann"), Deposited(5)])
    later = Projection(INLINE_BALANCES.name, row, ("account_id",), (Deposited,), lambda row, _: row)
    if row is More or (has_rows and row is OtherType):
        with pytest.raises(ProjectionNotReady, match=f"other fields than {row.__name__}"):
            await acme.read_models.list(later)
    if has_rows or row is not OtherType:
        with pytest.raises(ProjectionNotReady, match="other fields") as refused:
            await acme.read_models.get(later, account)
        assert "neolayer projections rebuild inline_balances" in (refused.value.hint or "")


async def test_a_table_with_a_field_more_serves_the_older_program(the_bank: Bank) -> None:
    """What it does not know it does not read."""

    class Less(msgspec.Struct, frozen=True):
        account_id: UUID
        balance: int

    acme, account = await the_bank.tenant(), uuid4()
    await acme.events.append(account, [Opened(uuid4(), "Ann"), Deposited(5)])
    less = Projection(INLINE_BALANCES.name, Less, ("account_id",), (Deposited,), lambda row, _: row)
    assert await acme.read_models.get(less, account) == Less(account, 5)
    assert await acme.read_models.list(less, balance=5) == [Less(account, 5)]
    both = replace(INLINE_BALANCES)
    assert await acme.read_models.get(both, account) == Balance(account, 5, 1, "Ann")
