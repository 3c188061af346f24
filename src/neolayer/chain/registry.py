"""Which networks there are: their names and chain ids, and when a new one becomes known.

A network that is new becomes known with its first good block, in the transaction that stores it. A
run that takes nothing in thus leaves nothing behind, and a chain id given by mistake does not
stick. Nothing is ever taken back, so runs side by side cannot pull a network from under each other.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from psycopg import Rollback

from neolayer.chain.batches import Batch, Source, ahead
from neolayer.chain.ingest import IngestReport, Progress, ingest
from neolayer.chain.model import BlockRows, Network
from neolayer.chain.networks import PRESETS
from neolayer.chain.outages import Outage, through_outages
from neolayer.chain.rules import years_of
from neolayer.chain.store import (
    BlockStore,
    Commit,
    ensure_partitions,
    errors_at_the_door,
    writing_connection,
)
from neolayer.engines.postgres.connections import Connection, connect
from neolayer.engines.postgres.queries import load_queries
from neolayer.errors import BadBlock, ChainError

sql = load_queries(__name__)


async def find_network(dsn: str, name: str, *, chain_id: int | None = None) -> Network:
    """The network of that name: a stored one, or, without an id yet, a preset or a new EVM chain.

    Raises ChainError where the name is new and no chain id is given, or where name and chain id
    contradict what is known; EngineUnavailable.
    """
    async with await _connected(dsn) as connection:
        return await _find(connection, name, chain_id)


async def network_of(dsn: str, name: str, *, chain_id: int | None = None) -> Network:
    """`ensure_network` over a connection of its own. Raises ChainError or EngineUnavailable."""
    async with await _connected(dsn) as connection:
        return await ensure_network(connection, name, chain_id=chain_id)


async def ensure_network(
    connection: Connection, name: str, *, chain_id: int | None = None
) -> Network:
    """The network as `find_network` finds it, made known where it is new: it has an id."""
    found = await _find(connection, name, chain_id)
    if found.id is not None:
        return found
    with errors_at_the_door(connection):
        await connection.execute(sql.insert_network, _values(found))
    return await _find(connection, name, found.chain_id)  # another run may have been first


async def ingest_as(
    source: Source,
    *,
    dsn: str,
    network: Network,
    blocks_per_commit: int | None = None,
    on_progress: Progress | None = None,
) -> IngestReport:
    """`ingest` into a network that may be new; it becomes known with its first stored block.

    Where no block is, the report has no position. Raises ChainError where another run has given the
    name or the chain id away meanwhile, and what `ingest` raises.
    """

    async def into(blocks: Source, known: Network, begun: IngestReport) -> IngestReport:
        return await ingest(
            blocks,
            dsn=dsn,
            network=known,
            blocks_per_commit=blocks_per_commit,
            on_progress=on_progress,
            begun=begun,
        )

    if network.id is not None:
        return await into(source, network, IngestReport())
    refused: list[BadBlock] = []
    async with aclosing(ahead(source, blocks_per_commit=blocks_per_commit)) as batches:
        async for batch in batches:
            refused += batch.bad
            if not batch.blocks:
                continue
            known, commit = await _begin(dsn, network, batch.blocks)
            refused += commit.refused
            if known is not None:
                begun = replace(IngestReport().plus(commit), refused=tuple(refused))
                async with aclosing(_items(batches)) as items:
                    return await into(items, known, begun)
    return IngestReport(refused=tuple(refused))


async def _begin(
    dsn: str, network: Network, blocks: Sequence[BlockRows]
) -> tuple[Network | None, Commit]:
    """Make a network known and store its first blocks; neither, where none can be stored."""

    async def work() -> tuple[Network | None, Commit]:
        async with writing_connection(dsn, network) as connection:
            await ensure_partitions(connection, years_of(blocks))  # for all: not in our transaction
            async with connection.transaction() as transaction:
                known = await ensure_network(connection, network.name, chain_id=network.chain_id)
                commit = await BlockStore(connection, known).commit(blocks)
                if commit.blocks or commit.skipped:
                    return known, commit
                raise Rollback(transaction)
            return None, commit

    return await through_outages(work, Outage())


async def _items(batches: AsyncGenerator[Batch]) -> AsyncGenerator[BlockRows | BadBlock]:
    async for batch in batches:
        for item in (*batch.bad, *batch.blocks):
            yield item


async def _connected(dsn: str) -> Connection:
    return await connect(dsn, autocommit=True, application_name="networks")


async def _find(connection: Connection, name: str, chain_id: int | None) -> Network:
    wanted = _wanted(name, chain_id)
    with errors_at_the_door(connection):
        stored = await _stored(connection, name, None if wanted is None else wanted.chain_id)
    found = stored or wanted
    if found is None:
        raise ChainError(
            f"network {name!r} is not known",
            hint=f"known are {', '.join(PRESETS)}; for another give its --chain-id",
        )
    if wanted is not None and wanted.chain_id != found.chain_id:
        raise ChainError(
            f"network {name!r} has chain id {found.chain_id}, not {wanted.chain_id}",
            hint="give another chain another name",
        )
    return found


_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")


def _wanted(name: str, chain_id: int | None) -> Network | None:
    if not _NAME.fullmatch(name):
        raise ChainError(
            f"{name!r} is no name of a network",
            hint="1 to 100 of a-z, 0-9, '.', '_' and '-', beginning with a letter or digit",
        )
    if chain_id is not None and not 0 < chain_id < 1 << 63:
        raise ChainError(f"chain id {chain_id} is not from 1 to 2^63-1")
    preset = PRESETS.get(name)
    if preset is None:
        return None if chain_id is None else Network(name=name, chain_id=chain_id, kind="evm")
    if chain_id not in (None, preset.chain_id):
        raise ChainError(
            f"network {name!r} has chain id {preset.chain_id}, not {chain_id}",
            hint="give another chain another name",
        )
    return preset


def _values(network: Network) -> dict[str, Any]:
    fields = ("name", "chain_id", "kind", "is_testnet", "finality_depth")
    return {name: getattr(network, name) for name in fields}


async def _stored(connection: Connection, name: str, chain_id: int | None) -> Network | None:
    cursor = await connection.execute(sql.networks_like, {"name": name, "chain_id": chain_id})
    rows = {row[1]: row for row in await cursor.fetchall()}
    if name not in rows and rows:
        (other,) = rows
        raise ChainError(
            f"chain id {chain_id} is stored as network {other!r}, not {name!r}",
            hint=f"use --network {other}",
        )
    if name not in rows:
        return None
    network_id, _, number, kind, is_testnet, depth = rows[name]
    return replace(
        PRESETS.get(name) or Network(name, number),
        chain_id=number,
        kind=kind,
        is_testnet=is_testnet,
        finality_depth=depth,
        id=network_id,
    )
