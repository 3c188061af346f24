"""Event types: declared once, read at every schema version, refused in one sentence."""

from __future__ import annotations

import base64
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest
from tests.fixtures.bank import (
    BALANCES,
    Account,
    AccountClosed,
    Balance,
    Deposit,
    Deposited,
    NotEnough,
    Opened,
    Withdraw,
    Withdrawn,
    accounts,
    decide,
    evolve,
)

from neolayer.errors import SettingsError
from neolayer.events.aggregates import Aggregate
from neolayer.events.errors import (
    BadEventType,
    BadProjection,
    UndecodableEvent,
    UnknownEventType,
    UnknownProjection,
)
from neolayer.events.personal import (
    Erased,
    Personal,
    open_text,
    personal_fields,
    seal_text,
    subject_of,
)
from neolayer.events.projections import Occurrence, Projection
from neolayer.events.projections.domain import Domain, load_domain
from neolayer.events.projections.folding import Refusals, Unreadable, fold, keys_of, steps_of
from neolayer.events.projections.shape import shape_of
from neolayer.events.registry import EventTypes, Registry
from neolayer.events.snapshots import SnapshotPolicy
from neolayer.keys import BrokenSeal
from neolayer.keys.keyset import new_key

REGISTRY = Registry([accounts])


@pytest.mark.parametrize(
    ("version", "data", "expected"),
    [
        (1, b'{"units": 3}', Deposited(300, "EUR")),
        (2, b'{"amount": 7}', Deposited(7, "EUR")),
        (3, b'{"amount": 7, "currency": "CHF"}', Deposited(7, "CHF")),
    ],
)
def test_every_schema_version_reads_as_the_present_one(
    version: int, data: bytes, expected: Deposited
) -> None:
    """Step by step, from JSON and from data taken apart alike."""
    kind = REGISTRY.named("account", "deposited")
    assert kind.from_json(data, version) == expected
    assert kind.from_data(msgspec.json.decode(data), version) == expected


def test_a_newer_schema_version_is_refused() -> None:
    """Rather than read with fields missing."""
    with pytest.raises(UndecodableEvent, match="stored at schema version 4, this program knows 3"):
        REGISTRY.named("account", "deposited").from_json(b"{}", 4)


def test_what_does_not_fit_is_refused_by_its_name() -> None:
    """Type, version and what was wrong, in one sentence."""
    with pytest.raises(UndecodableEvent, match="a stored withdrawn of schema version 1 is no"):
        REGISTRY.named("account", "withdrawn").from_json(b'{"amount": "five"}', 1)


def test_unknown_types_are_one_clear_error() -> None:
    """Of a class that was never registered, and of a stored name."""
    with pytest.raises(UnknownEventType, match="Account is no registered event"):
        REGISTRY.of(Account)
    with pytest.raises(UnknownEventType, match="nothing is registered for events 'x' of category"):
        REGISTRY.named("account", "x")


def declare(**options: object) -> EventTypes:
    types = EventTypes("thing")

    @types.event("happened", **options)  # type: ignore[arg-type]
    class Happened(msgspec.Struct, frozen=True):
        who: UUID
        name: Personal = ""

    return types


def test_declarations_that_do_not_hold_together_are_refused() -> None:
    """When they are read, not when the first old event comes along."""
    with pytest.raises(BadEventType, match="nothing leads on from 1"):
        Registry([declare(schema_version=2, subject="who")])
    with pytest.raises(BadEventType, match="has personal fields"):
        Registry([declare()])
    with pytest.raises(BadEventType, match="the subject is a field of type UUID"):
        Registry([declare(subject="name")])
    with pytest.raises(BadEventType, match="registered twice"):
        Registry([accounts, accounts])
    stray = declare(subject="who")
    stray.upcaster("heard", from_version=1)(dict)
    with pytest.raises(BadEventType, match="no such event"):
        Registry([stray])
    beyond = declare(subject="who")
    beyond.upcaster("happened", from_version=1)(dict)
    with pytest.raises(BadEventType, match="leads beyond it"):
        Registry([beyond])
    with pytest.raises(BadEventType, match="must be a frozen Struct"):

        @EventTypes("thing").event("changes")
        class Changes(msgspec.Struct):
            pass


# Aggregates as plain functions


def test_rules_are_tested_by_calling_them() -> None:
    """decide and evolve need no store."""
    state = evolve(evolve(Account(), Deposited(10)), Withdrawn(3))
    assert state.balance == 7
    assert decide(Withdraw(7), state) == [Withdrawn(7)]
    assert decide(Deposit(1), state) == [Deposited(1)]
    with pytest.raises(NotEnough):
        decide(Withdraw(8), state)


def test_a_snapshot_is_due_every_so_many_events() -> None:
    """Counted from the last one."""
    policy = SnapshotPolicy(every=10)
    assert not policy.is_due(last=0, version=9)
    assert policy.is_due(last=0, version=10)
    assert not policy.is_due(last=10, version=19)
    assert policy.is_due(last=10, version=31)


class Basket(msgspec.Struct, frozen=True):
    first: Item | None = None


def fill(basket: Basket, _: object) -> Basket:
    return basket


BASKET = Aggregate("basket", Basket(), fill, lambda *_: [], SnapshotPolicy())


class Item(msgspec.Struct, frozen=True):
    name: str


def test_an_aggregates_snapshots_bear_a_mark_of_its_state() -> None:
    """Of its fields, its beginning and who folds it; types may be declared behind the aggregate."""
    fuller = msgspec.defstruct("Basket", [("first", Item | None, None), ("n", int, 0)], frozen=True)
    marks = {
        BASKET.form,
        replace(BASKET, initial=Basket(Item("a"))).form,
        replace(BASKET, initial=fuller()).form,
        replace(BASKET, evolve=evolve).form,
    }
    assert len(marks) == 4
    assert replace(BASKET, initial=Basket()).form == BASKET.form


# Personal fields


def test_personal_fields_are_found_by_their_type() -> None:
    """Optional ones too."""
    assert personal_fields(Opened) == ("owner", "email")
    assert personal_fields(Deposited) == ()


def test_a_sealed_text_opens_for_its_subject_and_tenant_alone() -> None:
    """Without the key, or with the subject's next one, it is erased; elsewhere it is broken."""
    tenant, subject, key = uuid4(), uuid4(), new_key()
    sealed = seal_text("Ann", key, tenant=tenant, subject=subject)
    assert "Ann" not in sealed and subject_of(sealed) == subject
    assert open_text(sealed, {subject: key}, tenant=tenant) == "Ann"
    assert open_text(sealed, {}, tenant=tenant) == Erased()
    assert open_text(sealed, {subject: new_key()}, tenant=tenant) == Erased()
    with pytest.raises(BrokenSeal):
        open_text(sealed, {subject: key}, tenant=uuid4())
    with pytest.raises(BrokenSeal):
        open_text(f"{sealed[:-4]}AAAA", {subject: key}, tenant=tenant)
    assert open_text("ps1. is how it begins", {}, tenant=tenant) == "ps1. is how it begins"


def test_a_value_seals_alike_within_one_place_alone() -> None:
    """Another place, text or key gives another nonce; without a place each time is another."""
    who = {"tenant": uuid4(), "subject": uuid4()}
    key, place = new_key(), b"event 1 owner"
    sealed = seal_text("Ann", key, **who, within=place)
    assert seal_text("Ann", key, **who, within=place) == sealed
    assert open_text(sealed, {who["subject"]: key}, tenant=who["tenant"]) == "Ann"
    others = [
        seal_text("Ben", key, **who, within=place),
        seal_text("Ann", key, **who, within=b"event 2 owner"),
        seal_text("Ann", new_key(), **who, within=place),
        seal_text("Ann", key, **who),
        seal_text("Ann", key, **who),
    ]
    nonces = {base64.urlsafe_b64decode(one.split(".")[3] + "==")[:12] for one in [sealed, *others]}
    assert len(nonces) == 6


# Projections


def occurrence(event: msgspec.Struct, stream: UUID | None = None) -> Occurrence:
    return Occurrence(event, TENANT, stream or uuid4(), "account", 1, uuid4(), datetime.now(UTC))


TENANT = uuid4()


def test_folding_is_plain() -> None:
    """Rows in, rows out; what does not change is not written, what ends is removed."""
    one, two, three = uuid4(), uuid4(), uuid4()
    seen = [
        occurrence(Deposited(5), one),
        occurrence(AccountClosed(), two),
        occurrence(Deposited(1), one),
        occurrence(Deposited(0), three),
        occurrence(AccountClosed(), three),
    ]
    refusals = Refusals()
    steps = steps_of(BALANCES, seen, refusals)
    assert keys_of(steps) == [(TENANT, (one,)), (TENANT, (two,)), (TENANT, (three,))]
    folded = fold(BALANCES, steps, {(TENANT, (two,)): Balance(two)}, refusals)
    assert not refusals
    assert folded.put == {(TENANT, (one,)): Balance(one, 6, 2)}
    assert folded.removed == [(TENANT, (two,))]


def test_a_fold_that_moves_a_row_is_refused() -> None:
    """Its key is what it was asked for."""
    stray = Projection(
        "stray", Balance, ("account_id",), (Deposited,), lambda row, seen: Balance(uuid4())
    )
    refusals = Refusals()
    fold(stray, steps_of(stray, [occurrence(Deposited(1))], refusals), {}, refusals)
    assert "the row's key is not" in str(refusals.first())


def test_C8_a_stream_stands_at_its_first_event_that_cannot_be_folded() -> None:
    """Whether its keys or its rows fail; what is refused changes none of its rows, what stands
    behind it waits, and other streams count."""

    def keys(seen: Occurrence) -> list[tuple[UUID]]:
        if seen.event.amount == 5:  # type: ignore[attr-defined]
            raise LookupError("no such row")
        return [(stream,), (other,)]

    def fold_it(row: Balance | None, seen: Occurrence) -> Balance | None:
        if seen.event.amount == 3 and seen.key == (other,):  # type: ignore[attr-defined]
            raise ValueError("three")
        return BALANCES.fold(row or Balance(*seen.key), seen)

    stream, other = uuid4(), uuid4()
    odd = Projection("odd", Balance, ("account_id",), (Deposited,), fold_it, keys=keys)
    seen = [
        replace(occurrence(Deposited(amount), stream), version=amount) for amount in range(1, 7)
    ]
    seen.insert(3, occurrence(Deposited(100), other))
    refusals = Refusals()
    steps = steps_of(odd, seen, refusals)
    assert [one.version for one in refusals.by_stream.values()] == [5]
    folded = fold(odd, steps, {}, refusals)
    (refused,) = refusals.by_stream.values()
    assert (refused.version, refused.stream_id) == (3, stream) and "three" in str(refused.failed)
    assert {row.balance for row in folded.put.values()} == {1 + 2 + 100}
    row = {(TENANT, (stream,)): Unreadable("is no Balance")}
    again = Refusals()
    assert fold(odd, steps_of(odd, seen, again), row, again).put.keys() == set()
    assert {one.version for one in again.by_stream.values()} == {1}


class Row(msgspec.Struct, frozen=True):
    id: UUID
    name: str | None = None


def test_a_row_type_says_what_the_table_is() -> None:
    """Columns, their types and what may be null."""
    shape = shape_of(BALANCES)
    assert [str(column) for column in shape.columns] == [
        "account_id uuid NOT NULL",
        "balance bigint NOT NULL",
        "movements bigint NOT NULL",
        "owner text",
    ]


@pytest.mark.parametrize(
    ("name", "row", "key", "complaint"),
    [
        ("Rows", Row, ("id",), "a projection's name"),
        ("rows; drop table x", Row, ("id",), "a projection's name"),
        ("rows", Row, ("other",), "has no field 'other'"),
        ("rows", Row, (), "say which fields are the key"),
        ("rows", msgspec.defstruct("Thawed", [("id", UUID)]), ("id",), "must be a frozen Struct"),
        (
            "rows",
            msgspec.defstruct("Tenanted", [("tenant_id", UUID)], frozen=True),
            ("tenant_id",),
            "tenant_id stands in every row",
        ),
    ],
)
def test_projections_that_cannot_be_are_refused(
    name: str, row: type[msgspec.Struct], key: tuple[str, ...], complaint: str
) -> None:
    """When they are declared."""
    with pytest.raises(BadProjection, match=complaint):
        Projection(name, row, key, (Deposited,), lambda row, seen: row)


def test_a_key_must_be_there_and_comparable() -> None:
    """No null and no JSON in a key; no field without a column."""
    optional = Projection("rows", Row, ("name",), (Deposited,), lambda row, seen: row)
    with pytest.raises(BadProjection, match="cannot be part of the key"):
        shape_of(optional)
    odd = msgspec.defstruct("Odd", [("id", UUID), ("raw", bytes)], frozen=True)
    with pytest.raises(BadProjection, match="the field raw fits no column"):
        shape_of(Projection("rows", odd, ("id",), (Deposited,), lambda row, seen: row))


def test_a_domain_is_what_its_modules_hold() -> None:
    """Every set of event types and every projection, once, whatever they are called."""
    domain = load_domain(["tests.fixtures.bank"])
    assert [one.name for one in domain.projections] == [
        "balances",
        "inline_balances",
        "totals",
        "inline_totals",
    ]
    assert domain.registry.knows("account", "opened")
    with pytest.raises(UnknownProjection, match="no projection is called 'x'; there are: balances"):
        domain.projection("x")
    with pytest.raises(SettingsError, match="there is no module 'nowhere'"):
        load_domain(["nowhere.domain"])
    with pytest.raises(BadProjection, match="bear one name"):
        Domain.of([accounts], [BALANCES, BALANCES])


class Address(msgspec.Struct, frozen=True):
    street: Personal


@pytest.mark.parametrize(
    "hint", [list[Personal], dict[str, Personal], Address, list[Address], Personal | int]
)
def test_E15_personal_text_that_nothing_would_seal_is_refused(hint: Any) -> None:
    """Within containers and other Structs, when the types are read."""
    types = EventTypes("thing")
    fields = [("who", UUID), ("name", hint)]
    types.event("happened", subject="who")(msgspec.defstruct("Happened", fields, frozen=True))
    with pytest.raises(BadEventType, match="name holds Personal where nothing"):
        Registry([types])


@pytest.mark.parametrize(
    ("name", "version", "complaint"),
    [
        ("", 1, "a type is 1 to 255"),
        ("a\n", 1, "a type is 1 to 255"),
        ("StreamClosed", 1, "is what closes a stream"),
        ("happened", 0, "start at 1"),
    ],
)
def test_declarations_that_could_never_be_stored_are_refused(
    name: str, version: int, complaint: str
) -> None:
    """Names, versions, categories, and Structs that are no JSON object."""
    types, category = EventTypes("thing"), EventTypes("")
    types.event(name, schema_version=version)(msgspec.defstruct("Happened", [], frozen=True))
    with pytest.raises(BadEventType, match=complaint):
        Registry([types])
    with pytest.raises(BadEventType, match="a category is 1 to 255"):
        Registry([category])
    listed = EventTypes("thing")
    kind = msgspec.defstruct("Listed", [("a", int)], frozen=True, array_like=True)
    listed.event("listed")(kind)
    with pytest.raises(BadEventType, match="is array_like"):
        Registry([listed])
