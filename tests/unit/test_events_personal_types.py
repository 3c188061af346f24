"""Which fields of a type are personal, however the type spells it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Generic, NamedTuple, NewType, TypedDict, TypeVar
from uuid import UUID, uuid4

import msgspec
import pytest

from neolayer.events import EventTypes, Personal, Registry
from neolayer.events.codec import TenantCodec
from neolayer.events.errors import BadEventType
from neolayer.events.personal import personal_fields
from neolayer.keys.keyset import new_key

T = TypeVar("T")
Owner = NewType("Owner", Personal)  # type: ignore[valid-newtype]


class Moved(msgspec.Struct, frozen=True):
    who: UUID
    name: Personal
    before: Moved | None = None


class Twin(msgspec.Struct, frozen=True):
    who: UUID
    others: list[Holder] = []


class Holder(msgspec.Struct, frozen=True):
    twin: Twin | None = None
    name: Personal | None = None


class Base(msgspec.Struct, Generic[T], frozen=True):
    who: UUID
    value: T


class Named(Base[Personal], frozen=True):
    pass


class Within(msgspec.Struct, frozen=True):
    who: UUID
    base: Base[Personal]


class Renamed(msgspec.Struct, frozen=True):
    who: UUID
    name: Owner | None = None


class Titled(msgspec.Struct, frozen=True):
    who: UUID
    name: Annotated[Personal | msgspec.UnsetType, msgspec.Meta(title="Name")] = msgspec.UNSET


class Counted(msgspec.Struct, frozen=True):
    """Comes back to itself, and holds nothing personal but what is sealed."""

    who: UUID
    steps: list[Step] = []
    name: Personal | None = None


class Step(msgspec.Struct, frozen=True):
    following: list[Step] = []
    value: Any = None


@dataclass
class Card:
    name: Personal


class Pair(NamedTuple):
    name: Personal


class Entry(TypedDict):
    name: Personal


class Subjects:
    """A key a person, made when it is asked for."""

    def __init__(self) -> None:
        self.made: dict[UUID, bytes] = {}

    async def keys_for_writing(self, about: set[UUID]) -> dict[UUID, bytes]:
        return {who: self.made.setdefault(who, new_key()) for who in about}

    keys = keys_for_writing


def declared(kind: type[msgspec.Struct]) -> Registry:
    types = EventTypes("thing")
    types.event("happened", subject="who")(kind)
    return Registry([types])


@pytest.mark.parametrize(
    ("kind", "field"),
    [
        (Moved, "before"),
        (Twin, "others"),
        (Within, "base"),
        *(
            (msgspec.defstruct("Odd", [("who", UUID), ("it", hint)], frozen=True), "it")
            for hint in (Card, Pair, Entry, tuple[Personal, int], Owner | int, list[Owner])
        ),
    ],
)
def test_E15_personal_text_in_an_inner_type_is_refused(kind: Any, field: str) -> None:
    """In a type's own kind, by way of a ring of types, by a type variable, in classes of any make:
    nothing would seal it there."""
    with pytest.raises(BadEventType, match=f"{field} holds Personal where nothing"):
        declared(kind)


@pytest.mark.parametrize(
    ("kind", "event", "field"),
    [
        (Named, Named(uuid4(), "Ann"), "value"),
        (Renamed, Renamed(uuid4(), Owner("Ann")), "name"),
        (Titled, Titled(uuid4(), "Ann"), "name"),
        (Counted, Counted(uuid4(), [Step([Step()])], "Ann"), "name"),
    ],
)
async def test_E15_personal_text_by_another_name_is_sealed(
    kind: type[Any], event: Any, field: str
) -> None:
    """A NewType of Personal, and a type variable that stands for it; and it opens again."""
    assert personal_fields(kind) == (field,)
    codec = TenantCodec(uuid4(), declared(kind), Subjects())  # type: ignore[arg-type]
    (stored,) = await codec.encode([event])
    assert stored.data[field].startswith("ps1.") and "Ann" not in str(stored.data)
    (back,) = await codec.read_back([stored], category="thing")
    assert back == event


async def test_a_personal_field_may_be_left_out() -> None:
    """Then there is nothing to seal."""
    codec = TenantCodec(uuid4(), declared(Titled), Subjects())  # type: ignore[arg-type]
    (stored,) = await codec.encode([Titled(uuid4())])
    assert "name" not in stored.data
    assert (await codec.read_back([stored], category="thing"))[0].name is msgspec.UNSET  # type: ignore[attr-defined]
