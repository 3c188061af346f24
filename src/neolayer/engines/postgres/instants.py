"""Instants that PostgreSQL holds and Python does not: `infinity`, before Christ, after 9999.

Whoever comes with SQL writes what a column takes, such as a user's own last login. No list of a
tenant's rows may fail for that, so such an instant is read as the first or the last one that there
is in Python. It is looked for only where reading has failed, and costs nothing otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import psycopg
from psycopg.abc import Buffer
from psycopg.adapt import AdaptersMap
from psycopg.types.datetime import TimestamptzLoader

EARLIEST = datetime.min.replace(tzinfo=UTC)
LATEST = datetime.max.replace(tzinfo=UTC)


class _Bounded(TimestamptzLoader):
    def load(self, data: Buffer) -> datetime:
        try:
            return super().load(data)
        except psycopg.DataError:
            text = bytes(data)
            return EARLIEST if text.startswith(b"-") or text.endswith(b"BC") else LATEST


@dataclass(frozen=True, slots=True)
class Bounded:
    """What psycopg adapts rows by on this connection, but for such instants."""

    connection: psycopg.AsyncConnection[Any]

    @property
    def adapters(self) -> AdaptersMap:
        made = AdaptersMap(self.connection.adapters)
        made.register_loader("timestamptz", _Bounded)
        return made
