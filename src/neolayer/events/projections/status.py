"""How every read model is: whether it runs, how far it is, and how far that is behind."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

from neolayer.engines.endpoints import Database, Endpoints, Role
from neolayer.engines.postgres.connections import connect
from neolayer.engines.postgres.queries import load_queries
from neolayer.events.model import Place
from neolayer.events.projections.model import Mode

QUERIES = load_queries(__name__)


@dataclass(frozen=True, slots=True)
class Standing:
    """One table. `lag_events` are those of all types that lie before it, at most 100,000."""

    name: str
    mode: Mode
    status: str
    place: Place | None
    last_event_at: datetime | None
    lag_events: int
    lag_seconds: float
    cause: str | None
    failed_event_id: UUID | None
    certified_at: datetime | None
    certificate_holds: bool | None


async def standings(at: Endpoints) -> list[Standing]:
    """Every table by name, the rebuilt and the previous ones too."""
    dsn = at.cluster(Database.EVENT_STORE).dsn(Role.OPERATOR, Database.EVENT_STORE)
    async with await connect(dsn, autocommit=True, application_name="projections") as operator:
        rows = await (await operator.execute(QUERIES.list)).fetchall()
    now = datetime.now(UTC)
    return [
        Standing(
            name,
            Mode(mode),
            status,
            Place(int(transaction), index) if transaction is not None else None,
            at_,
            events,
            (now - since).total_seconds() if since else 0.0,
            cause,
            event_id,
            certified_at,
            holds,
        )
        for (
            name,
            mode,
            status,
            transaction,
            index,
            at_,
            cause,
            event_id,
            events,
            since,
            certified_at,
            holds,
        ) in rows
    ]
