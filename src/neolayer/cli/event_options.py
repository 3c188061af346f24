"""What the commands about events share: their options, the opened store, an event as a line."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Annotated

from cyclopts import Parameter

from neolayer.cli.output import write_json
from neolayer.cli.root import invocation
from neolayer.cli.values import Count, Id, each, shown
from neolayer.cli.within_tenant import operator
from neolayer.errors import InvalidInput
from neolayer.events import (
    Events,
    Place,
    RecordedEvent,
    Registry,
    TypedEvents,
    load_domain,
    open_event_rooms,
    open_event_store,
)
from neolayer.platform import endpoints, keyring
from neolayer.tenancy import open_core
from neolayer.tenancy.directory import open_directory


def _place(text: str) -> Place:
    try:
        return Place.parse(text)
    except InvalidInput as exc:
        raise ValueError(f"{shown(text)} is no place; {exc.hint}") from None


AsJson = Annotated[bool, Parameter(name="--json", help="Write JSON to stdout, a line an event.")]
StreamId = Annotated[Id, Parameter(help="Id of the stream.")]
Limit = Annotated[Count, Parameter(help="How many events at most.")]
Types = Annotated[list[str] | None, Parameter(name="--type", help="All events: of these types.")]
AtPlace = Annotated[Place, each(_place)]
After = Annotated[AtPlace | None, Parameter(help="Start after this place, such as 741:9.")]


@asynccontextmanager
async def opened(tenant: str) -> AsyncGenerator[Events]:
    """A tenant's events, for the operator who runs the command."""
    at = endpoints(invocation().settings)
    async with open_directory(at) as directory:
        found = await directory.find(tenant)
    async with open_event_store(at, size=4, application_name="cli") as store:
        yield store.events(found.id, by=operator())


@asynccontextmanager
async def opened_typed(tenant: str) -> AsyncGenerator[tuple[Events | TypedEvents, Registry]]:
    """The same by a program's own types, where `events.modules` names it: events must fit them, are
    sealed as they say, and change inline read models."""
    settings = invocation().settings
    if not settings.events.modules:
        async with opened(tenant) as events:
            yield events, Registry()
        return
    at, domain = endpoints(settings), load_domain(settings.events.modules)
    async with open_directory(at) as directory:
        found = await directory.find(tenant)
    async with (
        keyring(settings) as keys,
        open_core(at, size=2, application_name="cli") as core,
        open_event_rooms(at, domain, keys, size=4, application_name="cli") as rooms,
    ):
        yield rooms.tenant(core.scope(found.id, by=operator())).events, domain.registry


def write_event(event: RecordedEvent) -> None:
    """One line of JSON on stdout."""
    write_json(
        {
            "place": str(event.place),
            "stream": event.stream_id,
            "category": event.category,
            "version": event.version,
            "type": event.type,
            "event_id": event.event_id,
            "data": event.data,
            "metadata": event.metadata,
            "user_id": event.user_id,
            "correlation_id": event.correlation_id,
            "causation_id": event.causation_id,
            "recorded_at": event.recorded_at,
            "schema_version": event.schema_version,
        },
        indent=False,
    )
