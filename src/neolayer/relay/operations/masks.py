"""What of a refused row may be kept for people to look at: no sealed and no personal values; and
whose row it is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Final

from neolayer.catalogue import DataClass
from neolayer.relay.sinks.sink import Rejected

MASK: Final = "(masked)"
_TELLING: Final = 3  # shorter texts stand in any sentence


class Masks:
    """The columns to mask, and that of the tenant, by table."""

    def __init__(self, classes: Iterable[DataClass]) -> None:
        classes = tuple(classes)
        self._tenants = {one.table: one.tenant_key for one in classes if one.tenant_key}
        self._columns: Mapping[str, frozenset[str]] = {
            one.table: frozenset(
                (*one.personal_fields, *(sealed.column for sealed in one.sealed_fields))
            )
            for one in classes
        }

    def tenant_of(self, one: Rejected) -> str | None:
        """None where the row is everybody's, or does not say."""
        column = self._tenants.get(one.table)
        return one.row.get(column) if column else None

    def of(self, one: Rejected) -> Rejected:
        """The same change with masks, also where the store's words quote a value."""
        hidden = self._columns.get(one.table, frozenset())
        row = {
            name: MASK if name in hidden and text is not None else text
            for name, text in one.row.items()
        }
        cause = one.cause
        for text in (one.row.get(name) for name in hidden):
            if text and len(text) > _TELLING:
                cause = cause.replace(text, MASK)
        return replace(one, row=row, cause=cause)
