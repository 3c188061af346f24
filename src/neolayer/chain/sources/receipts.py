"""Receipts set aside until their block comes by: they may stand anywhere in a set of files.

They are kept in a private database that SQLite keeps on disk and drops when closed, each with the
file it came from, because a receipt may be wrong where its block is right: one that names another
transaction or another block than it is of is refused by its own file, and of two that say different
things of one transaction it is the block's receiptsRoot that decides.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec

from neolayer.chain.wire import Block, receipts_decoder
from neolayer.errors import BadBlock, SourceError

_LINE = re.compile(r":\d+$")
# How many files that contradict others about one block are left out in turn.
_DOUBTED = 8
_SCHEMA = """
CREATE TABLE receipts (
    owner TEXT, place INTEGER, digest INTEGER, subject TEXT, content BLOB, origin TEXT,
    UNIQUE (owner, place, digest)
);
CREATE TABLE claimed (owner TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE lacking (subject TEXT PRIMARY KEY) WITHOUT ROWID;
"""
_BY_SUBJECT = "CREATE INDEX IF NOT EXISTS by_subject ON receipts (subject)"
_STRAY = """
SELECT r.origin, r.owner, r.subject FROM receipts AS r
WHERE r.owner NOT IN (SELECT owner FROM claimed) AND (
    r.subject IN (SELECT subject FROM lacking) OR EXISTS (
        SELECT 1 FROM receipts AS s JOIN claimed AS c ON c.owner = s.owner
        WHERE s.subject = r.subject
    )
)
"""


class Kept(NamedTuple):
    """A receipt as it stood. `owner` is its block and `subject` its transaction, both lower-case;
    an application log names no block and is its transaction's own."""

    owner: str
    place: int
    subject: str
    content: bytes
    origin: str

    @property
    def source(self) -> str:
        """The file, without the line."""
        return _LINE.sub("", self.origin)


@dataclass(frozen=True, slots=True)
class Found:
    """What is there for one block: for each of its transactions, in order, every receipt that is
    told of it; and those that are not the block's, each refused."""

    told: list[list[Kept]] = field(default_factory=list[list[Kept]])
    refused: list[BadBlock] = field(default_factory=list[BadBlock])

    def choices(self) -> Iterator[list[Kept]]:
        """One receipt for each transaction that has any: the first ones, then, where files
        contradict each other, those without one file after the other."""
        told = [several for several in self.told if several]
        if not told:
            return
        yield [several[0] for several in told]
        doubted = {each.source: None for several in told if len(several) > 1 for each in several}
        for source in [*doubted][:_DOUBTED]:
            yield [
                next((each for each in several if each.source != source), several[0])
                for several in told
            ]

    def contradicting(self, chosen: Sequence[Kept], number: int) -> Iterator[BadBlock]:
        """Receipts that were not chosen and differ in more than how they are written."""
        told = (several for several in self.told if several)
        for taken, several in zip(chosen, told, strict=True):
            for other in several:
                if other is not taken and not _is_the_same(other, taken):
                    reason = f"another receipt of transaction {taken.place} than {taken.origin} has"
                    yield BadBlock(reason, origin=other.origin, block=number)


def listed(receipts: Iterable[Kept]) -> bytes:
    """Their JSON list."""
    return b"[" + b",".join(each.content for each in receipts) + b"]"


def _is_the_same(one: Kept, other: Kept) -> bool:
    try:
        first, second = receipts_decoder.decode(listed((one, other)))
    except msgspec.DecodeError:
        return False
    return first == second


class Receipts:
    """All receipts of a set of files; `close` drops them."""

    def __init__(self) -> None:
        self._database = sqlite3.connect("")
        self._database.executescript(_SCHEMA)
        self._empty = True

    def add(self, receipts: Iterable[Kept]) -> None:
        """Set aside; the same once more changes nothing. Raises SourceError without room."""
        insert = "INSERT OR IGNORE INTO receipts VALUES (?, ?, ?, ?, ?, ?)"
        try:
            self._database.executemany(insert, map(self._row, receipts))
        except sqlite3.Error as exc:
            raise SourceError(f"receipts cannot be set aside in a temporary file: {exc}") from exc

    def _row(self, kept: Kept) -> tuple[str, int, int, str, bytes, str]:
        self._empty = False
        owner, place, subject, content, origin = kept
        # Python's own hash: 64 bits under a key that nobody knows.
        return owner, place, hash(content), subject, content, origin

    def of_block(self, block: Block, number: int | str) -> Found:
        """The receipts that name this block, sorted by its transactions."""
        found = Found()
        if self._empty:
            return found
        owner, named = block.hash.lower(), [item.hash.lower() for item in block.transactions]
        self._database.execute("INSERT OR IGNORE INTO claimed VALUES (?)", (owner,))
        kept = self._of(owner)
        found.told.extend([] for _ in (named if kept else ()))
        for each in kept:
            if 0 <= each.place < len(named) and named[each.place] == each.subject:
                found.told[each.place].append(each)
            else:
                found.refused.append(_foreign(each, number))
        lacking = [(name,) for name, told in zip(named, found.told, strict=False) if not told]
        self._database.executemany("INSERT OR IGNORE INTO lacking VALUES (?)", lacking)
        return found

    def of_transactions(self, hashes: Sequence[str]) -> Found:
        """The application logs of these transactions; the first one of each is taken."""
        found = Found()
        for each in () if self._empty else hashes:
            kept = self._of(each.lower())
            found.told.append(kept[:1])
            for other in kept[1:]:
                reason = f"another application log of {each[:66]} than {kept[0].origin} has"
                found.refused.append(BadBlock(reason, origin=other.origin))
        return found

    def strays(self) -> Iterator[BadBlock]:
        """Receipts that name a block which never came by, of transactions that another block
        holds."""
        unclaimed = "SELECT 1 FROM receipts WHERE owner NOT IN (SELECT owner FROM claimed) LIMIT 1"
        if self._database.execute(unclaimed).fetchone() is None:
            return
        self._database.execute(_BY_SUBJECT)
        for origin, owner, subject in self._database.execute(_STRAY):
            reason = f"a receipt of transaction {subject[:66]} names block {owner[:66]}"
            yield BadBlock(f"{reason}, but another block holds it", origin=origin)

    def _of(self, owner: str) -> list[Kept]:
        rows = self._database.execute(
            "SELECT owner, place, subject, content, origin FROM receipts"
            " WHERE owner = ? ORDER BY place, rowid",
            (owner,),
        )
        return list(map(Kept._make, rows))

    def close(self) -> None:
        self._database.close()


def _foreign(kept: Kept, number: int | str) -> BadBlock:
    reason = f"a receipt of transaction {kept.subject[:66]}, which is not at its place in the block"
    return BadBlock(reason, origin=kept.origin, block=number)
