"""Personal fields: sealed wherever they are stored, and gone with one key."""

from __future__ import annotations

import asyncio
from uuid import uuid4

import pytest
from tests.fixtures.bank import (
    ACCOUNT,
    BALANCES,
    INLINE_BALANCES,
    KEPT_ACCOUNT,
    Deposit,
    Open,
    Opened,
)
from tests.fixtures.fix_projections import Bank

from neolayer.errors import InvalidInput
from neolayer.events.catalogue import CLASSES
from neolayer.events.model import NewEvent, StreamAppend
from neolayer.events.personal import Erased
from neolayer.events.projections.rebuild import rebuild, switch
from neolayer.keys.rewrapping import rewrap
from neolayer.keys.sealed_rows import key_usage, sealed_columns

NAME, ADDRESS = "Zebulon Quarterdeck", "zebulon@quarterdeck.example"


async def dump(the_bank: Bank) -> str:
    """Every row of every table of both databases, as text."""
    found: list[str] = []
    for admin in (the_bank.admin, the_bank.core_admin):
        cursor = await admin.execute(
            "SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c"
            " JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind = 'r'"
            " AND n.nspname NOT IN ('pg_catalog', 'information_schema')"
        )
        for (table,) in await cursor.fetchall():
            rows = await admin.execute(f"SELECT t::text FROM {table} t")  # type: ignore[arg-type]
            found += [f"{table} {row[0]}" for row in await rows.fetchall()]
    return "\n".join(found)


async def test_E15_a_deleted_key_erases_a_person_everywhere(the_bank: Bank) -> None:
    """Events, snapshots and read models: no plain text before, none to be had after, and a rebuild
    comes to the very same rows."""
    acme, customer, account = await the_bank.tenant(), uuid4(), uuid4()
    await acme.events.append(account, [Opened(customer, NAME, ADDRESS)])
    for _ in range(12):
        await acme.aggregates.execute(KEPT_ACCOUNT, account, Deposit(1))
    await the_bank.rooms.background.settle()
    await the_bank.project()
    loaded = await acme.aggregates.load(KEPT_ACCOUNT, account)
    assert loaded.state.owner == NAME and loaded.snapshot > 0
    for projection in (BALANCES, INLINE_BALANCES):
        row = await acme.read_models.get(projection, account)
        assert row is not None and row.owner == NAME
    everything = await dump(the_bank)
    assert customer.hex in everything  # the search does see what is there
    assert NAME not in everything and ADDRESS not in everything

    assert await acme.subjects.erase(customer) is True
    assert await acme.subjects.erase(customer) is False
    events = [event async for event, _ in acme.events.read_stream(account, up_to=1)]
    assert events == [Opened(customer, Erased(), Erased())]
    loaded = await acme.aggregates.load(KEPT_ACCOUNT, account)
    assert (loaded.state.owner, loaded.state.balance) == (Erased(), 12)
    assert loaded.snapshot == 0  # the one there is cannot be opened
    for projection in (BALANCES, INLINE_BALANCES):
        row = await acme.read_models.get(projection, account)
        assert row is not None and row.owner == Erased()
        comparison = await rebuild(the_bank.endpoints, the_bank.domain, projection.name)
        assert comparison.certificate.holds
        await switch(the_bank.endpoints, the_bank.domain, projection.name)
        assert await acme.read_models.get(projection, account) == row
    everything = await dump(the_bank)
    assert NAME not in everything and ADDRESS not in everything
    audited = await the_bank.core_admin.execute(
        "SELECT count(*) FROM audit.entries WHERE resource = 'subject_key' AND resource_id = %s",
        (str(customer),),
    )
    assert await audited.fetchone() == (1,)


async def test_others_keep_theirs(the_bank: Bank) -> None:
    """A key is one person's in one tenant; and who comes back gets a new one."""
    acme, other = await the_bank.tenant(), await the_bank.tenant()
    ann, ben = uuid4(), uuid4()
    stream = uuid4()
    await acme.events.append(stream, [Opened(ann, "Ann"), Opened(ben, "Ben"), Opened(ann, "Ann")])
    theirs = uuid4()
    await other.events.append(theirs, [Opened(ann, "Ann")])
    await acme.subjects.erase(ann)
    names = [event.owner async for event, _ in acme.events.read_stream(stream)]
    assert names == [Erased(), "Ben", Erased()]
    assert [event.owner async for event, _ in other.events.read_stream(theirs)] == ["Ann"]
    await acme.events.append(stream, [Opened(ann, "Ann again")])
    names = [event.owner async for event, _ in acme.events.read_stream(stream)]
    assert names == [Erased(), "Ben", Erased(), "Ann again"]


async def test_a_stream_about_two_people_has_no_snapshot(the_bank: Bank) -> None:
    """One key could not take it back."""
    acme, account = await the_bank.tenant(), uuid4()
    await acme.events.append(account, [Opened(uuid4(), "Ann"), Opened(uuid4(), "Ben")])
    for _ in range(12):
        await acme.aggregates.execute(KEPT_ACCOUNT, account, Deposit(1))
    await the_bank.rooms.background.settle()
    assert (await acme.aggregates.load(KEPT_ACCOUNT, account)).snapshot == 0


async def test_two_first_events_of_a_person_share_one_key(the_bank: Bank) -> None:
    """Whoever makes the key first, both can be read."""
    acme, customer = await the_bank.tenant(), uuid4()
    streams = [uuid4() for _ in range(8)]
    await asyncio.gather(
        *(acme.aggregates.execute(ACCOUNT, one, Open(customer, "Ann")) for one in streams)
    )
    for stream in streams:
        assert [event.owner async for event, _ in acme.events.read_stream(stream)] == ["Ann"]


async def test_what_was_stored_in_plain_text_reads_as_it_is(the_bank: Bank) -> None:
    """An event from before its field was declared personal."""
    acme, account = await the_bank.tenant(), uuid4()
    old = NewEvent("opened", {"customer_id": str(uuid4()), "owner": "Ann"})
    await acme.events.append_all([StreamAppend(account, [old], "account")])
    assert [event.owner async for event, _ in acme.events.read_stream(account)] == ["Ann"]


async def test_subjects_keys_are_rewrapped_with_the_others(the_bank: Bank) -> None:
    """`keys rewrap` moves them under the new key, and they open as before."""
    acme, account = await the_bank.tenant(), uuid4()
    await acme.events.append(account, [Opened(uuid4(), "Ann")])
    await the_bank.keyring.provider.rotate()
    usage = [
        use
        for use in await key_usage(the_bank.core_admin, sealed_columns(CLASSES))
        if use.tenant == acme.subjects.scope.tenant
    ]
    done = await rewrap(
        the_bank.keyring,
        usage,
        scope_of=lambda tenant: the_bank.core.scope(tenant, by=acme.subjects.scope.by),
    )
    assert (done.rows, done.refused.total()) == (1, 0)
    assert [event.owner async for event, _ in acme.events.read_stream(account)] == ["Ann"]


async def test_an_erased_value_cannot_be_stored_again(the_bank: Bank) -> None:
    """Reading and writing back would put the marker in a person's place."""
    acme = await the_bank.tenant()
    with pytest.raises(InvalidInput, match="was erased"):
        await acme.events.append(uuid4(), [Opened(uuid4(), Erased())])
