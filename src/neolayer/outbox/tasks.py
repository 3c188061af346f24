"""The outbox's periodic work: rows that every stream has had time for go."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from neolayer.engines.endpoints import Database, Endpoints, Role
from neolayer.engines.postgres.connections import connect
from neolayer.engines.postgres.queries import load_queries
from neolayer.outbox.catalogue import KEEP
from neolayer.periodic import BoundTask, Task

QUERIES = load_queries(__name__)
_BATCH = 5_000


@dataclass(frozen=True, slots=True)
class OutboxSweeper:
    """Puts away what was announced long ago, as the relay, which sees all tenants."""

    endpoints: Endpoints
    keep: timedelta = KEEP

    async def sweep(self) -> int:
        """Delete in batches; how many rows went. Raises EngineUnavailable."""
        dsn = self.endpoints.cluster(Database.CORE).dsn(Role.RELAY, Database.CORE)
        went = 0
        asked = {"keep": self.keep, "limit": _BATCH}
        async with await connect(dsn, autocommit=True, application_name="outbox") as relay:
            while rows := (await relay.execute(QUERIES.sweep_outbox, asked)).rowcount:
                went += rows
        return went


TASKS = (Task("outbox: sweep", timedelta(hours=1), OutboxSweeper.sweep),)


def tasks(at: Endpoints) -> tuple[BoundTask, ...]:
    """Put old events away."""
    return tuple(task.given(OutboxSweeper(at)) for task in TASKS)
