"""What a copy is keyed by may change: its old row goes, or nothing is told of the new one."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from tests.unit import pgoutput_encoder as pg

from neolayer.relay.changes import NULL, TableChanges, Unnamed
from neolayer.relay.decoder import Decoder
from neolayer.relay.sinks.redis import changed_keys
from neolayer.relay.sinks.tabs import encode, latest_by_key

COLUMNS = ("id", "address", "note")


def told(*changes: memoryview, identity: Sequence[str] | None) -> TableChanges:
    decoder = Decoder(epoch=1)
    described = pg.relation(1, COLUMNS, identity=identity)
    for message in (pg.begin(100), described, *changes, pg.commit(100, 140)):
        decoder.feed(message)
    batch = decoder.take()
    assert batch is not None
    (found,) = batch.changes
    assert isinstance(found, TableChanges)
    return found


NEW: list[pg.Value] = [b"1", b"new", b"x"]


@pytest.mark.parametrize("identity", [("id",), ()])
def test_C8_an_update_that_may_hide_an_old_key_is_no_copy(identity: Sequence[str]) -> None:
    """The log says nothing of the old row, so whether the copy's key changed cannot be known."""
    changes = told(pg.update(1, NEW), identity=identity)
    with pytest.raises(Unnamed, match="does not name address"):
        encode(changes, columns=COLUMNS, key=("address",))
    with pytest.raises(Unnamed, match="does not name id, address"):
        latest_by_key(changes, ("id", "address"))


def test_C8_an_update_of_another_key_does_not_name_the_old_row() -> None:
    """The old row comes with the identity's columns alone: the copy's key is not there."""
    changes = told(pg.update(1, NEW, old=[b"2", NULL, NULL], mark=b"K"), identity=("id",))
    with pytest.raises(Unnamed, match="does not name address"):
        latest_by_key(changes, ("address",))


def test_C8_the_cache_knows_no_old_name_either() -> None:
    """What was kept under the name before would be believed on."""
    changes = told(pg.update(1, NEW), identity=("id",))
    with pytest.raises(Unnamed, match="does not name address"):
        list(changed_keys(changes, "contract:{address}"))
    assert [name for name, _ in changed_keys(changes, "contract:{id}")] == [b"contract:1"]


@pytest.mark.parametrize("identity", [None, ("id",), ("address", "id")])
def test_C8_an_update_whose_key_the_identity_covers_is_told(identity: Sequence[str] | None) -> None:
    """Without an old row the key did not change; with it the old key is left behind, deleted."""
    changes = told(
        pg.insert(1, [b"2", b"there", b"y"]),
        pg.update(1, NEW),
        pg.update(1, [b"3", b"c", b"z"], old=[b"2", b"there", NULL], mark=b"K"),
        identity=identity,
    )
    assert {name: mark for name, (_, _, mark) in latest_by_key(changes, ("id",)).items()} == {
        (b"1",): b"0",
        (b"2",): b"1",
        (b"3",): b"0",
    }


def test_C8_inserts_and_deletes_are_told_under_any_identity() -> None:
    """What of a key is new, or named, needs no old row."""
    changes = told(
        pg.insert(1, NEW),
        pg.delete(1, [b"2", NULL, NULL], mark=b"K"),
        identity=("id",),
    )
    assert set(latest_by_key(changes, ("id",))) == {(b"1",), (b"2",)}
