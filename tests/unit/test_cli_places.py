"""Places as people read them."""

from __future__ import annotations

from neolayer.events import Place


def test_a_place_behind_a_whole_transaction_is_its_end() -> None:
    """No event stands there, and nineteen digits say nothing; what is shown can be given back."""
    end = Place.end_of(741)
    assert end.shown == "741:end" and Place.parse(end.shown) == end
    assert Place(741, 9).shown == "741:9"
