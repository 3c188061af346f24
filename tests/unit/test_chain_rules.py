"""The plain rules of what may join a chain, and how batches are cut: no database needed."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fixtures.fabricated import digest, fabricate, fabricate_chain

from neolayer.chain.batches import ROWS_PER_COMMIT, Batch, Source, ahead
from neolayer.chain.model import TRANSACTION_COLUMNS, BlockRows
from neolayer.chain.pending import pending_rows
from neolayer.chain.rows import Horizon
from neolayer.chain.rules import (
    contradiction,
    covered_ranges,
    first_misfit,
    known_from,
    sort_out,
    years_of,
)
from neolayer.chain.wire import Transaction
from neolayer.errors import BadBlock

CHAIN = fabricate_chain(range(10))


@given(st.permutations(CHAIN))
def test_order_means_nothing(blocks: list[BlockRows]) -> None:
    """The blocks of one chain never contradict each other, in whatever order they come."""
    found = sort_out(blocks, {})
    assert found.fresh == blocks
    assert (found.refused, found.skipped, found.better) == ([], 0, [])


@given(st.sets(st.integers(0, 40)))
def test_covered_ranges_hold_exactly_the_numbers(numbers: set[int]) -> None:
    """The multirange names every number given and no other, in as few ranges as can be."""
    text = covered_ranges(numbers)
    parts = [part for part in text.strip("{}").replace("),", ")|").split("|") if part]
    bounds = [tuple(map(int, part.strip("[)").split(","))) for part in parts]
    assert {n for first, end in bounds for n in range(first, end)} == numbers
    assert all(one[1] < other[0] for one, other in pairwise(bounds))


def test_contradictions_are_named() -> None:
    """Another hash at a height, below or above: each has its own reason."""
    known = {block.number: known_from(block) for block in (CHAIN[3], CHAIN[5])}
    assert contradiction(CHAIN[4], known) is None
    assert contradiction(CHAIN[3], known) is None
    rival = fabricate(3, CHAIN[2].block_hash, [], branch="'")
    below = fabricate(6, digest("elsewhere"), [])
    above = fabricate(4, CHAIN[3].block_hash, [], branch="'")
    assert "another block of this height" in (contradiction(rival, known) or "")
    assert "its parent is" in (contradiction(below, known) or "")
    assert "the block stored above it" in (contradiction(above, known) or "")


def test_a_branch_must_hang_together() -> None:
    """The first block that does not follow its predecessor is the misfit."""
    assert first_misfit(CHAIN, None) is None
    assert first_misfit(CHAIN[3:], CHAIN[2].block_hash) is None
    gap = first_misfit([*CHAIN[:4], *CHAIN[5:]], None)
    assert gap is not None and gap.block == 5
    wrong = first_misfit(CHAIN[3:], digest("elsewhere"))
    assert wrong is not None and wrong.block == 3


def test_final_by_depth_or_by_age() -> None:
    """A count is stored once a block is final: by its depth, or because it is old."""
    block = CHAIN[4]
    assert Horizon(final=3, aged=0, confirmations=65).count(block) == 0
    assert Horizon(final=4, aged=0, confirmations=65).count(block) == 65
    assert Horizon(final=-1, aged=block.timestamp + 1, confirmations=65).count(block) == 65
    assert Horizon(final=-1, aged=block.timestamp, confirmations=65).count(block) == 0


def test_years_are_utc() -> None:
    """A block one second before the year's end in UTC belongs to the old year."""
    last = int(datetime(2024, 12, 31, 23, 59, 59, tzinfo=UTC).timestamp())
    blocks = [fabricate(0, digest("g"), [], start_s=at) for at in (last, last + 1)]
    assert years_of(blocks) == {2024, 2025}


async def _cut(source: Source, blocks_per_commit: int | None = None) -> list[Batch]:
    return [batch async for batch in ahead(source, blocks_per_commit=blocks_per_commit)]


@pytest.mark.parametrize("size", [1, 3, 10, 11])
async def test_batches_hold_so_many_blocks(size: int) -> None:
    """Every block is in one batch, in order, and every batch but the last is full."""

    async def one_by_one() -> AsyncIterator[BlockRows]:
        for block in CHAIN:
            yield block

    for source in (CHAIN, one_by_one()):
        batches = await _cut(source, size)
        assert [block for batch in batches for block in batch.blocks] == CHAIN
        assert {len(batch.blocks) for batch in batches[:-1]} <= {size}


async def test_batches_close_at_a_number_of_rows() -> None:
    """Without a size a batch closes at about 4,000 rows, so memory has a bound."""
    big = fabricate_chain(range(6), transactions=1_000)
    batches = await _cut(big)
    assert [len(batch.blocks) for batch in batches] == [2, 2, 2]
    assert all(batch.rows <= ROWS_PER_COMMIT + 2_001 for batch in batches)


async def test_one_batch_ahead_in_one_thread() -> None:
    """A source is read by one thread, never more than one batch ahead, and closed at the end."""
    taken: list[int] = []
    threads: set[int] = set()
    closed = threading.Event()

    def source() -> Iterator[BlockRows | BadBlock]:
        try:
            for block in CHAIN:
                taken.append(block.number)
                threads.add(threading.get_ident())
                yield block
        finally:
            threads.add(threading.get_ident())
            closed.set()

    batches = ahead(source(), blocks_per_commit=2)
    await anext(batches)
    while len(taken) < 4:
        await asyncio.sleep(0)
    await asyncio.sleep(0.05)
    assert len(taken) == 4
    await batches.aclose()
    assert closed.wait(5)
    assert len(threads) == 1
    assert threading.get_ident() not in threads


async def test_a_source_that_fails() -> None:
    """What a source raises comes out, after the batches before it."""

    def source() -> Iterator[BlockRows | BadBlock]:
        yield from CHAIN[:4]
        raise OSError("the disk is gone")

    seen: list[Batch] = []
    with pytest.raises(OSError, match="disk"):
        async for batch in ahead(source(), blocks_per_commit=2):
            seen.append(batch)
    assert [len(batch.blocks) for batch in seen] == [2, 2]


def test_malformed_waiting_transactions_are_left_out() -> None:
    """A node's pool may hold anything; only what fits the table is taken."""
    sender = "0x" + "AB" * 20
    quantities = {"nonce": "0x1", "gas": "0x5208", "value": "0x0", "input": "0xABCD"}
    good = Transaction(hash="0x" + "AB" * 32, sender=sender, **quantities)
    bad = Transaction(hash="0x12", sender=sender, **quantities)
    seen_at = datetime.now(UTC)
    (row,) = pending_rows([good, bad], seen_at=seen_at)
    values = dict(zip([name for name, _ in TRANSACTION_COLUMNS], row, strict=True))
    assert values["transaction_hash"] == "0x" + "ab" * 32
    assert (values["status"], values["block_number"]) == ("pending", None)
    assert (values["input_data"], values["block_timestamp"]) == ("0xabcd", seen_at)
