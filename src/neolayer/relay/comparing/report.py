"""What a comparison finds: the kinds of difference, one difference, and a table's report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from neolayer.position import Position
from neolayer.relay.comparable import Key
from neolayer.relay.comparing.keys import told

MOST_NAMED = 1_000


class Kind(StrEnum):
    """How a store's row differs from PostgreSQL's."""

    MISSING = "missing"  # PostgreSQL has the row, the store has not
    EXTRA = "extra"  # the store has a row that PostgreSQL has not
    DIFFERING = "differing"  # both have it, with other values
    STALE = "stale"  # the store has it as it was earlier
    ALTERED = "altered"  # as it should be by its checksum, and with other values all the same
    AHEAD = "ahead"  # the store's version is above everything that was committed


@dataclass(frozen=True, slots=True)
class Difference:
    """One row that is not what it should be, by its key, and the store's version of it.

    `columns` are those that differ, where they were looked at.
    """

    kind: Kind
    key: Key
    version: int | None
    columns: tuple[str, ...] = ()


@dataclass(slots=True)
class TableReport:
    """What a comparison of one table with one store came to.

    `differences` names the first thousand; `counts` counts all. `unsettled` keys changed whenever
    they were looked at. `transfers` are requests made to the store.
    """

    table: str
    store: str
    position: Position
    rows: int = 0
    counts: Counter[Kind] = field(default_factory=Counter[Kind])
    differences: list[Difference] = field(default_factory=list[Difference])
    unsettled: int = 0
    repaired: int = 0
    left: int = 0
    transfers: int = 0

    @property
    def total(self) -> int:
        """How many differences were found."""
        return self.counts.total()

    @property
    def agrees(self) -> bool:
        """Whether the store is equal now, be it by repair."""
        return self.left == 0 and self.repaired == self.total

    @property
    def room(self) -> int:
        """How many more differences are named."""
        return max(0, MOST_NAMED - len(self.differences))

    def note(self, found: Sequence[Difference]) -> None:
        """Count these, and name them while there is room."""
        self.counts.update(one.kind for one in found)
        self.differences += [
            replace(one, key=tuple(map(told, one.key))) for one in found[: self.room]
        ]

    def note_repair(self, tried: int, wrong: Collection[object]) -> None:
        """So many were put right, and these are wrong still."""
        self.left += len(wrong)
        self.repaired += tried - len(wrong)


Progress = Callable[[TableReport], None]
