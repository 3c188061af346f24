"""The webhooks' periodic work, and how they fare over all tenants."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from neolayer.engines.endpoints import Database, Endpoints, Role
from neolayer.engines.postgres.connections import connect
from neolayer.engines.postgres.queries import load_queries
from neolayer.periodic import BoundTask, Task
from neolayer.webhooks.catalogue import KEEP

QUERIES = load_queries(__name__, "delivering.sql")
_BATCH = 5_000


@dataclass(frozen=True, slots=True)
class DeliverySweeper:
    """Puts away what was delivered or parked long ago, as the relay, which sees all tenants."""

    endpoints: Endpoints
    keep: timedelta = KEEP

    async def sweep(self) -> int:
        """Delete in batches; how many rows went. Raises EngineUnavailable."""
        dsn = self.endpoints.cluster(Database.CORE).dsn(Role.RELAY, Database.CORE)
        went = 0
        asked = {"keep": self.keep, "limit": _BATCH}
        async with await connect(dsn, autocommit=True, application_name="webhooks") as relay:
            while rows := (await relay.execute(QUERIES.sweep_deliveries, asked)).rowcount:
                went += rows
        return went


TASKS = (Task("webhooks: sweep deliveries", timedelta(hours=1), DeliverySweeper.sweep),)


def tasks(at: Endpoints) -> tuple[BoundTask, ...]:
    """Put old deliveries away."""
    return tuple(task.given(DeliverySweeper(at)) for task in TASKS)


@dataclass(frozen=True, slots=True)
class WebhookStatus:
    """How the endpoints of all tenants fare."""

    endpoints: int
    failing: int
    disabled: int
    pending: int
    parked: int


async def webhook_status(dsn: str) -> WebhookStatus:
    """As the operator sees it. Raises EngineUnavailable."""
    async with await connect(dsn, autocommit=True, application_name="status") as operator:
        row = await (await operator.execute(QUERIES.webhook_status)).fetchone()
        assert row is not None
        return WebhookStatus(*row)
