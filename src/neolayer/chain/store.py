"""The verbs that write a chain: commit blocks, take a branch back.

A commit holds a batch of blocks, what they cover and the head: all of it or nothing. Either it has
the network to itself, or it shares it with others that store new blocks and looks at the end, one
at a time, whether everything still fits; so two writers of the same range come to one result.
Whoever reads the head therefore reads what is stored, after any crash.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, LiteralString, cast

import msgspec
import psycopg
from psycopg import errors as pg
from psycopg.rows import TupleRow
from psycopg.types.json import set_json_dumps

from neolayer.chain import reorg
from neolayer.chain.model import BlockRows, Network, Row
from neolayer.chain.rows import Horizon, RowWriter, total_rows
from neolayer.chain.rules import KnownBlock, covered_ranges, heights_to_know, sort_out, years_of
from neolayer.engines.postgres.connections import Connection, connect, no_room
from neolayer.engines.postgres.queries import load_queries
from neolayer.errors import BadBlock, ChainError, EngineUnavailable
from neolayer.position import Position

sql = load_queries(__name__)


FINAL_AFTER_S = 86_400


@dataclass(frozen=True, slots=True)
class Head:
    """The highest stored block of a network, and the highest final height (-1: none)."""

    number: int
    block_hash: str
    final: int


@dataclass(frozen=True, slots=True)
class Commit:
    """What one commit stored. `refused` are the blocks it did not take, each with its reason."""

    blocks: int = 0
    transactions: int = 0
    logs: int = 0
    contracts: int = 0
    skipped: int = 0
    refused: tuple[BadBlock, ...] = ()
    orphaned: int = 0


@dataclass(frozen=True, slots=True)
class Terms:
    """How a commit treats what it finds.

    `fork`: every stored block above that height is first taken back, in the same transaction.
    `all_or_none`: a refused block is raised as BadBlock, and nothing is stored.
    """

    fork: int | None = None
    all_or_none: bool = False


@dataclass(frozen=True, slots=True)
class _Before:
    """What is stored as a commit begins."""

    known: dict[int, KnownBlock]
    head: Head | None
    has_pending: bool


class _NotStraight(Exception):
    """The straight road is closed to this batch."""


class BlockStore:
    """Writes one network over one connection; made by `open_store`."""

    def __init__(
        self, connection: Connection, network: Network, *, old_is_final: bool = True
    ) -> None:
        if network.id is None:
            raise ValueError(f"network {network.name} has no id: see chain.registry")
        self._connection = connection
        self._network = network
        self._own = {"network_id": network.id}
        self._rows = RowWriter(connection, network.id, replaces=network.kind == "evm")
        self._old_is_final = old_is_final
        self._years: set[int] = set()

    @property
    def network(self) -> Network:
        return self._network

    @property
    def connection(self) -> Connection:
        return self._connection

    async def commit(self, blocks: Sequence[BlockRows], terms: Terms | None = None) -> Commit:
        """Store the blocks, what they cover and the head in one transaction.

        Blocks that are stored already are skipped; blocks that contradict stored ones, or that the
        database refuses, are returned in `refused`, and the rest is stored (see `Terms`).
        Raises EngineUnavailable where the server goes away; then nothing is stored, or all of it.
        """
        terms = terms or Terms()
        with errors_at_the_door(self._connection):
            await self._ensure_partitions(blocks)
            if terms.fork is None:
                with suppress(_NotStraight):
                    return await self._straight(blocks)
            return await self._locked(blocks, terms)

    async def _straight(self, blocks: Sequence[BlockRows]) -> Commit:
        """Write beside others who do the same, and take turns only at the end.

        Whoever may change what decided about a batch (a reorganisation, a waiting transaction,
        finality) needs the network alone, so that all that can come in between are other new
        blocks. Rows are written in one order by everybody, so that two who write the same wait for
        each other in one direction. Raises _NotStraight where something of the batch is known,
        flawed, waited for or contradicted.
        """
        blocks = sorted(blocks, key=lambda block: block.number)
        async with self._connection.transaction():
            before = await self._look(heights_to_know(blocks), sql.share_network)
            found = sort_out(blocks, before.known)
            if before.has_pending or found.better or found.refused:
                raise _NotStraight
            if found.fresh:
                try:
                    await self._rows.straight(found.fresh, self._horizon(found.fresh, before.head))
                    await self._look_again(found.fresh)
                except (pg.IntegrityError, pg.DataError, pg.DeadlockDetected) as exc:
                    raise _NotStraight from exc
                await self._advance(found.fresh)
            return Commit(len(found.fresh), *total_rows(found.fresh), found.skipped)

    async def _look_again(self, written: Sequence[BlockRows]) -> None:
        """Wait for one's turn; raises _NotStraight where a neighbour came that does not fit."""
        around = set(heights_to_know(written)) - {block.number for block in written}
        now = await self._look(sorted(around), sql.lock_commits)
        if sort_out(written, now.known).refused:
            raise _NotStraight

    async def _locked(self, blocks: Sequence[BlockRows], terms: Terms) -> Commit:
        """Ask first, under the lock, and write what may be written."""
        async with self._connection.transaction():
            orphaned = 0 if terms.fork is None else await self._take_back(terms.fork, blocks)
            before = await self._look(heights_to_know(blocks), sql.lock_network)
            found = sort_out(blocks, before.known)
            if found.better:
                await self._rows.forget(found.better)
            horizon = self._horizon(found.fresh, before.head)
            stored, refused = await self._settle(found.fresh, horizon)
            refused = (*found.refused, *refused)
            if terms.all_or_none and refused:
                raise refused[0]
            if stored:
                await self._advance(stored)
            return Commit(len(stored), *total_rows(stored), found.skipped, refused, orphaned)

    async def _take_back(self, fork: int, blocks: Sequence[BlockRows]) -> int:
        await self._connection.execute(sql.lock_network, self._own)
        return await reorg.take_back(self._connection, self._network, above=fork, branch=blocks)

    def _horizon(self, blocks: Sequence[BlockRows], stored: Head | None) -> Horizon:
        depth = self._network.finality_depth
        head = max([-1 if stored is None else stored.number, *(block.number for block in blocks)])
        final = max(-1 if stored is None else stored.final, head - depth)
        aged = int(time.time() - FINAL_AFTER_S) if self._old_is_final else 0
        return Horizon(final, aged, confirmations=depth + 1)

    async def _settle(
        self, blocks: list[BlockRows], horizon: Horizon
    ) -> tuple[list[BlockRows], list[BadBlock]]:
        """What was stored and what was not. A flawed block costs the others nothing but time."""
        if not blocks:
            return [], []
        try:
            async with self._connection.transaction():
                await self._rows.settling(blocks, horizon)
        except (pg.IntegrityError, pg.DataError, BadBlock) as exc:
            if len(blocks) == 1:
                return [], [_bad_block(exc, blocks[0])]
            return await self._settle_one_by_one(blocks, horizon)
        return blocks, []

    async def _settle_one_by_one(
        self, blocks: Sequence[BlockRows], horizon: Horizon
    ) -> tuple[list[BlockRows], list[BadBlock]]:
        stored: list[BlockRows] = []
        refused: list[BadBlock] = []
        for block in blocks:
            good, bad = await self._settle([block], horizon)
            stored += good
            refused += bad
        return stored, refused

    async def _advance(self, stored: Sequence[BlockRows]) -> None:
        top = max(stored, key=lambda block: block.number)
        covered = covered_ranges(block.number for block in stored)
        values = {"head_number": top.number, "head_hash": top.block_hash, "covered": covered}
        await self._connection.execute(sql.advance_head, {**self._own, **values})

    async def _look(self, numbers: Sequence[int], lock: LiteralString) -> _Before:
        """What is stored, read under a lock; asked at once, since each answer waited for is a turn
        of the event loop, and a thread that decodes takes its time with those."""
        heights = {**self._own, "numbers": list(numbers)}
        async with self._connection.pipeline():
            await self._connection.execute(lock, self._own)
            known = await self._connection.execute(sql.known_blocks, heights)
            head = await self._connection.execute(sql.head, self._own)
            pending = await self._connection.execute(sql.has_pending, self._own)
        (has_pending,) = cast(tuple[bool], await pending.fetchone())
        return _Before(_known(await known.fetchall()), _head(await head.fetchone()), has_pending)

    async def _ensure_partitions(self, blocks: Sequence[BlockRows]) -> None:
        if missing := years_of(blocks) - self._years:
            await ensure_partitions(self._connection, missing)
            self._years |= missing

    async def head(self) -> Head | None:
        """The highest stored block, or None."""
        with errors_at_the_door(self._connection):
            cursor = await self._connection.execute(sql.head, self._own)
            return _head(await cursor.fetchone())

    async def known(self, numbers: Sequence[int]) -> dict[int, KnownBlock]:
        """The stored blocks at these heights."""
        values = {**self._own, "numbers": list(numbers)}
        with errors_at_the_door(self._connection):
            cursor = await self._connection.execute(sql.known_blocks, values)
            return _known(await cursor.fetchall())

    async def record_pending(self, rows: Sequence[Row]) -> None:
        """Store transactions seen before they are mined, where they are not known yet."""
        with errors_at_the_door(self._connection):
            async with self._connection.transaction():
                await self._connection.execute(sql.lock_network, self._own)
                await self._rows.waiting(rows)

    async def pending(self, *, limit: int) -> list[str]:
        """The hashes of the transactions that wait, oldest first."""
        with errors_at_the_door(self._connection):
            cursor = await self._connection.execute(sql.pending, {**self._own, "limit": limit})
            return [transaction_hash for (transaction_hash,) in await cursor.fetchall()]

    async def drop_pending(self, hashes: Sequence[str]) -> None:
        """Mark waiting transactions as dropped; others are left as they are."""
        with errors_at_the_door(self._connection):
            await self._connection.execute(sql.drop_pending, {**self._own, "hashes": list(hashes)})

    async def position(self) -> Position:
        """A position at or above everything committed so far."""
        with errors_at_the_door(self._connection):
            cursor = await self._connection.execute(sql.position)
            (version,) = cast(tuple[int], await cursor.fetchone())
        return Position.from_version(version)


def _known(rows: Sequence[TupleRow]) -> dict[int, KnownBlock]:
    return {number: KnownBlock(*rest) for number, *rest in rows}


def _head(row: TupleRow | None) -> Head | None:
    if row is None:
        return None
    number, block_hash, final = row
    return Head(number, block_hash, -1 if final is None else final)


async def ensure_partitions(connection: Connection, years: Iterable[int]) -> None:
    """Make the partitions of these years, where they are missing."""
    for year in years:
        instant = f"{year}-01-01 00:00:00+00"
        async with connection.transaction():
            await connection.execute(sql.ensure_partitions, {"instant": instant})


@asynccontextmanager
async def open_store(
    dsn: str, network: Network, *, old_is_final: bool = True
) -> AsyncGenerator[BlockStore]:
    """A store over a connection of its own. Raises EngineUnavailable.

    With `old_is_final` a block older than a day counts as final the moment it arrives, so that a
    backfill writes each row once; who follows a node, and so knows its head, turns it off.
    """
    async with writing_connection(dsn, network) as connection:
        yield BlockStore(connection, network, old_is_final=old_is_final)


@asynccontextmanager
async def writing_connection(dsn: str, network: Network) -> AsyncGenerator[Connection]:
    """A connection as a `BlockStore` wants it. Raises EngineUnavailable."""
    connection = await connect(dsn, autocommit=True, application_name=f"ingest {network.name}")
    try:
        with errors_at_the_door(connection):
            await connection.execute(sql.keep_in_memory)
            await connection.execute(sql.compress_well)
        set_json_dumps(msgspec.json.encode, connection)
        yield connection
    finally:
        await connection.close()  # at once, whatever it was in the middle of


class errors_at_the_door:
    """Turns psycopg's lost connections and refusals into our errors; all others pass through.

    The errors name the server's address where the connection is given.
    """

    def __init__(self, connection: Connection | None = None) -> None:
        self._where = ""
        with suppress(psycopg.Error):  # one that is closed does not know any more
            if connection is not None:
                self._where = f"{connection.info.host}:{connection.info.port} "

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, exc: BaseException | None, _: Any) -> None:
        if isinstance(exc, pg.DiskFull):
            raise no_room(self._where.strip() or "the server", _first(exc)) from exc
        if isinstance(exc, pg.DeadlockDetected):
            raise EngineUnavailable(
                "postgres", f"{self._where}let another writer go first"
            ) from exc
        if isinstance(exc, psycopg.OperationalError | psycopg.InterfaceError):
            raise EngineUnavailable(
                "postgres", f"{self._where}went away while writing: {_first(exc)}"
            ) from exc
        if isinstance(exc, psycopg.Error):
            raise ChainError(f"postgres refused: {_first(exc)}") from exc


def _first(exc: BaseException) -> str:
    return (str(exc).strip() or type(exc).__name__).splitlines()[0]


def _bad_block(exc: Exception, block: BlockRows) -> BadBlock:
    if isinstance(exc, BadBlock):
        return exc
    refused = BadBlock(f"refused: {_first(exc)}", origin=block.origin, block=block.number)
    refused.__cause__ = exc
    return refused
