"""Taking a branch back: the blocks above a fork point, and every row derived from them.

All of it happens in the transaction that stores the new branch, so no reader ever sees half of
each. Transactions of the orphaned blocks wait again: the new branch may hold them, another of the
same sender and nonce may, or the network may forget them. Nothing here asks how deep the fork lies:
"finalized" is what a node says, and a deeper reorganisation is still the truth.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from neolayer.chain.model import Network
from neolayer.engines.postgres.connections import Connection
from neolayer.engines.postgres.queries import load_queries

sql = load_queries(__name__)


async def take_back(
    connection: Connection, network: Network, *, above: int, heirs: Mapping[int, str]
) -> int:
    """Take back the stored blocks that follow `above` without a gap; their number.

    `heirs` names, by height, the blocks of the branch that takes their place. Call it inside a
    transaction that holds the network's lock.
    """
    values = {"network_id": network.id, "above": above}
    cursor = await connection.execute(sql.branch_end, values)
    (end,) = cast(tuple[int | None], await cursor.fetchone() or (None,))
    if end is None:
        return 0
    values |= {"end": end, "numbers": list(heirs), "hashes": list(heirs.values())}
    for query in (sql.remember_orphans, sql.forget_rehabilitated):
        await connection.execute(query, values)
    for query in (sql.orphan_logs, sql.orphan_contracts, sql.revive_replaced):
        await connection.execute(query, values)
    for query in (sql.orphan_transactions, sql.orphan_blocks, sql.lower_head):
        await connection.execute(query, values)
    return end - above - 1
