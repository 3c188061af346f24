"""What waits for a person: nothing of it goes on by itself, and everything else flows beside it.

Rows that a sink refused for ever, sinks that somebody paused, events that a tenant's subscription
could not handle, and read models that stand still, wholly or in some streams. And the one thing
beside which nothing flows: a transaction that does not end, where readers of events wait for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from uuid import UUID

from neolayer.engines.endpoints import Database, Endpoints, Role
from neolayer.engines.postgres.connections import connect
from neolayer.engines.postgres.queries import load_queries
from neolayer.events.holding import Holding, who_holds
from neolayer.relay.operations.desk import Standing, desk_of

_sql = load_queries(__name__)


@dataclass(frozen=True, slots=True)
class ParkedSubscription:
    """A tenant's subscription, how many events it could not handle, and how many wait behind
    them."""

    tenant: UUID
    subscription: str
    parked: int
    waiting: int


@dataclass(frozen=True, slots=True)
class StandingReadModel:
    """A read model that stands still, or in which so many streams do."""

    projection: str
    failed: bool
    streams: int


@dataclass(frozen=True, slots=True)
class Waiting:
    """All of it; of subscriptions and read models the hundred with the most."""

    sinks: tuple[Standing, ...]
    subscriptions: tuple[ParkedSubscription, ...]
    read_models: tuple[StandingReadModel, ...]
    holding: Holding | None = None

    def alarms(self, *, log_bytes: int) -> list[str]:
        """A sentence for each thing that an operator must do, with the command."""
        sinks = [alarm for one in self.sinks for alarm in one.alarms(log_bytes)]
        held = [] if self.holding is None else [str(self.holding)]
        return [*held, *sinks, *(alarm for one in self.read_models for alarm in _standing(one))]

    def notes(self) -> list[str]:
        """A sentence for each thing that a tenant's own program must do."""
        return [
            f"subscription {one.subscription} of tenant {one.tenant}: {one.parked} parked,"
            f" {one.waiting} waiting behind them:"
            f" neolayer events parked {one.subscription} --tenant {one.tenant}"
            for one in self.subscriptions
        ]


def _standing(one: StandingReadModel) -> Iterator[str]:
    if one.failed:
        yield f"Read model {one.projection} stands still: neolayer projections list"
    if one.streams:
        streams = f"{one.streams} stream{'' if one.streams == 1 else 's'}"
        command = f"neolayer projections parked {one.projection}"
        yield f"Read model {one.projection} stands still in {streams}: {command}"


async def what_waits(at: Endpoints) -> Waiting:
    """As the operator sees it. Raises EngineUnavailable, RelayError."""
    async with desk_of(at, Role.OPERATOR) as desk:
        sinks = await desk.standings()
    dsn = at.cluster(Database.EVENT_STORE).dsn(Role.OPERATOR, Database.EVENT_STORE)
    async with await connect(dsn, autocommit=True, application_name="status") as operator:
        parked = await (await operator.execute(_sql.parked_subscriptions)).fetchall()
        standing = await (await operator.execute(_sql.standing_read_models)).fetchall()
    return Waiting(
        tuple(sinks),
        tuple(ParkedSubscription(*row) for row in parked),
        tuple(StandingReadModel(*row) for row in standing),
        await who_holds(at),
    )
