"""Taking a branch back: the blocks above a fork point, and every row derived from them.

All of it happens in the transaction that stores the new branch, so no reader ever sees half of
each. Transactions of the orphaned blocks wait again: the new branch may hold them, another of the
same sender and nonce may, or the network may forget them. Nothing here asks how deep the fork lies:
"finalized" is what a node says, and a deeper reorganisation is still the truth.

Blocks may be stored above a gap: islands, of which nobody knows to what branch they belong until
the new branch comes near. What it contradicts of them is taken back like the old branch, and what
it does not stays.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, cast

from neolayer.chain.model import TRANSACTION_COLUMNS, BlockRows, Network
from neolayer.engines.postgres.connections import Connection
from neolayer.engines.postgres.queries import load_queries

sql = load_queries(__name__)

_TRANSACTION_HASH = [name for name, _ in TRANSACTION_COLUMNS].index("transaction_hash")


class Store(Protocol):
    """A network, and a connection to what is stored of it."""

    @property
    def network(self) -> Network: ...

    @property
    def connection(self) -> Connection: ...


# In this order: what follows from blocks first, the blocks themselves last.
_DERIVED = (
    sql.remember_orphans,
    sql.orphan_logs,
    sql.restore_contracts,
    sql.orphan_contracts,
    sql.revive_replaced,
    sql.orphan_transactions,
    sql.orphan_blocks,
)


async def take_back(
    connection: Connection, network: Network, *, above: int, branch: Sequence[BlockRows]
) -> int:
    """Take back the stored blocks that the branch rules out; their number.

    These are the blocks that follow `above` without a gap, and whatever else above it contradicts
    the branch, which begins there. Call it inside a transaction that holds the network's lock.
    """
    heirs = {block.number: block.block_hash for block in branch}
    values: dict[str, Any] = {
        "network_id": network.id,
        "above": above,
        "numbers": list(heirs),
        "hashes": list(heirs.values()),
    }
    mined = [row[_TRANSACTION_HASH] for block in branch for row in block.transactions]
    cursor = await connection.execute(sql.ruled_out, {**values, "transactions": mined})
    ranges = cast(list[tuple[int, int]], await cursor.fetchall())
    if not ranges:
        return 0
    for below, end in ranges:
        for query in _DERIVED:
            await connection.execute(query, {**values, "above": below, "end": end})
    await connection.execute(sql.forget_rehabilitated, values)
    taken = "{" + ",".join(f"[{below + 1},{end})" for below, end in ranges) + "}"
    await connection.execute(sql.lower_head, {**values, "taken": taken})
    return sum(end - below - 1 for below, end in ranges)


async def highest_stored(store: Store, *, up_to: int) -> int | None:
    """The height of the highest stored block up to a height, or None."""
    values = {"network_id": store.network.id, "up_to": up_to}
    cursor = await store.connection.execute(sql.highest_stored, values)
    (highest,) = cast(tuple[int | None], await cursor.fetchone())
    return highest
