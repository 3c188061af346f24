"""Whose state a snapshot holds, where several functions share one name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial, wraps
from typing import Any
from uuid import uuid4

import pytest
from msgspec.structs import replace as replace_fields
from tests.fixtures.bank import ACCOUNT, Account, Deposit, evolve
from tests.fixtures.fix_projections import Bank

from neolayer.errors import InvalidInput
from neolayer.events import SnapshotPolicy

Evolve = Callable[[Account, Any], Account]


def with_fee(fee: int) -> Evolve:
    def evolve_less(state: Account, event: object) -> Account:
        after = evolve(state, event)
        return replace_fields(after, balance=after.balance - fee)

    return evolve_less


def traced(inner: Evolve) -> Evolve:
    @wraps(inner)
    def call(state: Account, event: object) -> Account:
        return inner(state, event)

    return call


class Rules:
    def evolve(self, state: Account, event: object) -> Account:
        return evolve(state, event)

    @staticmethod
    def fold(state: Account, event: object) -> Account:
        return evolve(state, event)


@traced
def decorated(state: Account, event: object) -> Account:
    return evolve(state, event)


@pytest.mark.parametrize(
    "nameless",
    [
        with_fee(1),
        partial(evolve),
        Rules().evolve,
        traced(evolve),
        lambda state, _: state,
    ],
)
def test_a_function_that_shares_its_name_keeps_no_snapshots_without_one(nameless: Evolve) -> None:
    """A policy's name tells them apart; without snapshots any function will do."""
    replace(ACCOUNT, evolve=nameless)
    with pytest.raises(InvalidInput, match="could be another's") as refused:
        replace(ACCOUNT, evolve=nameless, snapshots=SnapshotPolicy())
    assert "SnapshotPolicy(name=" in str(refused.value.hint)
    named = replace(ACCOUNT, evolve=nameless, snapshots=SnapshotPolicy(name="mine"))
    assert named.folded_by == "mine"
    for own in (evolve, Rules.fold, decorated):
        assert replace(ACCOUNT, evolve=own, snapshots=SnapshotPolicy()).folded_by.endswith(
            own.__name__
        )
    with pytest.raises(InvalidInput):
        SnapshotPolicy(name=" ")


async def test_aggregates_of_one_factory_load_what_they_fold_themselves(the_bank: Bank) -> None:
    """Each by its name, over one stream."""
    acme, account = await the_bank.tenant(), uuid4()
    one, two = (
        replace(ACCOUNT, evolve=with_fee(fee), snapshots=SnapshotPolicy(2, name=f"fee {fee}"))
        for fee in (1, 2)
    )
    for _ in range(2):
        await acme.aggregates.execute(one, account, Deposit(10))
    await the_bank.rooms.background.settle()
    loaded = [await acme.aggregates.load(each, account) for each in (one, two)]
    assert [(each.state.balance, each.snapshot) for each in loaded] == [(18, 2), (16, 0)]
