"""Projections: code that folds events, and the read models that it fills.

    class Balance(msgspec.Struct, frozen=True):
        account_id: UUID
        balance: int

    def fold(row: Balance | None, seen: Occurrence) -> Balance | None: ...

    BALANCES = Projection("balances", Balance, key=("account_id",), events=(Deposited,), fold=fold)

A projection is a row's type and one plain function, and nothing in it says how rows are stored,
read ahead, locked or replayed. That leaves the platform free to fold one event within the append's
own transaction (inline), a page of them at a time behind it (asynchronous), or all of history into
a second table beside the live one (rebuild), with one and the same function.
"""

from __future__ import annotations

from neolayer.events.projections.model import Mode, Occurrence, Projection, of_stream

__all__ = ["Mode", "Occurrence", "Projection", "of_stream"]
