"""Our own decoder of pgoutput, built for rows per second in plain Python.

A row comes as `N`, a two-byte column count and, per column, `n` (null), `u` (unchanged TOAST) or
`t`, a four-byte length and text. Taking that apart column by column in Python costs 6.5 us for a
row of 30 columns. But MessagePack writes almost the same bytes: an array is 0xDC and a two-byte
count, bytes are 0xC6, a four-byte length and data, and `n` and `u` are small integers. So only the
`t` must change, and a `t` that starts a column is known by the two zero bytes that follow it:
PostgreSQL's text never holds a zero byte. Two `bytes.replace` over a page of rows and one msgspec
call later, all in C, the same row has cost 2.3 us.

The two zero bytes are there while a value is shorter than 64 KiB; a longer message is rewritten
column by column. Under that bound no length can be taken for a column's start either, because its
bytes are followed by text.

Messages stay packed, in pages, until a sink asks for rows. Small pages, because they stay in the
processor's cache: at 5,000 rows a page the same work takes twice as long.

`Begin` names the commit position, so every row can go on at once, however large its transaction is.
A transaction's version is the first position behind the beginning of its commit record: so a
position reflects a transaction exactly where it is not below that version. Of a transaction that
the server sends before it commits that position is not known yet: its messages go to the spool
(`spool.py`), and come back from there when it commits.

A large transaction is told in parts, and a key may change in several of them. The record of a
commit is 40 bytes or longer, and no position lies inside it; so each part takes the next number of
those as its version. Where a part ends depends on the transaction's bytes alone, so a transaction
that is read again is cut alike, and a key under one version has one value: a part that comes twice,
late or behind a later one changes nothing. Only the parts beyond the fortieth (640 MiB) share a
version: of those the last told wins.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Final

from neolayer.errors import RelayError
from neolayer.position import Position, pack_version
from neolayer.relay.changes import (
    DELETE,
    INSERT,
    ROWS_PER_PAGE,
    UPDATE,
    UPDATE_WITH_KEY,
    UPDATE_WITH_OLD,
    Batch,
    Relation,
    TableChanges,
    Truncation,
)
from neolayer.relay.spool import Spool
from neolayer.relay.table_names import TableNames

# A batch is cut at the first commit beyond either.
BATCH_ROWS = 8_192
BATCH_BYTES = 8 << 20
# A part of a transaction ends behind the first row beyond it.
PART_BYTES = 16 << 20
# The shortest commit record; where a transaction has more parts, the rest of them share the last.
PARTS: Final = 40

_WAL_DATA, _KEEPALIVE = b"wk"
_PIECE_END = ord("E")
_INSIDE: Final = b"RIUDT"  # what of a piece concerns anybody
_NUMBER: Final = 4  # bytes of a transaction's number
_UNREADABLE = (struct.error, IndexError, KeyError, ValueError, OverflowError)
_STREAM_COMMIT_BYTES: Final = 29  # transaction, flags, commit position, its end, time
_NEW, _OLD, _OLD_KEY, _TEXT, _NULL, _UNCHANGED = b"NOKtnu"
_HEADER: Final = 25  # kind, start of the data in the log, end of the log, send time
_FULL: Final = ord("f")  # REPLICA IDENTITY FULL
_IDENTIFIES: Final = 1  # a column's flag: it is of the replica identity
_WIDEST: Final = 127  # columns: a count of two small integers in MessagePack
_LONG: Final = 0xFFFF

_u16 = struct.Struct(">H").unpack_from
_u32 = struct.Struct(">I").unpack_from
_u64 = struct.Struct(">Q").unpack_from
_i64 = struct.Struct(">q").unpack_from
_POSTGRES_EPOCH_S = 946_684_800


class _OpenTable:
    """The changes of one table that are being gathered, its last page still open."""

    __slots__ = ("changes", "parts", "version")

    def __init__(self, relation: Relation) -> None:
        self.changes = TableChanges(relation)
        self.parts: list[memoryview | bytes] = []
        self.version = -1

    def mark(self, version: int) -> None:
        """Changes from here on bear this version."""
        self.version = version
        self.changes.versions.append(version)
        self.changes.starts.append(len(self.changes.kinds))

    def close_page(self) -> None:
        if not self.parts:
            return
        packed = b"\xdc" + b"\xdc".join(self.parts)
        packed = packed.replace(b"t\0\0\0", b"\xc6\0\0\0").replace(b"t\0\0", b"\xc6\0\0")
        self._add_page(len(self.parts), packed)
        self.parts.clear()

    def add_long(self, packed: bytes) -> None:
        """A row that was rewritten column by column is a page of its own."""
        self.close_page()
        self._add_page(1, b"\xdc" + packed)

    def _add_page(self, rows: int, packed: bytes) -> None:
        self.changes.pages.append(b"\xdd" + rows.to_bytes(4, "big") + packed)


class Decoder:
    """Feed it the stream's messages in order, take batches out. One decoder a connection.

    `position` is how far the stream is known to be complete, as a log position (not packed). It
    begins at `after`, from where on the stream was asked for: until the server gets there, its
    keepalives tell of the slot's own, earlier place.
    Without a spool the stream must not send transactions before they commit. Without `names` tables
    are what they are called.
    """

    def __init__(
        self,
        *,
        epoch: int,
        spool: Spool | None = None,
        after: int = 0,
        names: TableNames | None = None,
    ) -> None:
        self._epoch = epoch
        self._spool = spool
        self._names = names
        self._in_piece = False
        self._replaying: Iterator[bool | None] = iter(())
        self._relations: dict[int, Relation] = {}
        self._open: dict[int, _OpenTable] = {}
        self._changes: list[TableChanges | Truncation] = []
        self._version = self._first_version = 0
        self._part_full_at = 0
        self._committed_at: float | None = None
        self._other: dict[int, Callable[[bytes], bool | None]] = {
            ord("B"): self._begin,
            ord("C"): self._commit,
            ord("R"): self._relation,
            ord("T"): self._truncate,
            ord("S"): self._begin_piece,
            ord("c"): self._commit_pieces,
            ord("A"): self._abort_pieces,
            ord("Y"): _ignore,  # type: the values are text
            ord("O"): _ignore,  # origin: another cluster's commit, the same change
            ord("M"): _ignore,  # a logical message: nobody here listens yet
        }
        self._taken_position = self.position = after
        self.in_transaction = False
        self.asked = False
        self.rows = 0
        self.size = 0

    def feed(self, message: memoryview) -> bool | None:
        """One message of the replication stream; true where it is time to `take` or to `replay`.

        Raises RelayError on anything unknown.
        """
        try:
            if message[0] == _WAL_DATA:
                tag = message[_HEADER]
                if self._in_piece:
                    self._piece(message, tag)
                elif tag == INSERT:
                    return self._row(message, tag)
                else:
                    return self._message(message, tag)
            elif message[0] == _KEEPALIVE:
                self._keepalive(message)
            else:
                raise RelayError(f"unknown replication message {bytes(message[:1])!r}")
        except _UNREADABLE as exc:
            raise _cannot_read(message) from exc
        return None

    def replay(self, *, limit: int) -> int:
        """Feed up to `limit` messages of a large transaction that has committed; how many it were.

        Stops early where it is time to `take`. Comes before the next message of the stream. Raises
        RelayError.
        """
        fed = 0
        for is_full in islice(self._replaying, limit):
            fed += 1
            if is_full:
                break
        return fed

    def take(self) -> Batch | None:
        """What was fed since the last take; None where neither rows nor the position moved."""
        for table in self._open.values():
            table.close_page()
        if not self._changes and self.position == self._taken_position:
            return None
        batch = Batch(
            changes=tuple(self._changes),
            position=pack_version(self._epoch, self.position),
            unfinished=self._first_version if self.in_transaction else None,
            rows=self.rows,
            size=self.size,
            committed_at=self._committed_at,
        )
        self._open.clear()
        self._changes.clear()
        self._taken_position = self.position
        self.rows = self.size = 0
        if self.in_transaction:
            self._begin_part()
            self._part_full_at = PART_BYTES
        return batch

    @property
    def expects_more(self) -> bool:
        """Whether the stream stands inside a transaction, or a piece of one."""
        return self.in_transaction or self._in_piece

    @property
    def is_part_full(self) -> bool:
        """Whether the transaction goes on in another batch."""
        return self.in_transaction and self.size >= self._part_full_at

    # Rows: the hot path.

    def _row(self, message: memoryview, kind: int) -> bool:
        """A change with one tuple, which starts behind tag, relation and the tuple's own mark.

        True where its part of the transaction is full.
        """
        relation_id = _u32(message, 26)[0]
        table = self._open.get(relation_id) or self._open_table(relation_id)
        if table.version != self._version:
            table.mark(self._version)
        size = len(message)
        if size > _LONG:
            table.add_long(_repack(message, 31)[0])
        else:
            parts = table.parts
            parts.append(message[31:])
            if len(parts) == ROWS_PER_PAGE:
                table.close_page()
        table.changes.kinds.append(kind)
        self.rows += 1
        self.size += size
        return self.size >= self._part_full_at

    def _message(self, message: memoryview, tag: int) -> bool | None:
        """Any message; its body stands behind the header and the tag."""
        if tag == INSERT:
            return self._row(message, tag)
        if tag in (UPDATE, DELETE):
            return self._update_or_delete(message, tag)
        return self._other[tag](message[_HEADER + 1 :].tobytes())

    def _update_or_delete(self, message: memoryview, tag: int) -> bool:
        mark = message[30]
        if tag == DELETE and mark in (_OLD, _OLD_KEY):
            return self._row(message, DELETE)
        if tag == UPDATE and mark == _NEW:
            return self._row(message, UPDATE)
        if tag == UPDATE and mark in (_OLD, _OLD_KEY):
            return self._row_with_old(message, UPDATE_WITH_OLD if mark == _OLD else UPDATE_WITH_KEY)
        raise ValueError(mark)

    def _row_with_old(self, message: memoryview, kind: int) -> bool:
        """Both rows become one array, which `changes.py` splits again."""
        relation_id = _u32(message, 26)[0]
        table = self._open.get(relation_id) or self._open_table(relation_id)
        width = len(table.changes.relation.columns)
        if width > _WIDEST:
            raise RelayError(
                f"table {table.changes.relation.table} has {width} columns; updates that carry "
                f"the old row are read up to {_WIDEST}"
            )
        if table.version != self._version:
            table.mark(self._version)
        head = (2 * width + 5).to_bytes(2, "big")
        if len(message) > _LONG:
            old, end = _repack(message, 31)
            new, _ = _repack(message, end + 1)
            table.add_long(head + old + b"N" + new)
        else:
            table.parts.append(head + message[31:])
            if len(table.parts) == ROWS_PER_PAGE:
                table.close_page()
        table.changes.kinds.append(kind)
        self.rows += 1
        self.size += len(message)
        return self.size >= self._part_full_at

    def _open_table(self, relation_id: int) -> _OpenTable:
        table = self._open[relation_id] = _OpenTable(self._relations[relation_id])
        self._changes.append(table.changes)
        return table

    def _close_table(self, relation_id: int) -> None:
        table = self._open.pop(relation_id, None)
        if table is not None:
            table.close_page()

    # Everything else.

    def _begin(self, body: bytes) -> None:
        if self.in_transaction:
            raise ValueError("a transaction begins inside another")
        # The commit record may begin where a keepalive's position ends, which lacks it still.
        self._version = self._first_version = pack_version(self._epoch, _u64(body, 0)[0] + 1)
        self._part_full_at = self.size + PART_BYTES
        self.in_transaction = True

    def _commit(self, body: bytes) -> bool:
        if not self.in_transaction:
            raise ValueError("a commit without a transaction")
        self.position = max(self.position, _u64(body, 9)[0])
        self._committed_at = _i64(body, 17)[0] / 1_000_000 + _POSTGRES_EPOCH_S
        self.in_transaction = False
        return self.rows >= BATCH_ROWS or self.size >= BATCH_BYTES

    def _relation(self, body: bytes) -> None:
        """Sent before a table's first change, and again after its description changed.

        Raises TableRenamed.
        """
        relation = _read_relation(body)
        if self._names is not None:
            committed = Position.from_version(self._first_version).lsn
            relation = self._names.named(relation, committed)
        if self._relations.get(relation.id) != relation:
            self._close_table(relation.id)
            self._relations[relation.id] = relation

    def _begin_part(self) -> None:
        self._version = min(self._version + 1, self._first_version + PARTS - 1)

    def _truncate(self, body: bytes) -> None:
        """What comes behind it is told from what came before it, in the same batch."""
        self._begin_part()
        for index in range(_u32(body, 0)[0]):
            relation_id = _u32(body, 5 + 4 * index)[0]
            relation = self._relations[relation_id]
            self._close_table(relation_id)
            self._changes.append(Truncation(relation, self._version))

    # Transactions that are sent in pieces before they commit.

    def _begin_piece(self, body: bytes) -> None:
        if self._spool is None or self.in_transaction:
            raise ValueError("a piece of a transaction where none can be")
        self._spool.begin_piece(_u32(body, 0)[0])
        self._in_piece = True

    def _piece(self, message: memoryview, tag: int) -> None:
        assert self._spool is not None
        if tag == _PIECE_END:
            self._in_piece = False
        else:
            self._spool.add(message)

    def _commit_pieces(self, body: bytes) -> bool:
        if self._spool is None or len(body) != _STREAM_COMMIT_BYTES:
            raise ValueError("a commit that cannot be read")
        messages = self._spool.committed(_u32(body, 0)[0])
        self._begin(body[5:])
        self._replaying = self._replayed(messages, body[4:])
        return True

    def _replayed(self, messages: Iterator[memoryview], commit: bytes) -> Iterator[bool | None]:
        for message in messages:
            tag, is_full = message[_HEADER], None
            if tag in _INSIDE:
                try:
                    # Behind the tag stands a transaction's number; without it all is as usual.
                    is_full = self._message(message[_NUMBER:], tag)
                except _UNREADABLE as exc:
                    raise _cannot_read(message) from exc
            yield is_full
        self._commit(commit)

    def _abort_pieces(self, body: bytes) -> None:
        if self._spool is None:
            raise ValueError("an abort of what did not begin")
        self._spool.abort(_u32(body, 0)[0], _u32(body, 4)[0])

    def _keepalive(self, message: memoryview) -> None:
        """All transactions that ended before this position have been sent."""
        end = _u64(message, 1)[0]
        self.asked = self.asked or message[17] != 0
        if not self.in_transaction:
            pack_version(self._epoch, end)
            self.position = max(self.position, end)


def _cannot_read(message: memoryview) -> RelayError:
    return RelayError(f"cannot read the replication message {bytes(message[:48])!r}")


def _ignore(_: bytes) -> None:
    pass


def _read_relation(body: bytes) -> Relation:
    relation_id = _u32(body, 0)[0]
    schema, position = _text(body, 4)
    name, position = _text(body, position)
    is_full = body[position] == _FULL
    count = _u16(body, position + 1)[0]
    position += 3
    columns: list[str] = []
    types: list[int] = []
    identity: list[str] = []
    for _ in range(count):
        flags = body[position]
        column, position = _text(body, position + 1)
        columns.append(column)
        if flags & _IDENTIFIES:
            identity.append(column)
        types.append(_u32(body, position)[0])
        position += 8  # behind the type: its modifier
    if position > len(body):
        raise ValueError("a table's description is cut short")
    return Relation(
        relation_id,
        schema or "pg_catalog",
        name,
        tuple(columns),
        tuple(types),
        None if is_full else tuple(identity),
    )


def _text(body: bytes, start: int) -> tuple[str, int]:
    end = body.index(0, start)
    return body[start:end].decode(), end + 1


def _repack(message: memoryview, start: int) -> tuple[bytes, int]:
    """A tuple from its column count on, column by column, and where it ends. For long values."""
    data = bytes(message)
    out = [data[start : start + 2]]
    position = start + 2
    for _ in range(_u16(data, start)[0]):
        kind = data[position]
        if kind == _TEXT:
            end = position + 5 + _u32(data, position + 1)[0]
            out.append(b"\xc6" + data[position + 1 : end])
        elif kind in (_NULL, _UNCHANGED):
            end = position + 1
            out.append(data[position:end])
        else:
            raise ValueError(kind)
        if end > len(data):
            raise ValueError("a column is cut short")
        position = end
    return b"".join(out), position
