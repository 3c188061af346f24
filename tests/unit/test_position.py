"""Positions order commits, survive a restore, and fit every sink's version."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neolayer.errors import InvalidInput
from neolayer.freshness import wait_for
from neolayer.position import Position, Positions, format_lsn, parse_lsn

lsns = st.integers(0, (1 << 48) - 1)
epochs = st.integers(0, 30_000)


@given(st.integers(0, (1 << 64) - 1))
def test_an_lsn_survives_its_text_form(lsn: int) -> None:
    """Formatting and parsing an LSN gives the LSN back, over all 64 bits."""
    assert parse_lsn(format_lsn(lsn)) == lsn


def test_lsn_text_is_postgresqls() -> None:
    """The text form is the one PostgreSQL prints."""
    assert format_lsn(0x16_B374_D848) == "16/B374D848"
    assert parse_lsn("0/0") == 0


@given(epochs, lsns)
def test_a_position_survives_its_text_and_its_version(epoch: int, lsn: int) -> None:
    """A position can be rebuilt from its text and from its version."""
    position = Position(epoch, lsn)
    assert Position.parse(str(position)) == position
    assert Position.from_version(position.version) == position
    assert 0 <= position.version < 9_200_000_000_000_000_000


@given(epochs, lsns, epochs, lsns)
def test_versions_order_as_positions_do(e1: int, l1: int, e2: int, l2: int) -> None:
    """Comparing versions is comparing (epoch, LSN): a new epoch beats any LSN of an old one."""
    one, two = Position(e1, l1), Position(e2, l2)
    assert (one < two) == (one.version < two.version)


@pytest.mark.parametrize(("epoch", "lsn"), [(1, 1 << 48), (30_001, 0), (-1, 0), (0, -1)])
def test_a_position_that_does_not_fit_is_refused(epoch: int, lsn: int) -> None:
    """What cannot be packed without loss raises instead of wrapping round."""
    with pytest.raises(OverflowError):
        _ = Position(epoch, lsn).version


@pytest.mark.parametrize(
    "text", ["", "neolayer", "neolayer:1", "neolayer:1:0", "x:y:0/0", "a:1:G/0"]
)
def test_text_that_is_no_position_is_refused(text: str) -> None:
    """Parsing anything else says what was expected."""
    with pytest.raises(ValueError, match="expected"):
        Position.parse(text)


def test_a_token_holds_the_furthest_of_each_database() -> None:
    """Positions of several databases are one text; of one database only the furthest counts."""
    core, events = Position(1, 5), Position(1, 9, "event_store")
    token = Positions.of(events, core, Position(1, 3), None)
    assert str(token) == "event_store:1:0/9,neolayer:1:0/5"
    assert Positions.parse(str(token)) == token
    assert token.plus(Position(2, 1)).at("neolayer") == Position(2, 1)
    assert token.at("timeseries") is None
    assert not Positions() and Positions.parse("") == Positions()
    with pytest.raises(ValueError, match="not a position"):
        Positions.parse("neolayer:1:0/5,nonsense")


@pytest.mark.parametrize("text", ["neolayer:1:0/16B3748", "x", None])
async def test_what_is_no_position_is_not_waited_for(text: object) -> None:
    """Text is not one, and the refusal says how it becomes one."""
    with pytest.raises(InvalidInput, match="a position is a Position or Positions") as refused:
        await wait_for(cast("Any", text), cast("Any", None), timeout=timedelta(seconds=1))
    assert refused.value.hint is not None and "Positions.parse" in refused.value.hint
