"""Which declared table an id is, and when that is asked again."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from tests.unit import pgoutput_encoder as pg

from neolayer.errors import RelayError
from neolayer.relay.changes import Relation
from neolayer.relay.decoder import Decoder
from neolayer.relay.table_names import TableNames, TableRenamed, look_up

DECLARED = frozenset({"public.coins", "public.stamps"})


def looked_up(folder: Path, as_of: int = 100, **live: int) -> TableNames:
    """With these published tables of the schema public."""
    tables = {number: f"public.{name}" for name, number in live.items()}
    return look_up(folder, tables, DECLARED, as_of=as_of, told=set())


def called(names: TableNames, number: int, name: str, lsn: int) -> str:
    return names.named(Relation(number, "public", name, ("id",), (20,)), lsn).table


def test_C8_a_table_that_is_renamed_stays_what_it_was(tmp_path: Path) -> None:
    """Whatever was announced before the look, and by the name that it had then; also for the next
    process. Another name than those is news, once."""
    names = looked_up(tmp_path, coins=7, other=8)
    assert called(names, 7, "coins", 200) == called(names, 7, "purses", 99) == "public.coins"
    assert called(names, 8, "other", 200) == "public.other"
    with pytest.raises(TableRenamed, match=r"public\.coins is public\.purses now"):
        called(names, 7, "purses", 100)
    assert called(names, 7, "purses", 101) == "public.coins"
    renamed = looked_up(tmp_path, purses=7, other=8)
    for name in ("coins", "purses"):
        assert called(renamed, 7, name, 200) == "public.coins"
    with pytest.raises(TableRenamed):
        called(renamed, 7, "bags", 200)


def test_C8_a_name_goes_to_the_table_that_has_it(tmp_path: Path) -> None:
    """A table that is new under a declared name is news; then the other goes by its own."""
    names = looked_up(tmp_path, coins=7)
    with pytest.raises(TableRenamed, match=r"a table is public\.coins now"):
        called(names, 9, "coins", 100)
    swapped = looked_up(tmp_path, coins=9, retired=7)
    assert called(swapped, 9, "coins", 200) == "public.coins"
    assert called(swapped, 7, "retired", 200) == "public.retired"
    assert called(swapped, 7, "coins", 99) == "public.coins"  # as it was called then
    gone = looked_up(tmp_path, other=8)
    assert called(gone, 7, "retired", 200) == "public.retired"
    exchanged = looked_up(tmp_path, stamps=9, coins=10)
    assert called(exchanged, 9, "stamps", 200) == "public.stamps"


def test_C8_tables_that_are_swapped_again_and_again_are_told_each_time(tmp_path: Path) -> None:
    """News that a look has confirmed are news again after they were taken back."""
    told: set[tuple[int, str]] = set()
    holders = [7, 9, 7, 9, 7]
    for as_of, (before, now) in enumerate(pairwise(holders), 1):
        live = {before: "public.coins", now: "public.retired"}
        names = look_up(tmp_path, live, DECLARED, as_of=as_of * 100, told=told)
        with pytest.raises(TableRenamed):
            called(names, now, "coins", as_of * 100 + 50)


def test_C8_the_decoder_tells_changes_under_the_declared_name(tmp_path: Path) -> None:
    """Of a transaction that committed before the look; in one after it the stream ends there."""
    for commit, expected in ((50, "public.coins"), (500, None)):
        decoder = Decoder(epoch=1, names=looked_up(tmp_path, coins=7))
        decoder.feed(pg.begin(commit))
        described = pg.relation(7, ["id"], name="purses")
        if expected is None:
            with pytest.raises(TableRenamed):
                decoder.feed(described)
            continue
        decoder.feed(described)
        decoder.feed(pg.insert(7, [b"1"]))
        decoder.feed(pg.commit(commit, commit + 8))
        batch = decoder.take()
        assert batch is not None
        assert [one.relation.table for one in batch.changes] == [expected]


def test_C4_a_note_that_cannot_be_used_is_said(tmp_path: Path) -> None:
    """What is damaged counts as nothing; a folder that cannot be written to is an error."""
    (tmp_path / "tables").write_bytes(b"{")
    assert looked_up(tmp_path, coins=7).names == {7: "public.coins"}
    with pytest.raises(RelayError, match="cannot be used"):
        looked_up(tmp_path / "absent", coins=7)
