"""`neolayer events`: a tenant's events: append, read, subscribe, close and archive."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict, replace
from datetime import UTC
from typing import Annotated, Any, cast
from uuid import UUID, uuid4

import orjson
from cyclopts import App, Parameter

from neolayer.cli.output import counted, say, write_json, write_table
from neolayer.cli.root import app as root
from neolayer.cli.root import invocation
from neolayer.cli.values import Count, Id, Positive, each, shown, whole
from neolayer.cli.within_tenant import TenantOption, operator
from neolayer.errors import InvalidInput
from neolayer.events import (
    ANY,
    BEGINNING,
    EXISTS,
    NONE,
    Events,
    NewEvent,
    Place,
    Poison,
    RecordedEvent,
    Registry,
    TypedEvents,
    load_domain,
    open_event_rooms,
    open_event_store,
)
from neolayer.events.archive import Archive, Archiving
from neolayer.events.segments import SegmentStore
from neolayer.platform import endpoints, keyring
from neolayer.tenancy import Transaction, open_core
from neolayer.tenancy.directory import open_directory

app = App(name="events", help="A tenant's events: append, read, subscribe.")
root.command(app)

AsJson = Annotated[bool, Parameter(name="--json", help="Write JSON to stdout, a line an event.")]
StreamId = Annotated[Id, Parameter(help="Id of the stream.")]
Limit = Annotated[Count, Parameter(help="How many events at most.")]
Category = Annotated[str | None, Parameter(help="What the stream is: a new one needs this.")]
_MOST_TOLD = 20
_EXPECTED = {"any": ANY, "none": NONE, "exists": EXISTS}


def _expected(text: str) -> int:
    if text in _EXPECTED:
        return _EXPECTED[text]
    if not text.isdecimal() or len(text) > 9:
        raise ValueError(f"{shown(text)} is no version; write any, none, exists or a number")
    return int(text)


def _place(text: str) -> Place:
    try:
        return Place.parse(text)
    except InvalidInput as exc:
        raise ValueError(f"{shown(text)} is no place; {exc.hint}") from None


def _told(version: int) -> str:
    return next(name for name, one in _EXPECTED.items() if one == version)


Expected = Annotated[
    int,
    each(_expected),
    Parameter(
        name="--expected",
        help="The stream's version before: any, none, exists or N.",
        show_default=_told,
    ),
]
Partitions = Annotated[int, whole(1, 1024)]
Types = Annotated[list[str] | None, Parameter(name="--type", help="All events: of these types.")]
AtPlace = Annotated[Place, each(_place)]
After = Annotated[AtPlace | None, Parameter(help="Start after this place, such as 741:9.")]
Correlation = Annotated[Id | None, Parameter(help="Id of the request it belongs to.")]


@asynccontextmanager
async def _events(tenant: str) -> AsyncGenerator[Events]:
    at = endpoints(invocation().settings)
    async with open_directory(at) as directory:
        found = await directory.find(tenant)
    async with open_event_store(at, size=4, application_name="cli") as store:
        yield store.events(found.id, by=operator())


@asynccontextmanager
async def _typed(tenant: str) -> AsyncGenerator[tuple[Events | TypedEvents, Registry]]:
    """The same by a program's own types, where `events.modules` names it: events must fit them, are
    sealed as they say, and change inline read models."""
    settings = invocation().settings
    if not settings.events.modules:
        async with _events(tenant) as events:
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


async def _version(
    events: Events | TypedEvents, registry: Registry, stream: UUID, category: str | None, type_: str
) -> int:
    """The schema version that a type is at, where it is a program's own; else 1."""
    if category is None and registry.knows_name(type_):
        state = await events.state(stream)
        category = None if state is None else state.category
    if category is None or not registry.knows(category, type_):
        return 1
    return registry.named(category, type_).schema_version


@app.command
async def append(
    stream: Annotated[Id | None, Parameter(help="Id of the stream; a new one without.")] = None,
    /,
    *,
    tenant: TenantOption,
    type_: Annotated[str, Parameter(name="--type", help="What happened, such as Deposited.")],
    data: Annotated[
        str,
        Parameter(help="Its data, a JSON object; - reads stdin.", allow_leading_hyphen=True),
    ] = "{}",
    metadata: Annotated[str, Parameter(help="A JSON object beside the data.")] = "{}",
    category: Category = None,
    expected: Expected = ANY,
    event_id: Annotated[
        Id | None, Parameter(help="The event's id: the same again is stored once.")
    ] = None,
    correlation: Correlation = None,
    schema_version: Annotated[
        Positive | None, Parameter(help="Of the data; today's of a type in your modules, else 1.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Store one event at the end of a stream.

    Example: neolayer events append --tenant acme --type Opened --category account --data '{}'
    """
    event = NewEvent(
        type_,
        _object(sys.stdin.read() if data == "-" else data, "--data"),
        event_id=event_id or uuid4(),
        metadata=_object(metadata, "--metadata"),
        correlation_id=correlation,
    )
    target = stream or uuid4()
    async with _typed(tenant) as (events, registry):
        version = schema_version or await _version(events, registry, target, category, type_)
        event = replace(event, schema_version=version)
        written = await events.append(target, [event], category=category, expected_version=expected)
    if as_json:
        write_json(
            {
                "stream": target,
                "version": written.version,
                "event_id": event.event_id,
                "position": str(written.position),
                "place": str(written.events[0].place),
                "repeated": written.is_repeated,
            }
        )
        return
    again = " (it was there already)" if written.is_repeated else ""
    say(f"stream {target} is at version {written.version}{again}, position {written.position}")


@app.command
async def read(
    stream: Annotated[Id | None, Parameter(help="Id of a stream; all events without.")] = None,
    /,
    *,
    tenant: TenantOption,
    from_version: Annotated[Positive | None, Parameter(help="With a stream: from there.")] = None,
    backwards: Annotated[bool, Parameter(help="With a stream: the last one first.")] = False,
    type_: Types = None,
    category: Annotated[list[str] | None, Parameter(help="Without a stream: of these.")] = None,
    correlation: Annotated[Id | None, Parameter(help="Without a stream: of this request.")] = None,
    after: After = None,
    limit: Limit = 100,
    as_json: AsJson = False,
) -> None:
    """Read a stream, or all events in the order in which they are to be read.

    Example: neolayer events read --tenant acme --type Deposited --limit 20
    """
    of_all = {"--type": type_, "--category": category, "--correlation": correlation}
    of_one = {"--from-version": from_version, "--backwards": backwards}
    if stream is None:
        _refuse(of_one, "reads one stream", hint="name the stream's id")
    else:
        _refuse({**of_all, "--after": after}, "goes with all events", hint="leave the stream out")
    async with _events(tenant) as events:
        if stream is None:
            found = await events.read_all(
                after=after or BEGINNING,
                types=type_,
                categories=category,
                correlation_id=correlation,
                limit=limit,
            )
        elif backwards:
            start = {} if from_version is None else {"from_version": from_version}
            found = await _first(events.read_backwards(stream, **start), limit)
        else:
            found = await _first(events.read_stream(stream, from_version=from_version or 1), limit)
    if as_json:
        for event in found:
            _write_line(event)
        return
    if stream is None:
        columns = ("place", "stream", "version", "type", "data")
        write_table(columns, [(e.place, e.stream_id, *_told_of(e)) for e in found], whole="stream")
    else:
        columns = ("place", "version", "type", "data", "recorded (UTC)")
        write_table(columns, [(e.place, *_told_of(e), _instant(e)) for e in found])


@app.command
async def subscribe(
    name: Annotated[str, Parameter(help="The subscription; its place is kept under this name.")],
    /,
    *,
    tenant: TenantOption,
    partitions: Annotated[Partitions, Parameter(help="How many consumers may share it.")] = 4,
    type_: Types = None,
    after: After = None,
    once: Annotated[bool, Parameter(help="Stop when all that is there was written.")] = False,
) -> None:
    """Write events as JSON lines as they come, from where this subscription is; Ctrl-C ends it.

    Example: neolayer events subscribe audit-feed --tenant acme --once
    """

    async def write(_: Transaction, event: RecordedEvent) -> None:
        _write_line(event)

    async with _events(tenant) as events:
        subscription = await events.subscribe(
            name,
            partitions=partitions,
            after=after or BEGINNING,
            types=type_,
            poison=Poison.HOLD,
        )
        if once:
            await subscription.catch_up(write)
            return
        stop, loop = asyncio.Event(), asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        await subscription.run(write, until=stop)


@app.command
async def subscriptions(*, tenant: TenantOption, as_json: AsJson = False) -> None:
    """Show a tenant's subscriptions: how far each is, what it parked, who works on it.

    Example: neolayer events subscriptions --tenant acme
    """
    async with _events(tenant) as events:
        found = await events.subscriptions.list()
    if as_json:
        for one in found:
            write_json({**asdict(one), "place": str(one.place)}, indent=False)
        return
    columns = ("subscription", "place", "behind", "parked", "partitions", "consumers")
    lines = [
        (o.name, o.place, o.lag_events, o.parked, o.partitions, ", ".join(o.consumers))
        for o in found
    ]
    write_table(columns, lines)


@app.command
async def unsubscribe(
    name: Annotated[str, Parameter(help="The subscription.")],
    /,
    *,
    tenant: TenantOption,
    yes: Annotated[bool, Parameter(help="Really: its places and what it parked go.")] = False,
    as_json: AsJson = False,
) -> None:
    """Forget a subscription, where it was and what it parked; the events stay.

    Example: neolayer events unsubscribe audit-feed --tenant acme --yes
    """
    if not yes:
        raise InvalidInput(f"{name} would be forgotten with its places", hint="add --yes")
    async with _events(tenant) as events:
        await events.subscriptions.delete(name)
    if as_json:
        write_json({"subscription": name, "deleted": True})
    else:
        say(f"subscription {name} is forgotten")


@app.command
async def close(
    stream: StreamId,
    /,
    *,
    tenant: TenantOption,
    reason: Annotated[str, Parameter(help="Why; it stands in the closing event.")],
    expected: Expected = EXISTS,
    as_json: AsJson = False,
) -> None:
    """Close a stream: it takes no more events, and can be archived.

    Example: neolayer events close 6f0c2e1d-8a34-4f7b-b0c5-92d1e7a4c310 --tenant acme --reason
    "account closed"
    """
    async with _events(tenant) as events:
        written = await events.close(stream, {"reason": reason}, expected_version=expected)
    if as_json:
        write_json({"stream": stream, "version": written.version})
    else:
        say(f"stream {stream} is closed at version {written.version}")


@app.command
async def archive(
    *,
    tenant: TenantOption,
    up_to: Annotated[AtPlace, Parameter(help="Streams closed at or before this place: 741:9.")],
    limit: Annotated[Count, Parameter(help="How many streams at most.")] = 1000,
    as_json: AsJson = False,
) -> int:
    """Move closed streams to the object store; they are read from there as before.

    What a subscription, a projection or a running transaction still needs stays and is named; then
    the exit code is 1.

    Example: neolayer events archive --tenant acme --up-to 9120:1
    """
    segments = SegmentStore(endpoints(invocation().settings).objects)
    async with _events(tenant) as events:
        archiving = await Archive(events.scope, segments).archive_closed(up_to=up_to, limit=limit)
    if as_json:
        _write_archiving(archiving)
    else:
        for kept in archiving.kept[:_MOST_TOLD]:
            say(str(kept))
        if len(archiving.kept) > _MOST_TOLD:
            say(f"and {len(archiving.kept) - _MOST_TOLD} more stay; --json names them all")
        done = archiving.done
        count = sum(one.events for one in done)
        say(f"archived {counted(len(done), 'stream')}, {counted(count, 'event')}")
    return int(bool(archiving.kept))


def _write_archiving(archiving: Archiving) -> None:
    write_json(
        {
            "archived": [
                {"stream": d.stream_id, "events": d.events, "key": d.key} for d in archiving.done
            ],
            "kept": [
                {
                    "stream": kept.stream_id,
                    "reasons": [{"why": why, "who": who} for why, who in kept.reasons],
                }
                for kept in archiving.kept
            ],
        }
    )


async def _first(source: AsyncIterator[RecordedEvent], limit: int) -> list[RecordedEvent]:
    found: list[RecordedEvent] = []
    async for event in source:
        if len(found) >= limit:
            break
        found.append(event)
    return found


def _told_of(event: RecordedEvent) -> tuple[object, ...]:
    return event.version, event.type, orjson.dumps(event.data).decode()


def _instant(event: RecordedEvent) -> str:
    return f"{event.recorded_at.astimezone(UTC):%Y-%m-%d %H:%M:%S}"


def _write_line(event: RecordedEvent) -> None:
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


def _refuse(options: Mapping[str, object], why: str, *, hint: str) -> None:
    """Raises InvalidInput where one is given that would mean nothing."""
    given = [name for name, value in options.items() if value not in (None, False)]
    if given:
        raise InvalidInput(f"{given[0]} {why}", hint=hint)


def _object(text: str, option: str) -> dict[str, Any]:
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as exc:
        raise InvalidInput(f"{option} is not JSON: {exc}") from None
    if not isinstance(value, dict):
        raise InvalidInput(f"{option} is not a JSON object", hint='such as {"amount": 5}')
    return cast("dict[str, Any]", value)
