"""A command that somebody else stored meanwhile: what it answers, and what is kept of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import pytest
from tests.fixtures.bank import ACCOUNT, Deposit, Deposited
from tests.fixtures.fix_projections import Bank

from neolayer.events import Aggregate, Aggregates, SnapshotPolicy


async def test_a_command_stored_elsewhere_behind_other_events_answers_with_them(
    the_bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between load and append others appended, and then the very same command: neither the answer
    nor a snapshot lacks what they did."""
    acme, account, command_id = await the_bank.tenant(), uuid4(), uuid4()
    elsewhere = (await the_bank.with_domain()).again(acme)
    kept = replace(ACCOUNT, snapshots=SnapshotPolicy(every=2))
    await acme.events.append(account, [Deposited(5)])
    load = Aggregates.load

    async def load_slowly(self: Aggregates, aggregate: Aggregate[Any], stream_id: UUID) -> object:
        found = await load(self, aggregate, stream_id)
        if self is acme.aggregates:
            monkeypatch.setattr(Aggregates, "load", load)
            await elsewhere.events.append(account, [Deposited(100)])
            await elsewhere.aggregates.execute(ACCOUNT, account, Deposit(1), command_id=command_id)
        return found

    monkeypatch.setattr(Aggregates, "load", load_slowly)
    done = await acme.aggregates.execute(kept, account, Deposit(1), command_id=command_id)
    await the_bank.rooms.background.settle()
    assert done.written is not None and done.written.is_repeated
    assert (done.state.balance, done.version) == (106, 3)
    loaded = await acme.aggregates.load(kept, account)
    assert (loaded.state.balance, loaded.snapshot) == (106, 0)
