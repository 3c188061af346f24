"""Writing down that blocks are final: once a block, in bounded commits.

Until then a transaction's confirmations are counted from the head by whoever asks
(`blockchain.transactions_current`), because rewriting every row at every block would cost more than
storing it did. What is stored then is the count that made the block final, whenever and in whatever
order it came. Whoever ingests old blocks below the final height never comes here: they are final as
they are inserted.
"""

from __future__ import annotations

from typing import Any, cast

from neolayer.chain.store import BlockStore, errors_at_the_door
from neolayer.engines.postgres.queries import load_queries

sql = load_queries(__name__)

BLOCKS_PER_COMMIT = 32


async def finalise(store: BlockStore, *, node_final: int | None = None) -> int:
    """Mark every stored block that has become final; how many transactions were stamped.

    A block is final under the network's depth of blocks, or where the node says so (`node_final`).
    Stops early, harmlessly, at any await.
    """
    if (head := await store.head()) is None:
        return 0
    by_depth = head.number - store.network.finality_depth
    target = min(head.number, max(by_depth, -1 if node_final is None else node_final))
    stamped = 0
    while head.final < target:
        reached, rows = await _stamp(store, after=head.final, target=target)
        stamped += rows
        head = await store.head()
        if head is None or reached >= target:
            break
    return stamped


async def _stamp(store: BlockStore, *, after: int, target: int) -> tuple[int, int]:
    """One commit: the height now final, and the transactions it stamped."""
    network_id = store.network.id
    values = {
        "network_id": network_id,
        "after": after,
        "target": target,
        "limit": BLOCKS_PER_COMMIT,
        "confirmations": store.network.finality_depth + 1,
    }
    with errors_at_the_door(store.connection):
        async with store.connection.transaction():
            await store.connection.execute(sql.lock_network, {"network_id": network_id})
            cursor = await store.connection.execute(sql.next_to_finalise, values)
            (reached,) = cast(tuple[Any, ...], await cursor.fetchone())
            values["reached"] = reached
            cursor = await store.connection.execute(sql.finalise, values)
            await store.connection.execute(sql.raise_final, values)
    return reached, cursor.rowcount
