"""Random, seeded changes of the scene's table, through whatever happens to the server."""

from __future__ import annotations

import contextlib
import random
import threading
import time

import psycopg
from tests.fixtures.patience import PATIENCE_S

_INSERT = """INSERT INTO accounts (id, owner, amount, note)
SELECT g, 'ann', g * 1000000000000000000::numeric, repeat('x', g % 50)
FROM generate_series({first}, {last}) g WHERE g NOT IN (SELECT id FROM accounts)"""
_CHANGES = (
    "UPDATE accounts SET amount = amount + {step} WHERE id BETWEEN {first} AND {last}",
    "DELETE FROM accounts WHERE id BETWEEN {first} AND {last}",
    "UPDATE accounts SET part = 1 - part WHERE id BETWEEN {first} AND {last}",
    "UPDATE accounts SET note = 'changed {step}' WHERE id % 13 = {step} % 13",
)


class Writer:
    """Writes in a thread until stopped; a commit that broke may or may not be there."""

    def __init__(self, dsn: str, seed: int) -> None:
        self._dsn = dsn
        self._random = random.Random(seed)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.committed = 0

    def __enter__(self) -> Writer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(timeout=PATIENCE_S)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        while not self._stop.is_set():
            with (
                contextlib.suppress(psycopg.Error),
                psycopg.connect(self._dsn, connect_timeout=5) as connection,
            ):
                while not self._stop.is_set():
                    self._transaction(connection)
            time.sleep(0.02)

    def _transaction(self, connection: psycopg.Connection) -> None:
        for _ in range(self._random.randint(1, 4)):
            first = self._random.randint(1, 2000)
            last = first + self._random.choice((0, 5, 50))
            statement = self._random.choice((_INSERT, _INSERT, *_CHANGES))
            connection.execute(
                statement.format(first=first, last=last, step=self.committed)  # type: ignore[arg-type]
            )
        connection.commit()
        self.committed += 1
        time.sleep(0.01)
