"""Putting the rows of checked blocks into their tables, inside somebody's transaction.

Two roads. The straight one is binary COPY into the tables themselves: nothing is staged, nothing
looked up, and it serves where no transaction was ever seen before it was mined. The other stages
the transactions in a private table first, gives those already known their place in the block,
inserts the rest, and marks as replaced whatever waits with the sender and nonce of a mined one.
Which road fits is tried, not asked: the unique key over (network, hash) refuses the first.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, LiteralString
from uuid import UUID

from psycopg import sql as compose

from neolayer.chain.model import (
    BLOCK_COLUMNS,
    CONTRACT_COLUMNS,
    LOG_COLUMNS,
    TRANSACTION_COLUMNS,
    BlockRows,
    Columns,
    Row,
)
from neolayer.engines.postgres.connections import Connection
from neolayer.engines.postgres.copy import copy_rows
from neolayer.engines.postgres.queries import load_queries
from neolayer.errors import BadBlock

sql = load_queries(__name__)

_NETWORK: Columns = (("network_id", "uuid"),)
_BLOCKS: Columns = (*_NETWORK, *BLOCK_COLUMNS, ("is_final", "bool"))
_TRANSACTIONS: Columns = (*_NETWORK, *TRANSACTION_COLUMNS, ("confirmation_count", "int4"))
# What mining changes of a transaction that was seen before: all but its key.
_SETTLED: Columns = tuple(c for c in TRANSACTION_COLUMNS if c[0] != "transaction_hash")
_LOGS: Columns = (*_NETWORK, *LOG_COLUMNS)


@dataclass(frozen=True, slots=True)
class Horizon:
    """What decides about finality while rows are written: the highest final height, the Unix second
    before which every block is final (0: none is), and the confirmations that make one final."""

    final: int
    aged: int
    confirmations: int

    def is_final(self, block: BlockRows) -> bool:
        return block.number <= self.final or block.timestamp < self.aged

    def count(self, block: BlockRows) -> int:
        """The count to store: 0 until the block is final."""
        return self.confirmations if self.is_final(block) else 0

    def values(self) -> dict[str, Any]:
        aged = datetime.fromtimestamp(self.aged, UTC)
        return {"final": self.final, "aged": aged, "confirmations": self.confirmations}


def copy_statement(table: LiteralString, columns: Columns) -> LiteralString:
    names = ", ".join(name for name, _ in columns)
    return "COPY " + table + " (" + names + ") FROM STDIN (FORMAT BINARY)"


class RowWriter:
    """Writes rows of one network over one connection."""

    def __init__(self, connection: Connection, network_id: UUID, *, replaces: bool) -> None:
        """`replaces`: does a mined transaction rule out others of its sender and nonce?

        So it is on EVM chains; a Neo N3 nonce is only a random number.
        """
        self._connection = connection
        self._network_id = network_id
        self._replaces = replaces

    async def straight(self, blocks: Sequence[BlockRows], horizon: Horizon) -> None:
        """Store blocks whose transactions were never seen. Raises psycopg's UniqueViolation."""
        await self._copy("blockchain.transactions", _TRANSACTIONS, self._all(blocks, horizon))
        await self._beside_transactions(blocks, horizon)

    async def settling(self, blocks: Sequence[BlockRows], horizon: Horizon) -> None:
        """Store blocks some of whose transactions may be known. Raises BadBlock."""
        await self._connection.execute(self._composed(sql.stage_transactions, TRANSACTION_COLUMNS))
        rows = (row for block in blocks for row in block.transactions)
        await self._copy("incoming_transactions", TRANSACTION_COLUMNS, rows)
        await self._refuse_mined_elsewhere(blocks)
        await self._run(sql.settle_transactions, _SETTLED, **horizon.values())
        await self._run(sql.insert_transactions, TRANSACTION_COLUMNS, **horizon.values())
        if self._replaces:
            await self._run(sql.replace_transactions)
        await self._run(sql.empty_transactions)
        await self._beside_transactions(blocks, horizon)

    async def waiting(self, rows: Iterable[Row]) -> None:
        """Store transactions that wait to be mined, where they are not known."""
        await self._connection.execute(self._composed(sql.stage_transactions, TRANSACTION_COLUMNS))
        await self._copy("incoming_transactions", TRANSACTION_COLUMNS, rows)
        await self._run(sql.record_pending, TRANSACTION_COLUMNS)
        await self._run(sql.wait_again)

    async def forget(self, numbers: Sequence[int]) -> None:
        """Take stored blocks out again, to store them anew in the same transaction."""
        for query in (sql.forget_transactions, sql.forget_logs, sql.forget_blocks):
            await self._connection.execute(
                query, {"network_id": self._network_id, "numbers": list(numbers)}
            )

    async def _beside_transactions(self, blocks: Sequence[BlockRows], horizon: Horizon) -> None:
        headers = ((*block.block, horizon.is_final(block)) for block in blocks)
        await self._copy("blockchain.blocks", _BLOCKS, self._owned(headers))
        if any(block.logs for block in blocks):
            logs = (row for block in blocks for row in block.logs or ())
            await self._copy("blockchain.logs", _LOGS, self._owned(logs))
        if contracts := [row for block in blocks for row in block.contracts]:
            await self._connection.execute(self._composed(sql.stage_contracts, CONTRACT_COLUMNS))
            await self._copy("incoming_contracts", CONTRACT_COLUMNS, contracts)
            await self._run(sql.upsert_contracts, CONTRACT_COLUMNS)
            await self._run(sql.empty_contracts)

    async def _refuse_mined_elsewhere(self, blocks: Sequence[BlockRows]) -> None:
        cursor = await self._connection.execute(
            sql.mined_elsewhere, {"network_id": self._network_id}
        )
        if (found := await cursor.fetchone()) is None:
            return
        transaction_hash, number, stored = found
        origin = next(block.origin for block in blocks if block.number == number)
        reason = f"its transaction {transaction_hash} is stored in block {stored}"
        raise BadBlock(reason, origin=origin, block=number)

    def _all(self, blocks: Sequence[BlockRows], horizon: Horizon) -> Iterator[Row]:
        network_id = self._network_id
        for block in blocks:
            confirmations = horizon.count(block)
            for row in block.transactions:
                yield (network_id, *row, confirmations)

    def _owned(self, rows: Iterable[Row]) -> Iterator[Row]:
        network_id = self._network_id
        return ((network_id, *row) for row in rows)

    async def _copy(self, table: LiteralString, columns: Columns, rows: Iterable[Row]) -> None:
        async with self._connection.cursor() as cursor:
            types = [type_name for _, type_name in columns]
            await copy_rows(cursor, copy_statement(table, columns), types, rows)

    async def _run(self, query: LiteralString, columns: Columns = (), **values: Any) -> None:
        await self._connection.execute(
            self._composed(query, columns), {"network_id": self._network_id, **values}
        )

    @staticmethod
    def _composed(query: LiteralString, columns: Columns) -> compose.Composed:
        names = [name for name, _ in columns]
        return compose.SQL(query).format(
            columns=compose.SQL(", ").join(map(compose.Identifier, names)),
            incoming=compose.SQL(", ").join(compose.Identifier("i", name) for name in names),
        )


def total_rows(blocks: Sequence[BlockRows]) -> tuple[int, int, int]:
    """Transactions, logs and contracts in these blocks."""
    return (
        sum(len(block.transactions) for block in blocks),
        sum(len(block.logs or ()) for block in blocks),
        sum(len(block.contracts) for block in blocks),
    )
