"""The migration lines: which folder describes which database."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

from neolayer.engines.endpoints import Database, Endpoints


class Line(StrEnum):
    """The ordered files of one database, by the name of their folder."""

    CORE = "core"
    EVENT_STORE = "event_store"
    TIMESERIES = "timeseries"
    CLICKHOUSE = "clickhouse"
    MONGODB = "mongodb"
    ELASTICSEARCH = "elasticsearch"

    @property
    def database(self) -> Database | None:
        """The PostgreSQL database it belongs to; None for another engine."""
        return _DATABASES.get(self)

    @property
    def suffix(self) -> str:
        """How its files' names end: those of stores of documents hold commands, as JSON."""
        return f".{self}" if self in (Line.MONGODB, Line.ELASTICSEARCH) else ".sql"


_DATABASES = {
    Line.CORE: Database.CORE,
    Line.EVENT_STORE: Database.EVENT_STORE,
    Line.TIMESERIES: Database.TIMESERIES,
}
POSTGRES_LINES = tuple(_DATABASES)


def lines_at(endpoints: Endpoints, lines: Iterable[Line] = tuple(Line)) -> tuple[Line, ...]:
    """Those of `lines` for which there is a server, in their order."""
    wanted = set(lines)
    if endpoints.mongodb is None:
        wanted.discard(Line.MONGODB)
    if endpoints.elasticsearch is None:
        wanted.discard(Line.ELASTICSEARCH)
    return tuple(line for line in Line if line in wanted)
