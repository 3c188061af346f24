"""A command that somebody else stored meanwhile: what it answers, and what is kept of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import pytest
from tests.fixtures.bank import ACCOUNT, Deposit, Deposited
from tests.fixtures.fix_projections import Bank

from neolayer.errors import InvalidInput
from neolayer.events import Aggregate, Aggregates, Envelope, NewEvent, SnapshotPolicy


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


async def test_a_command_and_its_event_have_not_both_an_id(the_bank: Bank) -> None:
    """One would give way unseen; an envelope without an id takes the command's, with its metadata,
    and where only the event has an id, that one stands."""
    acme, account, payment = await the_bank.tenant(), uuid4(), uuid4()
    plain = replace(ACCOUNT, decide=lambda command, _: command)
    own = Envelope(Deposited(5), event_id=payment)
    for events in ([own], [Deposited(1), NewEvent("deposited", {"units": 1})]):
        with pytest.raises(InvalidInput, match="decide gave an event an id"):
            await acme.aggregates.execute(plain, account, events, command_id=uuid4())
    assert await acme.events.state(account) is None
    done = await acme.aggregates.execute(plain, account, [own])
    assert done.written is not None and done.written.events[0].event_id == payment
    told, command_id = Envelope(Deposited(1), metadata={"by": "hand"}), uuid4()
    for is_repeated in (False, True):
        done = await acme.aggregates.execute(plain, account, [told], command_id=command_id)
        assert done.written is not None and done.written.is_repeated is is_repeated
        assert done.written.events[0].metadata == {"by": "hand"}
    assert done.state.balance == 6


async def test_an_envelope_given_twice_is_stored_once(the_bank: Bank) -> None:
    """Though nobody gave it an id: it was given one when it was made."""
    acme, account = await the_bank.tenant(), uuid4()
    envelope = Envelope(Deposited(5))
    assert not envelope.has_own_id and envelope.event_id != Envelope(Deposited(5)).event_id
    first, again = [await acme.events.append(account, [envelope]) for _ in range(2)]
    assert (first.is_repeated, again.is_repeated, again.version) == (False, True, 1)


async def test_a_command_that_led_to_no_event_is_decided_again(the_bank: Bank) -> None:
    """It has stored nothing that it could be known by."""
    acme, account, command_id = await the_bank.tenant(), uuid4(), uuid4()
    plain = replace(ACCOUNT, decide=lambda command, _: command)
    for events, balance in (([], 0), ([], 0), ([Deposited(5)], 5), ([Deposited(7)], 5)):
        done = await acme.aggregates.execute(plain, account, events, command_id=command_id)
        assert done.state.balance == balance
