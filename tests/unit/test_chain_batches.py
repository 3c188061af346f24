"""What waits in memory between a source of blocks and the server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from neolayer.chain.batches import BLOCKS_PER_COMMIT, Batch, ahead
from neolayer.errors import BadBlock


def refusals(number: int) -> Iterator[BadBlock]:
    for height in range(number):
        try:
            raise BadBlock("no block", origin="a node", block=height) from ValueError("why")
        except BadBlock as exc:
            yield exc


@pytest.mark.parametrize("blocks_per_commit", [None, 5])
async def test_batches_of_refusals_close_too(blocks_per_commit: int | None) -> None:
    """A source of bad blocks only does not gather them all before the first is told."""
    sizes: list[int] = []
    async for batch in ahead(refusals(2_500), blocks_per_commit=blocks_per_commit):
        sizes.append(len(batch.bad))
    assert sizes == [BLOCKS_PER_COMMIT, BLOCKS_PER_COMMIT, 500]


def test_a_refusal_does_not_keep_its_block() -> None:
    """What is kept until the end of a run is the reason and its causes, not the frames that hold
    the block as it came."""
    batch = Batch()
    for bad in refusals(1):
        assert bad.__traceback__ is not None
        batch.add(bad)
    (kept,) = batch.bad
    assert kept.__traceback__ is None
    assert isinstance(kept.__cause__, ValueError)
