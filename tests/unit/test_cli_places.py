"""Places as people read them."""

from __future__ import annotations

from neolayer.cli.event_subscriptions import _shown  # pyright: ignore[reportPrivateUsage]
from neolayer.events import Place


def test_a_place_behind_a_whole_transaction_is_its_end() -> None:
    """No event stands there, and nineteen digits say nothing."""
    assert _shown(Place(741, 2**63 - 1)) == "741:end"
    assert _shown(Place(741, 9)) == "741:9"
