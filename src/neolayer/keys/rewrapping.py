"""Re-wrap every sealed row under the current key, tenant by tenant, in batches.

What is left to do is what bears another key's id, so there is no progress to keep: killed at any
moment, it goes on where it was. A batch is one transaction of the tenant, with its audit entry. Old
and new key both open meanwhile.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol
from uuid import UUID

from psycopg import sql

from neolayer.audit import Entry, Writer, append
from neolayer.keys.errors import KeyringError, KeysUnavailable
from neolayer.keys.keyring import Keyring
from neolayer.keys.names import KeyName
from neolayer.keys.seal import key_id_of
from neolayer.keys.sealed_rows import (
    KeyUse,
    SealedColumn,
    SealedRow,
    batch_query,
    row_of,
    swap_query,
)

BATCH_ROWS = 500
_MOST_PASSES = 3


class Transaction(Writer, Protocol):
    """A tenant's transaction."""

    async def fetch(
        self, query: sql.Composed, params: Mapping[str, Any]
    ) -> Sequence[tuple[Any, ...]]: ...


class TenantScope(Protocol):
    """One tenant and whoever acts in it."""

    def transaction(self) -> AbstractAsyncContextManager[Transaction]: ...


@dataclass(slots=True)
class Rewrapped:
    """What was done: rows under the current key, and rows that do not open, by reason."""

    rows: int = 0
    changed_meanwhile: int = 0
    refused: Counter[str] = field(default_factory=Counter[str])


@dataclass(frozen=True, slots=True)
class _Walk:
    keyring: Keyring
    column: SealedColumn
    current: KeyName
    done: Rewrapped
    batch_rows: int

    async def batch(self, scope: TenantScope, tenant: UUID, after: UUID | None) -> UUID | None:
        """One batch; the id of its last row, or None where none was left.

        The keys' provider is asked between two transactions, since it may take its time. A row that
        was sealed anew meanwhile stays as it is.
        """
        params = {
            "tenant": tenant,
            "current": str(self.current),
            "after": after,
            "limit": self.batch_rows,
        }
        async with scope.transaction() as tx:
            found = await tx.fetch(batch_query(self.column), params)
        rows = [row_of(self.column, values) for values in found]
        fresh, refused = await self._rewrapped(rows)
        if not rows:
            return None
        async with scope.transaction() as tx:
            swapped = 0
            if fresh:
                values = {
                    "ids": [row.id for row, _ in fresh],
                    "olds": [row.sealed for row, _ in fresh],
                    "fresh": [text for _, text in fresh],
                    "keys": [key_id_of(text) for _, text in fresh],
                }
                swapped = len(await tx.fetch(swap_query(self.column), {**values, "tenant": tenant}))
            self._append(tx, swapped, refused)
        self.done.rows += swapped
        self.done.changed_meanwhile += len(fresh) - swapped
        self.done.refused.update(refused)
        return rows[-1].id

    async def _rewrapped(
        self, rows: Iterable[SealedRow]
    ) -> tuple[list[tuple[SealedRow, str]], list[str]]:
        fresh: list[tuple[SealedRow, str]] = []
        refused: list[str] = []
        for row in rows:
            try:
                fresh.append((row, await self.keyring.rewrap(row.sealed, bound_to=row.bound_to)))
            except KeysUnavailable:
                raise
            except KeyringError as exc:
                refused.append(f"{self.column}: {exc.message}")
        return fresh, refused

    def _append(self, tx: Transaction, swapped: int, refused: Sequence[str]) -> None:
        changes = {"rewrapped": self.column.field.column, "key": str(self.current)}
        if swapped:
            entry = Entry("UPDATE", self.column.table, changes={**changes, "rows": swapped})
            append(tx, entry)
        if refused:
            changes = {**changes, "rows": len(refused)}
            append(
                tx,
                Entry(
                    "UPDATE",
                    self.column.table,
                    changes=changes,
                    success=False,
                    error_message=refused[0],
                ),
            )


async def rewrap(
    keyring: Keyring,
    usage: Iterable[KeyUse],
    *,
    scope_of: Callable[[UUID], TenantScope],
    on_batch: Callable[[Rewrapped], None] = lambda _: None,
    batch_rows: int = BATCH_ROWS,
) -> Rewrapped:
    """Every row of `usage` that another key than the current one seals.

    A row that does not open is counted with the reason and left as it is. Raises KeysUnavailable;
    what was done until then stays done.
    """
    current = await keyring.current()
    waiting = [use for use in usage if use.key_id != str(current)]
    todo = {(str(use.column), use.tenant): use.column for use in waiting}
    done = Rewrapped()
    for (_, tenant), column in sorted(todo.items(), key=lambda item: item[0]):
        walk = _Walk(keyring, column, current, done, batch_rows)
        for _ in range(_MOST_PASSES):  # again where somebody changed rows meanwhile
            changed, refused = done.changed_meanwhile, done.refused.copy()
            after = await walk.batch(scope_of(tenant), tenant, None)
            while after is not None:
                on_batch(done)
                after = await walk.batch(scope_of(tenant), tenant, after)
            if done.changed_meanwhile == changed:
                break
            done.refused = refused
    return done
