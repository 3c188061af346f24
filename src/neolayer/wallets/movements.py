"""A wallet's transactions and the sum of them: a tenant's wallets joined to public chain data.

Row-level security holds the wallet; the chain's tables have none, so their indexes serve as ever.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

from neolayer.engines.postgres.queries import load_queries
from neolayer.errors import InvalidInput
from neolayer.tenancy import Scope
from neolayer.tenancy.cursors import Pages
from neolayer.wallets.model import Balance, Movement, Page, WalletNotFound
from neolayer.wallets.paging import NEWEST, Place, require_limit

sql = load_queries(__name__, "movements.sql")


async def transactions(
    scope: Scope, wallet_id: UUID, *, after: str | None, limit: int
) -> Page[Movement]:
    """A page of what a wallet sent and received, newest first. Raises WalletNotFound."""
    pages = Pages(scope, "wallet transactions", {"wallet_id": wallet_id})
    place = NEWEST if after is None else Place.read(after, pages)
    rows = await scope.fetch(
        sql.wallet_transactions,
        {
            "wallet_id": wallet_id,
            "time": place.time,
            "index": place.index,
            "hash": place.key,
            "limit": require_limit(limit) + 1,
        },
    )
    if not rows:
        raise WalletNotFound
    found = [_movement(row) for row in rows if row[1] is not None]
    page = found[:limit]
    return Page(tuple(page), _place(page[-1]).text(pages) if len(found) > limit else None)


async def balance(scope: Scope, wallet_id: UUID, *, as_of_block: int | None) -> Balance:
    """The sum of a wallet's movements. Raises WalletNotFound."""
    if as_of_block is not None and not 0 <= as_of_block < 1 << 63:
        raise InvalidInput(f"block {as_of_block} is not from 0 to 2^63-1")
    row = await scope.one(sql.wallet_balance, {"wallet_id": wallet_id, "as_of_block": as_of_block})
    if row is None:
        raise WalletNotFound
    found, number, *sums = row
    return Balance(found, number, *(int(each) for each in sums))


def _movement(row: tuple[Any, ...]) -> Movement:
    _, direction, transaction_hash, sender, receiver, value, fee, *rest = row
    known = None if fee is None else int(fee)
    return Movement(direction, transaction_hash, sender, receiver, int(value), known, *rest)


def _place(item: Movement) -> Place:
    index = (1 << 31) - 1 if item.transaction_index is None else item.transaction_index
    return Place(item.block_timestamp, index, item.transaction_hash)
