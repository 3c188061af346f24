"""E17: a read model is what its events come to; no member writes it, however large, by SQL."""

from __future__ import annotations

from typing import LiteralString
from uuid import UUID, uuid4

import psycopg
import pytest

from neolayer.events import StreamAppend
from neolayer.events.projections.inline import FOLDING
from neolayer.tenancy import Principal, Scope
from tests.fixtures.bank import INLINE_BALANCES, INLINE_TOTALS, Balance, Deposited
from tests.fixtures.fix_projections import Bank

REFUSED = psycopg.errors.InsufficientPrivilege

# Each as a member of the tenant, on a read model that has one row of theirs.
WRITES: dict[str, LiteralString] = {
    "rows": "INSERT INTO read_models.inline_balances (tenant_id, account_id, balance, movements)"
    " SELECT core.current_tenant(), gen_random_uuid(), 1, 1 FROM generate_series(1, 10000)"
    " RETURNING 1",
    "one row more": "INSERT INTO read_models.inline_totals (tenant_id, kind, events, amount)"
    " VALUES (core.current_tenant(), repeat('x', 2000), 1, 1) RETURNING 1",
    "another row": "INSERT INTO read_models.inline_balances (tenant_id, account_id, balance,"
    " movements) SELECT tenant_id, account_id, 7, 7 FROM read_models.inline_balances"
    " ON CONFLICT (tenant_id, account_id) DO UPDATE SET balance = 1000000 RETURNING 1",
    "change": "UPDATE read_models.inline_balances SET balance = 1000000 RETURNING 1",
    "growth": "UPDATE read_models.inline_balances SET owner = repeat('x', 8000000) RETURNING 1",
    "removal": "DELETE FROM read_models.inline_balances RETURNING 1",
    "aside": "WITH gone AS (DELETE FROM read_models.inline_balances RETURNING 1) SELECT 1",
    "merge": "MERGE INTO read_models.inline_balances AS t USING (SELECT 1) AS s ON true"
    " WHEN MATCHED THEN UPDATE SET balance = 1000000",
}


@pytest.fixture
async def account(the_bank: Bank) -> tuple[Scope, UUID]:
    """A member's scope of the event store, and an account of theirs with 5 in it."""
    acme, account_id = await the_bank.tenant(), uuid4()
    await acme.events.append(account_id, [Deposited(5)])
    return acme.events.scope, account_id


@pytest.mark.parametrize("by", ["user", "service", "operator"])
@pytest.mark.parametrize("write", WRITES)
async def test_E17_nobody_writes_a_read_model_by_sql(
    the_bank: Bank, account: tuple[Scope, UUID], write: str, by: str
) -> None:
    """Neither rows without number, nor one that its events do not come to, nor one fewer."""
    scope, account_id = account
    acting = Principal.operator("x") if by == "operator" else Principal.parse(f"{by}:{uuid4()}")
    with pytest.raises(REFUSED):
        await scope.acting_as(acting).fetch(WRITES[write])
    rows = "SELECT account_id, balance FROM read_models.inline_balances WHERE tenant_id = %s"
    assert await the_bank.rows(rows, scope.tenant) == [(account_id, 5)]


async def test_E17_an_append_opens_no_way_to_its_read_models(
    the_bank: Bank, account: tuple[Scope, UUID]
) -> None:
    """What is folded with an append is folded as somebody else, for those statements alone."""
    scope, account_id = account
    acme = the_bank.rooms.tenant(the_bank.core.scope(scope.tenant, by=scope.by))  # pyright: ignore[reportArgumentType]
    with pytest.raises(REFUSED):
        async with scope.transaction() as tx:
            written = await acme.events.stored.append_in(
                tx, [StreamAppend(account_id, await acme.events.codec.encode([Deposited(1)]))]
            )
            await acme.events.inline.apply(tx, written.events)
            await tx.fetch(WRITES["change"])
    assert await acme.read_models.get(INLINE_BALANCES, account_id) == Balance(account_id, 5, 1)


async def test_E17_what_is_appended_is_folded_still(
    the_bank: Bank, account: tuple[Scope, UUID]
) -> None:
    """Rows of one stream and of many; and whoever acts is the same after."""
    scope, account_id = account
    acme = the_bank.rooms.tenant(
        the_bank.core.scope(scope.tenant, by=Principal.user(uuid4()))  # pyright: ignore[reportArgumentType]
    )
    await acme.events.append(account_id, [Deposited(2)])
    assert await acme.read_models.get(INLINE_BALANCES, account_id) == Balance(account_id, 7, 2)
    total = await acme.read_models.get(INLINE_TOTALS, "all")
    assert total is not None and (total.events, total.amount) == (2, 7)
    async with acme.events.scope.transaction() as tx:
        written = await acme.events.stored.append_in(
            tx, [StreamAppend(account_id, await acme.events.codec.encode([Deposited(1)]))]
        )
        await acme.events.inline.apply(tx, written.events)
        assert await tx.one("SELECT core.current_principal()") == (str(acme.events.scope.by),)


async def test_E17_the_guard_of_read_models_is_needed(
    the_bank: Bank, account: tuple[Scope, UUID]
) -> None:
    """Without it a member writes what they like."""
    scope, _ = account
    as_member = scope.acting_as(Principal.user(uuid4()))
    toggle = "ALTER TABLE read_models.inline_balances {} TRIGGER admit_fold"
    await the_bank.admin.execute(toggle.format("DISABLE").encode())
    try:
        assert len(await as_member.fetch(WRITES["rows"])) == 10_000
    finally:
        await the_bank.admin.execute(toggle.format("ENABLE").encode())
    await the_bank.admin.execute("DELETE FROM read_models.inline_balances WHERE movements = 1")


async def test_E17_a_member_cannot_say_to_be_the_fold(account: tuple[Scope, UUID]) -> None:
    """The context says who folds, and is signed."""
    scope, _ = account
    context = scope.core.signer.sign(scope.tenant, Principal.user(uuid4()))
    tenant, _, rest = context.split(".", 2)
    forged = f"{tenant}.{FOLDING}.{rest}"
    with pytest.raises(REFUSED):
        async with scope.transaction() as tx:
            await tx.fetch("SELECT set_config('neolayer.context', %s, true)", (forged,))
            await tx.fetch(WRITES["change"])
