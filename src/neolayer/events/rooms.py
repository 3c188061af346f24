"""The event store as a program uses it: its own types, its projections, and what a tenant is given.

async with open_event_rooms(endpoints, domain, keyring) as rooms:
    acme = rooms.tenant(core_scope)
    await acme.aggregates.execute(ACCOUNT, account_id, Deposit(5))
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import cast
from uuid import UUID

from neolayer.engines.endpoints import Endpoints
from neolayer.events.aggregates import Aggregates
from neolayer.events.codec import TenantCodec
from neolayer.events.projections.domain import Domain
from neolayer.events.projections.inline import InlineProjections
from neolayer.events.projections.reading import ReadModels
from neolayer.events.projections.rebuild import ensure
from neolayer.events.snapshots import BackgroundWrites, background_writes
from neolayer.events.store import EventStore, open_event_store
from neolayer.events.subjects import Subjects
from neolayer.events.turns import Turns
from neolayer.events.typed import TypedEvents
from neolayer.keys import Keyring
from neolayer.tenancy import Scope


@dataclass(frozen=True, slots=True)
class TenantRooms:
    """What one tenant has in the event store, for whoever acts."""

    events: TypedEvents
    aggregates: Aggregates
    read_models: ReadModels
    subjects: Subjects


@dataclass(frozen=True, slots=True)
class EventRooms:
    """Opened once a process."""

    store: EventStore
    domain: Domain
    keyring: Keyring
    inline: InlineProjections
    background: BackgroundWrites
    turns: Turns = field(default_factory=Turns)

    def tenant(self, core: Scope) -> TenantRooms:
        """The rooms of the tenant of a scope of the core database, acting as it does."""
        tenant = cast("UUID", core.tenant)
        subjects = Subjects(core, self.keyring)
        codec = TenantCodec(tenant, self.domain.registry, subjects)
        events = TypedEvents(self.store.events(tenant, by=core.by), codec, self.inline)
        return TenantRooms(
            events,
            Aggregates(events, self.background, self.turns),
            ReadModels(events.scope, codec),
            subjects,
        )


@asynccontextmanager
async def open_event_rooms(
    endpoints: Endpoints,
    domain: Domain,
    keyring: Keyring,
    *,
    size: int = 8,
    application_name: str = "api",
) -> AsyncGenerator[EventRooms]:
    """The rooms, with the tables of new projections made. Raises EngineUnavailable,
    MigrationError before migrating, ProjectionNotReady where an inline one must be rebuilt first.
    """
    await ensure(endpoints, domain)
    async with (
        open_event_store(endpoints, size=size, application_name=application_name) as store,
        background_writes() as background,
    ):
        yield EventRooms(store, domain, keyring, InlineProjections.of(domain), background)
