"""How every read model is: whether it runs, how far it is, and how far that is behind."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from neolayer.engines.endpoints import Database, Endpoints, Role
from neolayer.engines.postgres.connections import connect
from neolayer.engines.postgres.queries import load_queries
from neolayer.events.model import Place
from neolayer.events.projections.model import Mode

QUERIES = load_queries(__name__)


@dataclass(frozen=True, slots=True)
class Standing:
    """One table. `lag_events` are those of all types that lie before it, at most 100,000; `waiting`
    streams stand still at an event that cannot be folded, `discarded` events were passed by."""

    name: str
    mode: Mode
    status: str
    place: Place | None
    last_event_at: datetime | None
    lag_events: int
    lag_seconds: float
    cause: str | None
    certified_at: datetime | None
    certificate_holds: bool | None
    waiting: int = 0
    discarded: int = 0

    @property
    def stands_still(self) -> bool:
        """Whether all of it does, or some of its streams."""
        return self.status == "failed" or self.waiting > 0


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
            certified_at,
            holds,
            waiting,
            discarded,
        )
        for (
            name,
            mode,
            status,
            transaction,
            index,
            at_,
            cause,
            events,
            since,
            certified_at,
            holds,
            waiting,
            discarded,
        ) in rows
    ]
