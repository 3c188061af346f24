"""Which copies are joined: told where they are, compared, found, erased and restored with the rest.

A store counts as joined for a class only when all five hold; until then `status` says what is
missing. Erasing and restoring over all stores come with the lifecycle's rooms.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from neolayer.catalogue import CacheCopy, ClickHouseCopy, DataClass, MongoCopy, SearchCopy
from neolayer.freshness import ALL_STORES, Store
from neolayer.relay.comparing.stores import OPENERS

VERBS = ("position", "reconcile", "where", "erase", "restore")
_STORES: dict[type, str] = {
    ClickHouseCopy: Store.CLICKHOUSE,
    CacheCopy: Store.REDIS,
    MongoCopy: Store.MONGODB,
    SearchCopy: Store.ELASTICSEARCH,
}
_OUTGOING = "outgoing"  # waited for by name; what has left is not ours to compare
_COMPARED = {*OPENERS, Store.REDIS}


@dataclass(frozen=True, slots=True)
class Joining:
    """One class in one store, and which verbs cover it."""

    store: str
    data_class: str
    covered: frozenset[str]

    @property
    def is_joined(self) -> bool:
        return self.covered.issuperset(VERBS)


def joining(classes: Iterable[DataClass]) -> list[Joining]:
    """Every copy that the catalogue names, by store and class."""
    found = [
        Joining(store, one.name, _covered(store))
        for one in classes
        for copy in one.copies
        for store in [_store_of(copy)]
    ]
    return sorted(found, key=lambda one: (one.store, one.data_class))


def _store_of(copy: object) -> str:
    """The store a copy lies in; one that we do not know yet by the copy's own name."""
    return str(_STORES.get(type(copy)) or type(copy).__name__.removesuffix("Copy").lower())


def _covered(store: str) -> frozenset[str]:
    covered: set[str] = set()
    if store in (*ALL_STORES, _OUTGOING):
        covered.add("position")
    if store in _COMPARED:
        covered |= {"reconcile", "where"}
    return frozenset(covered)
