"""The envelope: what is made of a change, and which identity it has."""

from __future__ import annotations

import dataclasses
from uuid import UUID, uuid4

import msgspec
import pytest
from tests.fixtures.batches import (
    CLASSES,
    COINS,
    OUTBOX,
    PlainSnapshot,
    at,
    batch,
    changes,
    event_row,
    events,
)

from neolayer.catalogue import DataClass, OutgoingCopy
from neolayer.relay.changes import (
    DELETE,
    INSERT,
    UNCHANGED,
    UPDATE,
    UPDATE_WITH_OLD,
    Batch,
    Incomplete,
    Relation,
    Truncation,
)
from neolayer.relay.envelope import Outgoing, Reached, topic_of, unpublished
from neolayer.relay.enveloping import Envelopes
from neolayer.relay.sinks.sink import Rejected

TENANT = UUID(int=5)


def envelopes() -> Envelopes:
    return Envelopes(CLASSES, "neolayer")


def outgoing(made: list[Outgoing | Rejected]) -> list[Outgoing]:
    assert all(isinstance(one, Outgoing) for one in made)
    return made  # type: ignore[return-value]


def test_an_event_goes_out_as_it_was_announced() -> None:
    """Its own id and type, the tenant, the commit's position, the data as it stands."""
    event_id = uuid4()
    data = '{"amount": 12345678901234567890, "ä": null}'
    row = event_row(TENANT, "w1", event_id=event_id, data=data)
    (one,) = outgoing(envelopes().of([events(at(1), row)]))
    assert msgspec.json.decode(one.body) == {
        "id": str(event_id),
        "type": "wallet.created",
        "tenant": str(TENANT),
        "subject": "outbox.wallets",
        "key": "w1",
        "position": "neolayer:1:0/100",
        "version": str(at(1)),
        "schema_version": 1,
        "correlation_id": None,
        "causation_id": None,
        "time": "2030-03-01T12:00:00.123456Z",
        "data": {"amount": 12345678901234567890, "ä": None},
    }
    assert (one.topic, one.subject, one.key) == ("outbox", "outbox.wallets", "w1")


def test_what_happens_to_an_event_later_is_no_news() -> None:
    """It is deleted when its time is over; nobody is told."""
    row = event_row(TENANT)
    gone = batch(changes(OUTBOX, (at(2), DELETE, row)), position=at(2))
    emptied = batch(Truncation(OUTBOX, at(3)), position=at(3))
    assert envelopes().of([gone, emptied]) == []


def test_a_state_goes_out_with_every_change() -> None:
    """Each change of a row is one envelope, in order; decimals and large numbers are text."""
    rows = [
        (at(1), INSERT, (9007199254740993, "ann b.", "1.50", '{"x": 1}')),
        (at(1), UPDATE, (9007199254740993, "ann b.", "2.50", None)),
        (at(2), DELETE, (9007199254740993, None, None, None)),
    ]
    rows = [
        (version, kind, [str(v) if isinstance(v, int) else v for v in row])
        for version, kind, row in rows
    ]
    made = outgoing(envelopes().of([batch(changes(COINS, *rows), position=at(2))]))
    told = [msgspec.json.decode(one.body) for one in made]
    assert [one["type"] for one in told] == ["coins.inserted", "coins.updated", "coins.deleted"]
    assert told[0]["data"] == {
        "id": "9007199254740993",
        "owner": "ann b.",
        "amount": "1.50",
        "note": {"x": 1},
    }
    assert told[2]["data"] == {"id": "9007199254740993"}
    assert {one["key"] for one in told} == {"9007199254740993"}
    assert told[0]["subject"] == "coins.ann_b_" and told[0]["time"] == "2026-03-01T12:00:00Z"
    assert len({one["id"] for one in told}) == 3


def test_a_row_that_gets_another_key_leaves_the_old_one() -> None:
    """Whoever keeps rows by key must hear that nothing is under the old one."""
    old, new = ["1", "ann", "1", None], ["2", "ann", "1", None]
    moved = changes(COINS, (at(1), UPDATE_WITH_OLD, moved_row(old, new)))
    made = outgoing(envelopes().of([batch(moved, position=at(1))]))
    assert [(one.type, one.key) for one in made] == [("coins.deleted", "1"), ("coins.updated", "2")]


def moved_row(old: list[str | None], new: list[str | None]) -> list[object]:
    """An update as the log packs it: a width of two bytes before each row, and the mark N."""
    return [0, len(old), *old, ord("N"), 0, len(new), *new]


def test_C14_what_is_read_again_bears_the_same_identity() -> None:
    """However the commits are cut into batches, and also of a commit that comes in pieces."""
    rows = [(at(1), INSERT, [str(n), "ann", "1", None]) for n in range(6)]
    whole = envelopes()
    once = [one.id for one in outgoing(whole.of([batch(changes(COINS, *rows), position=at(1))]))]
    parts = envelopes()
    again: list[str] = []
    for start in (0, 2, 4):
        piece = batch(changes(COINS, *rows[start : start + 2]), position=0, unfinished=at(1))
        first = outgoing(parts.of([piece]))
        retried = outgoing(parts.of([piece]))  # the write failed and is tried again
        assert [one.id for one in first] == [one.id for one in retried]
        parts.accept()
        again += [one.id for one in first]
    assert again == once and len(set(once)) == 6
    parts.restart()
    first = outgoing(parts.of([batch(changes(COINS, *rows[:2]), position=0, unfinished=at(1))]))
    assert [one.id for one in first] == once[:2]


def test_C14_two_changes_never_share_an_identity() -> None:
    """Also of a table that is altered inside a commit which comes with another one, beside changes
    of another table: who skips what was seen would lose the second."""
    other = dataclasses.replace(CLASSES[-1], name="stamps", table="public.stamps")
    stamps = Relation(3, "public", "stamps", COINS.columns, COINS.types)
    altered = Relation(2, "public", "coins", (*COINS.columns, "x"), (*COINS.types, 25))
    row = ["1", "ann", "1", None]
    both = [(at(1), INSERT, row), (at(2), INSERT, row)]
    made = Envelopes((*CLASSES, other), "neolayer").of(
        [
            batch(
                changes(COINS, *both),
                changes(stamps, *both),
                changes(altered, (at(2), UPDATE, [*row, None])),
                position=at(2),
            )
        ]
    )
    assert len({one.id for one in outgoing(made)}) == len(made) == 5


def test_C1_a_log_that_is_cut_otherwise_hides_nothing_from_a_stream() -> None:
    """The log of a process that died may lack a large commit's first part, which came with earlier
    commits: read again they come by themselves, and whatever the stream lacks of them is told."""
    other = dataclasses.replace(CLASSES[-1], name="stamps", table="public.stamps")
    stamps = Relation(3, "public", "stamps", COINS.columns, COINS.types)

    def of(*numbers: int) -> Batch:
        rows = [(at(number), INSERT, ["1", "ann", "1", None]) for number in numbers]
        return batch(changes(COINS, *rows), changes(stamps, *rows), position=at(numbers[-1]))

    whole = outgoing(Envelopes((*CLASSES, other), "neolayer").of([of(1, 2)]))
    for count in range(1, len(whole) + 1):
        told = {one.id for one in whole[:count]}
        last: Reached | None = Reached(whole[count - 1].id, str(whole[count - 1].version))
        again = Envelopes((*CLASSES, other), "neolayer")
        for part in (of(1), of(2)):
            left, last = unpublished(outgoing(again.of([part])), last)
            told |= {one.id for one in left}
            again.accept()
        assert told == {one.id for one in whole}


def test_C1_tables_of_one_commit_are_told_in_one_order_however_the_log_is_cut() -> None:
    """A batch names its tables as it meets them, and the next process may cut it otherwise: a
    stream that ends with one table's changes never hides those of another."""
    other = dataclasses.replace(CLASSES[-1], name="stamps", table="public.stamps")
    stamps = Relation(3, "public", "stamps", COINS.columns, COINS.types)
    row = ["1", "ann", "1", None]
    early, late = (at(1), INSERT, row), (at(2), UPDATE, row)
    cuts = (
        [batch(changes(stamps, early, late), changes(COINS, late), position=at(2))],
        [
            batch(changes(stamps, early), position=at(1)),
            batch(changes(COINS, late), changes(stamps, late), position=at(2)),
        ],
    )
    first, again = (
        [one.id for one in outgoing(Envelopes((*CLASSES, other), "neolayer").of(cut))]
        for cut in cuts
    )
    assert first == again and len(set(first)) == 3


def test_C8_a_row_that_makes_no_envelope_is_set_aside() -> None:
    """With its cause and what is known of it; its neighbours go out."""
    rows = [
        (at(1), INSERT, ["1", "ann", "1", None]),
        (at(1), UPDATE, ["z", "ann", "1", "note"]),
        (at(1), INSERT, ["x", "ann", "1", None]),
        (at(1), INSERT, ["4", "ann", "1", None]),
    ]
    made = envelopes().of([batch(changes(COINS, *rows), position=at(1))])
    assert [type(one) for one in made] == [Outgoing, Rejected, Rejected, Outgoing]
    refused = made[1]
    assert isinstance(refused, Rejected)
    assert (refused.table, refused.key, refused.version) == ("public.coins", ("z",), at(1))
    assert refused.cause
    assert refused.row == {"id": "z", "owner": "ann", "amount": "1", "note": "note"}


def test_C11_each_refused_event_is_a_letter_of_its_own() -> None:
    """Two events of one stream are two, though the letters keep one of a key."""
    ids = [uuid4(), uuid4()]
    rows = [event_row(TENANT, "w1", event_id=one) for one in ids]
    made = outgoing(envelopes().of([events(at(1), *rows)]))
    assert [one.refuse("too large").key for one in made] == [(str(one),) for one in ids]


def test_what_leaves_out_a_long_value_is_looked_up_first() -> None:
    """It is neither told without the value nor set aside: the lane fills it in."""
    lacking = batch(changes(COINS, (at(1), UPDATE, ["2", "ann", "1", UNCHANGED])), position=at(1))
    with pytest.raises(Incomplete, match="long value that did not change"):
        envelopes().of([lacking])


async def test_a_snapshot_tells_events_as_they_were_and_states_as_copied() -> None:
    """So that a stream that starts over misses nothing that is still there."""
    row = event_row(TENANT, data='{"text": "a\\\\nb"}')
    coin = ["1", "ann", "1", None]
    snapshot = PlainSnapshot(
        at(9), {"core.outbox": (OUTBOX, [row]), "public.coins": (COINS, [coin])}
    )
    told = []
    for table in sorted(envelopes().tables):
        told += outgoing(envelopes().emptied(at(9), table))
        async for page in envelopes().copied(snapshot, table):
            told += outgoing(page)
    told = [msgspec.json.decode(one.body) for one in told]
    types = [one["type"] for one in told]
    assert types == ["wallet.created", "coins.truncated", "coins.copied"]
    assert told[0]["id"] == row[1] and told[0]["version"] == str(at(9))
    assert told[2]["data"]["owner"] == "ann"


async def test_parts_of_a_copy_have_ids_of_their_own_and_the_same_again() -> None:
    """A part that is told twice bears the same ids, and two parts never share one."""
    parts = [
        PlainSnapshot(at(9), {"public.coins": (COINS, [[key, "ann", "1", None]])}) for key in "12"
    ]
    ids = [
        one.id
        for part in (*parts, parts[0])
        async for page in envelopes().copied(part, "public.coins")
        for one in outgoing(page)
    ]
    assert len(set(ids)) == 2 and ids[0] == ids[2]


def test_C1_what_a_stream_has_is_passed_over_up_to_where_it_ends() -> None:
    """Also where it ends in a later part of a commit whose earlier parts come again."""
    rows = [(at(1), event_row(TENANT)) for _ in range(2)]
    rows += [(at(2), event_row(TENANT)) for _ in range(6)] + [(at(3), event_row(TENANT))]
    told = [batch(changes(OUTBOX, (v, INSERT, row)), position=v) for v, row in rows]
    made = [outgoing(envelopes().of([one]))[0] for one in told]
    parts = [made[:2], made[2:4], made[4:6], made[6:8], made[8:]]
    for place, end in enumerate(made):
        last, rest = Reached(end.id, str(end.version)), list[Outgoing]()
        for part in parts:
            left, last = unpublished(part, last)
            rest += left
        assert rest == made[place + 1 :] and last is None
    unknown = Reached("of somebody else", str(at(2)))
    assert unpublished(parts[-1], unknown) == (parts[-1], None)


@pytest.mark.parametrize(
    ("subject", "topic"), [("events.{aggregate_type}", "events"), ("a.b", "a.b"), ("a{b}", "a")]
)
def test_a_topic_is_what_all_rows_share(subject: str, topic: str) -> None:
    """Kafka has one topic a table, NATS one subject a kind of thing."""
    assert topic_of(subject) == topic


PAIRS = Relation(3, "public", "pairs", ("a", "b"), (25, 25))
PAIR_CLASS = DataClass(
    "pairs", "neolayer", "public.pairs", copies=(OutgoingCopy("pairs", ("a", "b"), ("a", "b")),)
)


async def test_keys_whose_parts_hold_the_separator_are_told_apart() -> None:
    """Neither their order nor, in a copy, their identity is that of another row."""
    rows = [("a:b", "c"), ("a", "b:c"), ("a%3Ab", "c"), ("", "")]
    snapshot = PlainSnapshot(at(1), {"public.pairs": (PAIRS, list(rows))})
    made = Envelopes([PAIR_CLASS], "neolayer")
    copied = [one async for page in made.copied(snapshot, "public.pairs") for one in outgoing(page)]
    assert len({one.id for one in copied}) == len({one.key for one in copied}) == len(rows)


def test_a_row_with_an_empty_key_concerns_itself_alone() -> None:
    """Only an emptied table is told to all readers of a topic."""
    one = dataclasses.replace(PAIR_CLASS, copies=(OutgoingCopy("pairs", ("a",), ("a", "b")),))
    changed = batch(
        changes(PAIRS, (at(1), INSERT, ("", "x"))), Truncation(PAIRS, at(1)), position=1
    )
    row, emptied = outgoing(Envelopes([one], "neolayer").of([changed]))
    assert not row.concerns_all and emptied.concerns_all
