"""The migration lines: which folder describes which database."""

from __future__ import annotations

from enum import StrEnum

from neolayer.engines.endpoints import Database


class Line(StrEnum):
    """The ordered files of one database, by the name of their folder."""

    CORE = "core"
    EVENT_STORE = "event_store"
    TIMESERIES = "timeseries"
    CLICKHOUSE = "clickhouse"

    @property
    def database(self) -> Database | None:
        """The PostgreSQL database it belongs to; None for another engine."""
        return _DATABASES.get(self)


_DATABASES = {
    Line.CORE: Database.CORE,
    Line.EVENT_STORE: Database.EVENT_STORE,
    Line.TIMESERIES: Database.TIMESERIES,
}
POSTGRES_LINES = tuple(_DATABASES)
