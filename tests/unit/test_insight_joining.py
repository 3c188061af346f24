"""A store says of each class whether it is joined, and what it lacks."""

from __future__ import annotations

from dataclasses import dataclass

from neolayer.catalogue import CacheCopy, ClickHouseCopy, DataClass
from neolayer.insight.joining import joining
from neolayer.platform import data_classes


def test_nothing_is_joined_before_it_can_be_erased_and_restored() -> None:
    """What is copied to ClickHouse and Redis is told, compared and found, and no more yet."""
    by_copy = {(one.store, one.data_class): one for one in joining(data_classes())}
    for place in (("clickhouse", "blocks"), ("redis", "transactions")):
        assert by_copy[place].covered == {"position", "reconcile", "where"}
        assert not by_copy[place].is_joined


def test_a_copy_that_nothing_covers_is_listed_too() -> None:
    """A store that is declared and not known to any verb is not left out in silence."""

    @dataclass(frozen=True)
    class PigeonCopy:
        key: str = "x"

    one = DataClass(
        "letters",
        "neolayer",
        "public.letters",
        copies=(
            PigeonCopy(),  # type: ignore[arg-type]
            CacheCopy("letter:{id}"),
            ClickHouseCopy("letters", ("id",), ("id",)),
        ),
    )
    found = [(each.store, sorted(each.covered)) for each in joining([one])]
    covered = ["position", "reconcile", "where"]
    assert found == [("clickhouse", covered), ("pigeon", []), ("redis", covered)]
