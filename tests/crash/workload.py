"""Seeded transactions on the relay's scene: every kind of change, small, so that runs are short."""

from __future__ import annotations

import random

import psycopg
from tests.crash.ledger import from_copy
from tests.fixtures.fix_relay import COLUMNS, flushed

_INSERT = """INSERT INTO accounts (id, owner, amount, note, details)
SELECT g, 'ann' || g % 3, g * 1000000000000000000::numeric, CASE WHEN g % 4 > 0 THEN
 repeat('x', g % 60) || E'\\t\\\\\\n' END, jsonb_build_object('n', g)
FROM generate_series({first}, {last}) g WHERE g NOT IN (SELECT id FROM accounts)"""
_CHANGES = (
    "UPDATE accounts SET amount = amount + {step} WHERE id BETWEEN {first} AND {last}",
    "DELETE FROM accounts WHERE id BETWEEN {first} AND {last}",
    "UPDATE accounts SET part = 1 - part WHERE id BETWEEN {first} AND {last}",
    "UPDATE accounts SET id = {free} WHERE id = {first}"
    " AND NOT EXISTS (SELECT 1 FROM accounts WHERE id = {free})",
    "UPDATE accounts SET note = 'changed {step}' WHERE id % 13 = {step} % 13",
)


class Workload:
    """One connection that writes; `rows` are what every copy must hold."""

    def __init__(self, dsn: str) -> None:
        self._connection = psycopg.connect(dsn, autocommit=True)
        self._connection.execute("SET TimeZone = 'UTC'")
        self.transactions = 0
        # An older snapshot sees a truncated table empty (PostgreSQL's manual, "Caveats" of MVCC):
        # a copy made meanwhile is right only once the stream has brought the truncation.
        self.may_truncate = False

    def step(self, dice: random.Random) -> None:
        """One transaction of one to four statements; one in twenty is rolled back."""
        with self._connection.transaction() as transaction:
            for _ in range(dice.choice((1, 1, 2, 4))):
                self._connection.execute(self._statement(dice))  # type: ignore[arg-type]
            if dice.random() < 0.05:
                raise psycopg.Rollback(transaction)
        self.transactions += 1

    def _statement(self, dice: random.Random) -> str:
        first = dice.randrange(1, 150)
        values = {
            "first": first,
            "last": first + dice.choice((0, 2, 10, 40)),
            "step": dice.randrange(1000),
            "free": dice.randrange(1, 150),
        }
        if self.may_truncate and dice.random() < 0.02:
            return "TRUNCATE accounts"
        if dice.random() < 0.45:
            return _INSERT.format(**values)
        return dice.choice(_CHANGES).format(**values)

    def end(self) -> int:
        """A last change, and the version that everything so far lies below. Some rows are there."""
        self._connection.execute(_INSERT.format(first=1, last=10))  # type: ignore[arg-type]
        self._connection.execute("UPDATE accounts SET amount = amount + 1 WHERE id % 10 = 1")
        return flushed(self._connection).version

    def rows(self) -> dict[str, list[str | None]]:
        query = f"COPY (SELECT {', '.join(COLUMNS)} FROM accounts) TO STDOUT"
        with self._connection.cursor() as cursor, cursor.copy(query) as copy:  # type: ignore[arg-type]
            lines = b"".join(bytes(block) for block in copy).splitlines(keepends=True)
        rows = [from_copy(line) for line in lines]
        return {str(row[0]): row for row in rows}

    def drop_slot(self, slot: str) -> None:
        self.await_slot(slot)
        self._connection.execute(
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots"
            " WHERE slot_name = %s",
            (slot,),
        )

    def await_slot(self, slot: str) -> None:
        """A killed reader lets go of its slot a moment later."""
        query = "SELECT 1 FROM pg_replication_slots WHERE slot_name = %s AND active"
        while self._connection.execute(query, (slot,)).fetchone():
            self._connection.execute("SELECT pg_sleep(0.005)")

    def close(self) -> None:
        self._connection.close()
