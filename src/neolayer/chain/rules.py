"""What may join a chain that is already partly stored. Plain rules, no I/O.

Blocks come in any order and any number of times. A block that is stored already is skipped; one
that contradicts a stored block (another hash at its height, or a neighbour it does not fit) is
refused, because two sources disagree and neither is known to be right. Only who follows a node may
take a contradiction for a reorganisation.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from neolayer.chain.model import BLOCK_COLUMNS, BlockRows
from neolayer.errors import BadBlock

_VERIFICATION = [name for name, _ in BLOCK_COLUMNS].index("verification")
_GRADES = ("none", "transactions", "receipts")


@dataclass(frozen=True, slots=True)
class KnownBlock:
    """What is stored, or about to be, at one height."""

    block_hash: str
    parent_hash: str
    verification: str


@dataclass(frozen=True, slots=True)
class Sorted:
    """A batch after comparison with what is stored.

    `better` are the heights among `fresh` that are stored already, but with less than this block
    brings (its receipts came later): they are stored anew.
    """

    fresh: list[BlockRows] = field(default_factory=list[BlockRows])
    better: list[int] = field(default_factory=list[int])
    refused: list[BadBlock] = field(default_factory=list[BadBlock])
    skipped: int = 0


def heights_to_know(blocks: Iterable[BlockRows]) -> list[int]:
    """The heights of these blocks and of their neighbours."""
    return sorted({height for b in blocks for height in (b.number - 1, b.number, b.number + 1)})


def sort_out(blocks: Sequence[BlockRows], known: Mapping[int, KnownBlock]) -> Sorted:
    """Decide for each block, in order; a block counts as known to those after it."""
    seen = dict(known)
    fresh: list[BlockRows] = []
    better: list[int] = []
    refused: list[BadBlock] = []
    for block in blocks:
        at_height = seen.get(block.number)
        if reason := contradiction(block, seen):
            refused.append(BadBlock(reason, origin=block.origin, block=block.number))
        elif at_height is None or _is_better(block, at_height):
            if at_height is not None:
                fresh = [other for other in fresh if other.number != block.number]
                better.append(block.number)
            fresh.append(block)
            seen[block.number] = known_from(block)
    return Sorted(fresh, better, refused, len(blocks) - len(fresh) - len(refused))


def contradiction(block: BlockRows, known: Mapping[int, KnownBlock]) -> str | None:
    """Why the block cannot stand beside what is known, or None."""
    here, below, above = (known.get(block.number + step) for step in (0, -1, 1))
    if here is not None and here.block_hash != block.block_hash:
        return f"another block of this height is stored: {here.block_hash}"
    if below is not None and below.block_hash != block.parent_hash:
        return f"its parent is {block.parent_hash}, but {below.block_hash} is stored there"
    if above is not None and above.parent_hash != block.block_hash:
        return f"the block stored above it has the parent {above.parent_hash}"
    return None


def known_from(block: BlockRows) -> KnownBlock:
    return KnownBlock(block.block_hash, block.parent_hash, str(block.block[_VERIFICATION]))


def _is_better(block: BlockRows, stored: KnownBlock) -> bool:
    offered = str(block.block[_VERIFICATION])
    return offered == "receipts" and _GRADES.index(stored.verification) < _GRADES.index(offered)


def covered_ranges(numbers: Iterable[int]) -> str:
    """PostgreSQL's text of a multirange that holds exactly these numbers: `{[1,4),[7,8)}`."""
    ranges: list[list[int]] = []
    for number in sorted(set(numbers)):
        if ranges and ranges[-1][1] == number:
            ranges[-1][1] = number + 1
        else:
            ranges.append([number, number + 1])
    return "{" + ",".join(f"[{start},{end})" for start, end in ranges) + "}"


def years_of(blocks: Iterable[BlockRows]) -> set[int]:
    """The calendar years (UTC) whose partitions these blocks need."""
    return {datetime.fromtimestamp(block.timestamp, UTC).year for block in blocks}


def first_misfit(blocks: Sequence[BlockRows], parent_hash: str | None) -> BadBlock | None:
    """The first block that does not follow its predecessor, the first of which has this hash."""
    parent = parent_hash
    for block in blocks:
        if parent is not None and block.parent_hash != parent:
            reason = f"its parent is {block.parent_hash}, but {parent} comes before it"
            return BadBlock(reason, origin=block.origin, block=block.number)
        parent = block.block_hash
    return None
