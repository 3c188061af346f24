"""The decoder gives back what PostgreSQL wrote, and refuses everything else with one error."""

from __future__ import annotations

import contextlib
import struct
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tests.unit import pgoutput_encoder as pg

from neolayer.errors import RelayError
from neolayer.position import pack_version
from neolayer.relay import decoder as decoding
from neolayer.relay.changes import (
    DELETE,
    INSERT,
    NULL,
    ROWS_PER_PAGE,
    UNCHANGED,
    UPDATE,
    UPDATE_WITH_KEY,
    UPDATE_WITH_OLD,
    Batch,
    Change,
    TableChanges,
    Truncation,
)
from neolayer.relay.decoder import Decoder
from neolayer.relay.spool import Spool

LONG = b"t" * 0x7400  # a length whose bytes hold a 't'
LONGEST = (b"t", b"x" * 0x740000, b"n" * 0x10074)  # lengths that look like the start of a column

# PostgreSQL's text holds any byte but zero.
texts = st.binary(max_size=300).map(lambda raw: raw.replace(b"\0", b"t"))
values = st.one_of(texts, st.sampled_from([b"t", b"", b"n", b"u", LONG]), st.just(NULL))


def rows_of(width: int) -> st.SearchStrategy[list[pg.Value]]:
    return st.lists(values, min_size=width, max_size=width)


def at(lsn: int) -> int:
    return pack_version(1, lsn)


def fed(*messages: memoryview) -> Decoder:
    decoder = Decoder(epoch=1)
    for message in messages:
        decoder.feed(message)
    return decoder


def taken(*messages: memoryview) -> Batch:
    batch = fed(*messages).take()
    assert batch is not None
    return batch


def changes_of(batch: Batch) -> list[Change]:
    return [
        change
        for table in batch.changes
        if isinstance(table, TableChanges)
        for change in table.changes()
    ]


def columns(width: int) -> list[str]:
    return [f"c{place}" for place in range(width)]


@given(width=st.integers(1, 40), data=st.data())
def test_any_rows_come_back_as_they_were(width: int, data: st.DataObject) -> None:
    """Inserts, updates and deletes of any text and nulls, in order, under their commit position."""
    rows = data.draw(st.lists(st.tuples(rows_of(width), rows_of(width)), max_size=5))
    messages = [pg.begin(100), pg.relation(1, columns(width))]
    expected: list[Change] = []
    version = pack_version(1, 101)
    for new, old in rows:
        messages += [pg.insert(1, new), pg.update(1, new), pg.update(1, new, old=old)]
        messages += [pg.delete(1, old), pg.delete(1, old, mark=b"K")]
        expected += [
            Change(version, INSERT, new, None),
            Change(version, UPDATE, new, None),
            Change(version, UPDATE_WITH_OLD, new, old),
            Change(version, DELETE, old, None),
            Change(version, DELETE, old, None),
        ]
    batch = taken(*messages, pg.commit(100, 120))
    assert changes_of(batch) == expected
    assert batch.position == pack_version(1, 120) and batch.unfinished is None


@pytest.mark.parametrize("value", [*LONGEST, LONG, b"y" * 0xFFFF, b"z" * 0x10000])
def test_long_values_and_lengths_that_look_like_columns(value: bytes) -> None:
    """A value's length in bytes never passes for the start of a column, beside or around others."""
    row: list[pg.Value] = [b"t", value, NULL, b"", value, b"t"]
    batch = taken(
        pg.begin(5),
        pg.relation(1, columns(6)),
        pg.insert(1, [b"t"] * 6),
        pg.insert(1, row),
        pg.update(1, row, old=row),
        pg.insert(1, [b"n"] * 6),
        pg.commit(5, 6),
    )
    got = [(change.row, change.old) for change in changes_of(batch)]
    assert got == [([b"t"] * 6, None), (row, None), (row, row), ([b"n"] * 6, None)]


def test_unchanged_toast_comes_from_the_old_row() -> None:
    """What an update leaves out is filled from the old row, or stays marked where there is none."""
    batch = taken(
        pg.begin(5),
        pg.relation(1, columns(3)),
        pg.update(1, [b"1", UNCHANGED, b"new"], old=[b"1", b"long", b"old"]),
        pg.update(1, [b"2", UNCHANGED, NULL]),
        pg.update(1, [b"4", UNCHANGED, NULL], old=[b"3", NULL, NULL], mark=b"K"),
        pg.commit(5, 6),
    )
    first, second, third = changes_of(batch)
    assert first.row == [b"1", b"long", b"new"]
    assert second.row == [b"2", UNCHANGED, NULL]
    # An old key says nothing of the other columns: null there is no value.
    assert third == Change(
        third.version, UPDATE_WITH_KEY, [b"4", UNCHANGED, NULL], [b"3", NULL, NULL]
    )


def test_a_table_is_described_with_its_columns_types() -> None:
    """A relation knows the type of each column by the oid the server sent."""
    (table,) = taken(
        pg.begin(5),
        pg.relation(1, ["id", "name"], types=[20, 25]),
        pg.insert(1, [b"1", b"x"]),
        pg.commit(5, 6),
    ).changes
    assert table.relation.columns == ("id", "name") and table.relation.types == (20, 25)


def test_pages_hold_any_number_of_rows_and_each_its_version() -> None:
    """Rows over several pages and transactions keep their order and their own commit position."""
    messages = [pg.relation(1, ["id"])]
    total = 3 * ROWS_PER_PAGE + 5
    for number in range(total):
        messages += [pg.begin(number + 1), pg.insert(1, [b"%d" % number])]
        messages += [pg.commit(number + 1, number + 2)]
    (table,) = taken(*messages).changes
    assert isinstance(table, TableChanges) and table.inserts_only and len(table.pages) == 4
    assert [row for page in table.rows() for row in page] == [[b"%d" % n] for n in range(total)]
    assert [version for version, _ in table.version_runs()] == [
        pack_version(1, number + 2) for number in range(total)
    ]


def test_a_batch_may_end_inside_a_transaction() -> None:
    """It says in which; the position stays at the last commit until the transaction ends."""
    decoder = fed(pg.begin(10), pg.relation(1, ["id"]), pg.insert(1, [b"1"]), pg.keepalive(99))
    first = decoder.take()
    assert first is not None
    assert first.position == pack_version(1, 0) and first.unfinished == pack_version(1, 11)
    assert not first.contained_in(pack_version(1, 9)) and first.contained_in(pack_version(1, 11))
    decoder.feed(pg.insert(1, [b"2"]))
    decoder.feed(pg.commit(10, 12, time_us=1_500_000))
    rest = decoder.take()
    assert rest is not None and rest.unfinished is None and rest.rows == 1
    assert rest.position == pack_version(1, 12)
    assert rest.committed_at == 946_684_801.5
    assert decoder.take() is None


THRICE = [pg.update(1, [b"%d" % (n % 5), b"%d" % n]) for n in range(60)]


def parts_of(decoder: Decoder, messages: Iterable[memoryview]) -> list[Batch]:
    """As the reader takes them: where a part is full, and between transactions."""
    taken: list[Batch | None] = []
    for message in messages:
        decoder.feed(message)
        going = True
        while going:
            if decoder.is_part_full or not decoder.in_transaction:
                taken.append(decoder.take())
            going = decoder.replay(limit=7) > 0
    return [batch for batch in taken if batch is not None and batch.rows]


def told(batches: Iterable[Batch]) -> list[tuple[int, object]]:
    return [(one.version, one.row[1]) for batch in batches for one in changes_of(batch)]


def test_C8_a_key_has_one_value_under_one_version(
    spooling: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parts of a transaction are told apart, and it is cut alike however it is read: behind
    others or alone, at its commit or sent before it."""
    monkeypatch.setattr(decoding, "PART_BYTES", 400)
    described = pg.relation(1, ["id", "n"])
    alone = parts_of(Decoder(epoch=1), [pg.begin(80), described, *THRICE, pg.commit(80, 120)])
    assert len(alone) > 3 and [batch.unfinished for batch in alone[:-1]] == [at(81)] * (
        len(alone) - 1
    )
    earlier = [pg.begin(40), described, pg.insert(1, [b"1", b"x" * 300]), pg.commit(40, 80)]
    behind = fed(*earlier)
    assert told(parts_of(behind, [pg.begin(80), *THRICE, pg.commit(80, 120)]))[1:] == told(alone)
    pieces = [*pg.piece(7, described, *THRICE[:33]), *pg.piece(7, *THRICE[33:])]
    assert told(parts_of(spooling, [*pieces, pg.piece_commit(7, 80, 120)])) == told(alone)
    one_value: dict[tuple[int, object], set[int]] = {}
    for batch in alone:
        for one in changes_of(batch):
            one_value.setdefault((one.version, one.row[0]), set()).add(id(batch))
    assert all(len(batches) == 1 for batches in one_value.values())
    assert {version for version, _ in told(alone)} < set(range(at(81), at(121)))


def test_C8_parts_beyond_the_last_version_of_a_commit_share_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No part bears a version that another commit could have."""
    monkeypatch.setattr(decoding, "PART_BYTES", 1)
    decoder = Decoder(epoch=1)
    messages = [pg.begin(80), pg.relation(1, ["id", "n"]), *THRICE, pg.commit(80, 120)]
    versions = [version for version, _ in told(parts_of(decoder, messages))]
    assert versions == sorted(versions) and versions[-1] == at(120) and len(set(versions)) == 40


def test_C8_a_table_emptied_again_and_again_grows_no_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """A part ends where it is full, whatever empties tables in it: memory has room for one."""
    monkeypatch.setattr(decoding, "PART_BYTES", 400)
    messages = [pg.begin(80), pg.relation(1, ["id", "n"])]
    messages += [pg.insert(1, [b"1", b"x" * 200]), pg.truncate(1)] * 20
    batches = parts_of(Decoder(epoch=1), [*messages, pg.commit(80, 120)])
    assert len(batches) > 5 and max(batch.size for batch in batches) < 1_000


def test_a_position_right_before_a_commit_does_not_contain_it() -> None:
    """C8: a keepalive may tell of the very place where the next commit record begins."""
    decoder = fed(pg.keepalive(10))
    before = decoder.take()
    for message in (pg.begin(10), pg.relation(1, ["id"]), pg.insert(1, [b"1"])):
        decoder.feed(message)
    piece = decoder.take()
    assert before is not None and piece is not None and piece.unfinished is not None
    assert before.position == pack_version(1, 10)
    assert not piece.contained_in(before.position) and piece.contained_in(pack_version(1, 12))


def test_keepalives_from_before_the_stream_move_nothing() -> None:
    """Until the server reaches what was asked for it tells of the slot's own, earlier place."""
    decoder = Decoder(epoch=1, after=100)
    decoder.feed(pg.keepalive(40))
    assert decoder.take() is None
    decoder.feed(pg.begin(60))
    decoder.feed(pg.commit(60, 61))
    assert decoder.position == 100
    decoder.feed(pg.keepalive(140))
    batch = decoder.take()
    assert batch is not None
    assert batch.position == pack_version(1, 140)


def test_keepalives_move_the_position_between_transactions_only() -> None:
    """An idle log moves on; inside a transaction a keepalive promises nothing."""
    decoder = fed(pg.keepalive(50, asks=True))
    batch = decoder.take()
    assert decoder.asked and batch is not None and batch.position == pack_version(1, 50)
    decoder.feed(pg.begin(60))
    decoder.feed(pg.keepalive(70))
    assert decoder.position == 50


def test_a_table_that_changes_and_one_that_is_emptied() -> None:
    """A new description or a truncation parts what came before from what comes after."""
    batch = taken(
        pg.begin(5),
        pg.relation(1, ["id"]),
        pg.insert(1, [b"1"]),
        pg.relation(1, ["id"]),  # the same again: one table
        pg.insert(1, [b"2"]),
        pg.relation(1, ["id", "name"]),
        pg.insert(1, [b"3", b"x"]),
        pg.truncate(1),
        pg.insert(1, [b"4", b"y"]),
        pg.commit(5, 6),
    )
    first, second, emptied, third = batch.changes
    assert isinstance(first, TableChanges) and list(first.rows()) == [[[b"1"], [b"2"]]]
    assert isinstance(second, TableChanges) and list(second.rows()) == [[[b"3", b"x"]]]
    assert isinstance(emptied, Truncation) and emptied.version == pack_version(1, 7)
    assert isinstance(third, TableChanges) and list(third.rows()) == [[[b"4", b"y"]]]


def test_messages_that_concern_nobody_are_passed_over() -> None:
    """Types, origins and logical messages change nothing."""
    quiet = [
        pg.wal_data(b"Y" + struct.pack(">I", 1) + b"s\0t\0"),
        pg.wal_data(b"O" + struct.pack(">Q", 1) + b"elsewhere\0"),
        pg.wal_data(b"M\1" + struct.pack(">Q", 1) + b"prefix\0" + struct.pack(">I", 2) + b"hi"),
    ]
    decoder = fed(*quiet)
    assert decoder.take() is None


@pytest.mark.parametrize(
    "messages",
    [
        [b""],
        [b"w"],
        [b"x" + bytes(40)],
        [bytes(pg.wal_data(b"Z"))],
        [bytes(pg.wal_data(b"S" + bytes(5)))],  # streaming was not asked for
        [bytes(pg.insert(9, [b"a"]))],  # a table never described
        [bytes(pg.commit(1, 2))],
        [bytes(pg.begin(1)), bytes(pg.begin(2))],
        [bytes(pg.begin(1 << 60))],
        [bytes(pg.relation(1, ["a"]))[:-3]],
        [bytes(pg.relation(1, ["a"])), bytes(pg.wal_data(b"U\0\0\0\1X"))],
        [bytes(pg.relation(1, columns(128))), bytes(pg.update(1, [NULL] * 128, old=[NULL] * 128))],
    ],
)
def test_what_cannot_be_read_is_one_error(messages: list[bytes]) -> None:
    """Cut, unknown or senseless messages are a RelayError, never a guess."""
    with pytest.raises(RelayError):
        fed(*map(memoryview, messages))


@pytest.mark.parametrize(
    "payload",
    [
        b"I\0\0\0\1N\0\1tx",
        b"I\0\0\0\1N\0\1b\0\0\0\1x",  # binary was not asked for
        b"I\0\0\0\1N\0\2t\0\0\0\1x",
        b"I\0\0\0\1N\0\2t\0\0\0\1xt\0\0\0\1y",  # two columns of a table of one
        b"D\0\0\0\1K\0\1t\0\0\0\5x",
        b"U\0\0\0\1O\0\1t\0\0\0\1xX\0\1t\0\0\0\1y",
    ],
)
def test_rows_that_do_not_fit_their_table_are_one_error(payload: bytes) -> None:
    """A malformed row is found when it is unpacked."""
    batch = taken(pg.begin(1), pg.relation(1, ["id"]), pg.wal_data(payload), pg.commit(1, 2))
    with pytest.raises(RelayError):
        changes_of(batch)


@pytest.fixture
def spooling(tmp_path: Path) -> Iterator[Decoder]:
    spool = Spool(tmp_path)
    yield Decoder(epoch=1, spool=spool)
    spool.close()
    assert list(tmp_path.iterdir()) == []


def feed_all(decoder: Decoder, *messages: memoryview) -> None:
    """As the reader does: what has committed comes before the next message."""
    for message in messages:
        decoder.feed(message)
        while decoder.replay(limit=2):
            pass


def versions_and_ids(batch: Batch | None) -> list[tuple[int, object]]:
    assert batch is not None
    return [(change.version & 0xFFFF, change.row[0]) for change in changes_of(batch)]


def test_a_transaction_in_pieces_comes_at_its_commit(spooling: Decoder) -> None:
    """Its rows bear its commit position and follow what committed while it was open."""
    feed_all(
        spooling,
        *pg.piece(7, pg.relation(1, ["id"]), pg.insert(1, [b"big 1"])),
        pg.keepalive(40),
        pg.begin(50),
        pg.relation(1, ["id"]),
        pg.insert(1, [b"small"]),
        pg.commit(50, 51),
        *pg.piece(8, pg.relation(1, ["id"]), pg.insert(1, [b"other"])),
        *pg.piece(7, pg.insert(1, [b"big 2"]), pg.update(1, [b"big 3"])),
    )
    assert spooling.position == 51  # what is open holds nothing back: it will commit later
    assert versions_and_ids(spooling.take()) == [(51, b"small")]
    feed_all(spooling, pg.piece_commit(7, 90, 91, time_us=2_000_000), pg.piece_abort(8))
    batch = spooling.take()
    assert versions_and_ids(batch) == [(91, b"big 1"), (91, b"big 2"), (91, b"big 3")]
    assert batch is not None and batch.position == pack_version(1, 91)
    assert batch.committed_at == 946_684_802


def test_parts_that_were_aborted_are_left_out(spooling: Decoder) -> None:
    """Changes after a savepoint that was rolled back are gone, its descriptions still hold."""
    feed_all(
        spooling,
        *pg.piece(7, pg.relation(1, ["id"]), pg.insert(1, [b"1"])),
        *pg.piece(7, pg.relation(2, ["id", "x"]), pg.insert(2, [b"2", b"gone"]), part=8),
        pg.piece_abort(7, part=8),
        *pg.piece(7, pg.insert(2, [b"3", b"kept"]), part=9),
        pg.piece_commit(7, 90, 91),
    )
    assert versions_and_ids(spooling.take()) == [(91, b"1"), (91, b"3")]


@pytest.mark.parametrize(
    "messages",
    [
        [pg.piece_commit(7, 90, 91)],
        [pg.piece_abort(7)],
        [pg.begin(5), *pg.piece(7)],
        [*pg.piece(7), pg.wal_data(b"c\0\0\0\7")],
        [*pg.piece(7), pg.begin(5), pg.piece_commit(7, 90, 91)],
        [*pg.piece(7, pg.insert(3, [b"1"])), pg.piece_commit(7, 90, 91)],
    ],
)
def test_pieces_that_make_no_sense_are_one_error(
    spooling: Decoder, messages: list[memoryview]
) -> None:
    """A commit or abort of what did not begin, a piece inside a transaction, an unknown table."""
    with pytest.raises(RelayError):
        feed_all(spooling, *messages)


steps = st.lists(
    st.tuples(
        st.sampled_from(["piece", "part", "abort part", "abort", "commit", "small"]),
        st.integers(1, 3),
    ),
    max_size=30,
)


@given(steps)
def test_any_interleaving_of_pieces(steps: list[tuple[str, int]]) -> None:
    """Several open transactions with parts, aborts and small ones between: only what committed, in
    the order of the commits."""
    open_rows: dict[int, list[tuple[int, bytes]]] = {}
    expected: list[tuple[int, bytes]] = []
    with tempfile.TemporaryDirectory() as folder:
        spool = Spool(Path(folder))
        decoder = Decoder(epoch=1, spool=spool)
        feed_all(decoder, pg.begin(1), pg.relation(1, ["id"]), pg.commit(1, 2))
        for number, (step, xid) in enumerate(steps):
            lsn, row = 10 + 2 * number, b"%d" % number
            if step in ("piece", "part"):
                part = xid if step == "piece" else 100 * xid
                feed_all(decoder, *pg.piece(xid, pg.insert(1, [row]), part=part))
                open_rows.setdefault(xid, []).append((part, row))
            elif step == "small":
                feed_all(decoder, pg.begin(lsn), pg.insert(1, [row]), pg.commit(lsn, lsn + 1))
                expected.append((lsn + 1, row))
            elif xid in open_rows and step == "abort part":
                feed_all(decoder, pg.piece_abort(xid, part=100 * xid))
                # Later changes never bear the number of a part that is gone.
                rows = [(part, row) for part, row in open_rows.pop(xid) if part == xid]
                feed_all(decoder, pg.piece_commit(xid, lsn, lsn + 1))
                expected += [(lsn + 1, row) for _, row in rows]
            elif xid in open_rows and step == "abort":
                feed_all(decoder, pg.piece_abort(xid))
                del open_rows[xid]
            elif xid in open_rows and step == "commit":
                feed_all(decoder, pg.piece_commit(xid, lsn, lsn + 1))
                expected += [(lsn + 1, row) for _, row in open_rows.pop(xid)]
        batch = decoder.take()
        spool.close()
    assert batch is not None
    assert [(change.version & 0xFFFF, change.row[0]) for change in changes_of(batch)] == expected


frames = st.one_of(
    st.binary(max_size=80),
    st.builds(
        lambda tag, body: bytes(pg.wal_data(tag + body)),
        st.sampled_from([bytes([tag]) for tag in b"BCRIUDTYOMSEcAX"]),
        st.binary(max_size=80),
    ),
    st.builds(
        lambda tag, mark, body: bytes(pg.wal_data(tag + b"\0\0\0\1" + mark + body)),
        st.sampled_from([b"I", b"U", b"D"]),
        st.sampled_from([b"N", b"O", b"K"]),
        st.binary(max_size=80),
    ),
)


@given(st.lists(frames, max_size=8))
@example([bytes(pg.wal_data(b"I\0\0\0\1N\0\1" + b"\xdd\x7f\xff\xff\xff"))])
def test_no_bytes_crash_it(noise: list[bytes]) -> None:
    """Whatever arrives, the decoder answers with changes or with a RelayError."""
    with tempfile.TemporaryDirectory() as folder:
        spool = Spool(Path(folder))
        for decoder in (Decoder(epoch=1), Decoder(epoch=1, spool=spool)):
            with contextlib.suppress(RelayError):
                feed_all(decoder, pg.begin(1), pg.relation(1, ["id", "name"]), pg.commit(1, 2))
                feed_all(decoder, *map(memoryview, noise))
            with contextlib.suppress(RelayError):
                batch = decoder.take()
                if batch is not None:
                    changes_of(batch)
        spool.close()
