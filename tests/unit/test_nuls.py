"""D: the character NUL is in no stored text; wherever it is given, the refusal names the place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neolayer.cli.events import append as append_command
from neolayer.engines.postgres.parameters import Texts, require_texts
from neolayer.errors import InvalidInput
from neolayer.events import NewEvent, StreamAppend
from neolayer.events.units import make_unit
from neolayer.nuls import HoldsNul, nul_in, refuse_nul
from neolayer.outbox import Announcement, announce

PLACES: list[tuple[Any, str]] = [
    ("a\0", ""),
    ({"a": "\0"}, ".a"),
    ({"a": {"b": [1, None, {"c": "x\0y"}]}}, ".a.b[2].c"),
    ([["\0"]], "[0][0]"),
    ({"a\0b": 1}, '["a\\u0000b"]'),
    ({"a": [{"\0": "\0"}]}, '.a[0]["\\u0000"]'),
    ({"gross weight": "\0"}, '["gross weight"]'),
    ({"": "\0"}, '[""]'),
]


@pytest.mark.parametrize(("value", "path"), PLACES)
def test_D_a_NUL_is_found_where_it_is(value: Any, path: str) -> None:
    """In text, in lists and objects of any depth, and in the names of fields."""
    assert nul_in(value, "data") == f"data{path}"
    with pytest.raises(HoldsNul) as refused:
        refuse_nul(value, "data")
    assert str(refused.value).startswith(f"data{path}: the character NUL")
    assert refused.value.hint is not None and "base64" in refused.value.hint
    assert "\0" not in str(refused.value)


json_without = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(exclude_characters="\0")),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["a", "\\u0000", "é"]), inner),
    max_leaves=20,
)


@given(json_without)
def test_D_what_holds_no_NUL_is_taken(value: Any) -> None:
    """Also what only looks like one."""
    assert nul_in(value, "data") is None


def event(**given: Any) -> NewEvent:
    return NewEvent(**({"type": "noted", "data": {}} | given))


@pytest.mark.parametrize(
    ("bad", "path"),
    [
        (event(data={"a": [1, {"b": "x\0"}]}), "events[1].data.a[1].b"),
        (event(data={"a": {"\0": 1}}), 'events[1].data.a["\\u0000"]'),
        (event(metadata={"by": "\0"}), "events[1].metadata.by"),
        (event(type="no\0ted"), "events[1].type"),
        (event(key_id="\0"), "events[1].key_id"),
    ],
)
def test_D_an_append_names_the_event_and_the_field(bad: NewEvent, path: str) -> None:
    """Of one stream and of several; another event of the append is not blamed."""
    good = event(data={"a": "\\u0000"})
    one = StreamAppend(uuid4(), [good, bad], "notes")
    with pytest.raises(HoldsNul) as refused:
        make_unit([one], None, None)
    assert refused.value.path == path
    with pytest.raises(HoldsNul) as refused:
        make_unit([StreamAppend(uuid4(), [good], "notes"), one], None, None)
    assert refused.value.path == f"appends[1].{path}"


def test_D_an_append_names_what_is_not_of_an_event() -> None:
    """Its category; and an id that is none, by the name of the field."""
    with pytest.raises(HoldsNul) as refused:
        make_unit([StreamAppend(uuid4(), [event()], "no\0tes")], None, None)
    assert refused.value.path == "category"
    for append, name in (
        (StreamAppend("a\0", [event()], "notes"), "stream_id"),  # pyright: ignore[reportArgumentType]
        (StreamAppend(uuid4(), [event(event_id="a\0")], "notes"), r"events\[0\].event_id"),
        (
            StreamAppend(uuid4(), [event(correlation_id="a\0")], "notes"),
            r"events\[0\].correlation_id",
        ),
    ):
        with pytest.raises(InvalidInput, match=f"^{name}: .*UUID"):
            make_unit([append], None, None)


@pytest.mark.parametrize(
    ("option", "text", "path"),
    [
        ("data", r'{"a": ["\u0000"]}', "--data.a[0]"),
        ("metadata", r'{"a\u0000": 1}', '--metadata["a\\u0000"]'),
    ],
)
async def test_D_the_command_line_names_the_option_and_the_field(
    option: str, text: str, path: str
) -> None:
    """Before anything is asked of a server."""
    with pytest.raises(HoldsNul) as refused:
        await append_command(tenant="acme", type_="Noted", **{option: text})  # pyright: ignore[reportArgumentType]
    assert refused.value.path == path


@dataclass
class Tx:
    tenant: UUID | None = field(default_factory=uuid4)

    def defer(self, query: str, params: Mapping[str, Any]) -> None:
        raise AssertionError("nothing is to be stored")


def test_D_an_announcement_names_the_field() -> None:
    """Its data is JSON like any other."""
    with pytest.raises(HoldsNul) as refused:
        announce(Tx(), Announcement("wallets", "k", "wallet.made", {"a": [{"b": "\0"}]}))
    assert refused.value.path == "data.a[0].b"


def test_D_any_other_text_is_refused_by_its_parameters_name() -> None:
    """What comes to a statement by another way, in every form that parameters have."""
    for refusing in (
        lambda: require_texts(["a", "b\0"], ["name", "email"]),
        lambda: require_texts([["b\0"]], ["email"]),
        lambda: Texts(email="b\0").ordered(["email"]),
    ):
        with pytest.raises(HoldsNul) as refused:
            refusing()
        assert refused.value.path == "email"


@pytest.mark.parametrize(
    ("value", "path"), [({"a": ["", "\ud800"]}, ".a[1]"), ({"\udfff": 1}, '["\\udfff"]')]
)
def test_half_of_a_character_is_told_where_it_is(value: Any, path: str) -> None:
    """No UTF-8 can hold it: of an event it is named as a NUL is."""
    with pytest.raises(InvalidInput) as refused:
        make_unit([StreamAppend(uuid4(), [event(), event(data=value)], "c")], None, None)
    assert refused.value.message.startswith(f"events[1].data{path}: half of a character")
    assert refused.value.hint is not None
    with pytest.raises(InvalidInput, match="is not JSON"):
        make_unit([StreamAppend(uuid4(), [event(data={1: "\ud800"})], "c")], None, None)
