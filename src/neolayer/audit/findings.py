"""What a verification can find, and the check of one chain, entry by entry, without any I/O.

A seal covers the entry, its number and the seal before it. So an entry whose seal does not fit was
changed or moved; one whose seal fits, but which the next entry does not name, was sealed anew; a
number that is absent is an entry that was removed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final
from uuid import UUID

from neolayer.audit.encoding import FIRST_PREVIOUS, seal
from neolayer.audit.sealer import Head

_SUSPECTS: Final = 200  # so many that do not fit are compared with one another's places


class Kind(StrEnum):
    """How a chain differs from what was sealed."""

    EDITED = "edited"
    REORDERED = "reordered"
    INSERTED = "inserted"
    REMOVED = "removed"
    TRUNCATED = "truncated"
    RESEALED = "resealed"
    REWRITTEN = "rewritten"
    ANCHOR_MISSING = "anchor missing"
    ANCHOR_CHANGED = "anchor changed"

    @property
    def is_of_an_anchor(self) -> bool:
        """Whether the anchor itself is what differs."""
        return self in (Kind.ANCHOR_MISSING, Kind.ANCHOR_CHANGED)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it was sealed or anchored.

    `tenant` is None in the chain of no tenant; `number` is the place in the chain (or the anchor's
    number), `entry` the row's id where there is a row.
    """

    kind: Kind
    tenant: UUID | None
    number: int
    entry: UUID | None
    what: str


@dataclass(frozen=True, slots=True)
class Link:
    """A sealed entry as it is stored now; fields from tenant_id to sealed_at."""

    id: UUID
    number: int
    previous: bytes
    hash: bytes
    fields: Sequence[str | None]

    @property
    def fits(self) -> bool:
        """Whether the seal is that of this content in this place."""
        return seal(self.number, self.previous, self.fields) == self.hash


def missing(first: int, last: int) -> str:
    """Entries that are not there, in words."""
    count = last - first + 1
    gone = f"entry {first} is" if count == 1 else f"{count} entries, {first} to {last}, are"
    return f"{gone} missing"


@dataclass(slots=True)
class ChainCheck:
    """One chain, link by link in the order of their numbers; findings as they come up."""

    tenant: UUID | None
    checked: int = 0
    _last: Link | None = None
    _suspects: list[Link] = field(default_factory=list[Link])
    _last_is_suspect: bool = False

    def take(self, link: Link) -> Iterator[Finding]:
        """The next link. Raises nothing: whatever is wrong is a finding."""
        self.checked += 1
        last = self._last
        number = last.number if last else 0
        if last is not None and link.number <= number:
            yield self._doubled(last, link)
            return
        if link.number > number + 1:
            yield self._removed(number + 1, link.number - 1, f"before entry {link.id}")
        suspect = not link.fits
        if suspect:
            yield from self._suspect(link)
        elif link.number == number + 1:
            yield from self._linked(link)
        self._last, self._last_is_suspect = link, suspect

    def _doubled(self, last: Link, link: Link) -> Finding:
        """Two of one number: the one that does not fit was put in, else the second one."""
        true, false = last, link
        if self._last_is_suspect and link.fits:
            true, false = link, last
            self._suspects = [each for each in self._suspects if each is not last]
            self._last, self._last_is_suspect = link, False
        return self._finding(Kind.INSERTED, false, f"it bears the number of entry {true.id}")

    def _linked(self, link: Link) -> Iterator[Finding]:
        named = self._last.hash if self._last else FIRST_PREVIOUS
        if link.previous == named or self._last_is_suspect:
            return
        if self._last is None:
            yield self._finding(Kind.RESEALED, link, "it is first and names an entry before it")
        else:
            what = f"the next entry {link.id} names another seal than it has now"
            yield self._finding(Kind.RESEALED, self._last, what)

    def _suspect(self, link: Link) -> Iterator[Finding]:
        if len(self._suspects) < _SUSPECTS:
            self._suspects.append(link)
        else:
            yield self._edited(link)

    def end(self, head: Head | None) -> Iterator[Finding]:
        """After the last link: what was moved or edited, and whether the tail is all there."""
        for link in self._suspects:
            place = self._sealed_place(link)
            if place is None:
                yield self._edited(link)
            else:
                yield self._finding(Kind.REORDERED, link, f"it was sealed as number {place}")
        yield from self._tail(head)

    def _tail(self, head: Head | None) -> Iterator[Finding]:
        last = self._last
        number = last.number if last else 0
        if head is None:
            if last is not None:
                yield self._finding(Kind.TRUNCATED, last, "the chain's head is gone")
        elif number < head.number:
            yield self._removed(number + 1, head.number, "at the end", kind=Kind.TRUNCATED)
        elif last is not None and number > head.number:
            what = f"it stands after the chain's head, which is number {head.number}"
            yield self._finding(Kind.INSERTED, last, what)
        elif last is not None and last.hash != head.hash and not self._last_is_suspect:
            yield self._finding(Kind.RESEALED, last, "the chain's head has another seal")

    def _sealed_place(self, link: Link) -> int | None:
        """The number at which a link that does not fit was sealed, where that can be found."""
        near = (link.number - 1, link.number + 1)
        for number in (*near, *(other.number for other in self._suspects)):
            if seal(number, link.previous, link.fields) == link.hash:
                return number
        for other in self._suspects:  # with everything of the chain exchanged between two rows
            fields = (*link.fields[:-1], other.fields[-1])
            if other is not link and seal(other.number, other.previous, fields) == other.hash:
                return other.number
        return None

    def _edited(self, link: Link) -> Finding:
        return self._finding(Kind.EDITED, link, "its content is not what was sealed")

    def _removed(self, first: int, last: int, where: str, *, kind: Kind = Kind.REMOVED) -> Finding:
        return Finding(kind, self.tenant, first, None, f"{missing(first, last)} {where}")

    def _finding(self, kind: Kind, link: Link, what: str) -> Finding:
        return Finding(kind, self.tenant, link.number, link.id, what)
