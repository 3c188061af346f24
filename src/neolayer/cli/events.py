"""`neolayer events`: a tenant's events: append, read, close; subscriptions and the archive have a
module each."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from datetime import UTC
from typing import Annotated
from uuid import UUID, uuid4

import orjson
from cyclopts import App, Parameter

from neolayer.cli import event_subscriptions
from neolayer.cli.event_archive import archive
from neolayer.cli.event_options import (
    After,
    AsJson,
    Limit,
    StreamId,
    Types,
    opened,
    opened_typed,
    write_event,
)
from neolayer.cli.json_objects import json_object
from neolayer.cli.output import say, write_json, write_table
from neolayer.cli.root import app as root
from neolayer.cli.values import Id, each, shown, whole
from neolayer.cli.within_tenant import TenantOption
from neolayer.errors import InvalidInput
from neolayer.events import (
    ANY,
    BEGINNING,
    EXISTS,
    NONE,
    Events,
    NewEvent,
    RecordedEvent,
    Registry,
    TypedEvents,
)
from neolayer.events.bodies import MAX_INT

app = App(name="events", help="A tenant's events: append, read, subscribe.")
root.command(app)

Category = Annotated[str | None, Parameter(help="What the stream is: a new one needs this.")]
_EXPECTED = {"any": ANY, "none": NONE, "exists": EXISTS}


def _expected(text: str) -> int:
    if text in _EXPECTED:
        return _EXPECTED[text]
    if not text.isdecimal() or len(text) > 9:
        raise ValueError(f"{shown(text)} is no version; write any, none, exists or a number")
    return int(text)


def _told(version: int) -> str:
    return next(name for name, one in _EXPECTED.items() if one == version)


Expected = Annotated[
    int,
    each(_expected),
    Parameter(
        name="--expected",
        help="The stream's version before: any, none, exists or N.",
        show_default=_told,
        metavar="VERSION",
    ),
]
Version = Annotated[int, whole(1, MAX_INT)]
Correlation = Annotated[Id | None, Parameter(help="Id of the request it belongs to.")]


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
    causation: Annotated[Id | None, Parameter(help="Id of what it follows from.")] = None,
    schema_version: Annotated[
        Version | None, Parameter(help="Of the data; today's of a type in your modules, else 1.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Store one event at the end of a stream.

    Example: neolayer events append --tenant acme --type Opened --category account --data '{}'
    """
    event = NewEvent(
        type_,
        json_object(sys.stdin.read() if data == "-" else data, "--data"),
        event_id=event_id or uuid4(),
        metadata=json_object(metadata, "--metadata"),
        correlation_id=correlation,
        causation_id=causation,
    )
    target = stream or uuid4()
    async with opened_typed(tenant) as (events, registry):
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
    from_version: Annotated[Version | None, Parameter(help="With a stream: from there.")] = None,
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
    async with opened(tenant) as events:
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
            write_event(event)
        return
    if stream is None:
        columns = ("place", "stream", "version", "type", "data")
        write_table(columns, [(e.place, e.stream_id, *_told_of(e)) for e in found], whole="stream")
    else:
        columns = ("place", "version", "type", "data", "recorded (UTC)")
        write_table(columns, [(e.place, *_told_of(e), _instant(e)) for e in found])


for command in event_subscriptions.COMMANDS:
    app.command(command)


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
    async with opened(tenant) as events:
        written = await events.close(stream, {"reason": reason}, expected_version=expected)
    if as_json:
        write_json({"stream": stream, "version": written.version})
    else:
        say(f"stream {stream} is closed at version {written.version}")


app.command(archive)


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


def _refuse(options: Mapping[str, object], why: str, *, hint: str) -> None:
    """Raises InvalidInput where one is given that would mean nothing."""
    given = [name for name, value in options.items() if value not in (None, False)]
    if given:
        raise InvalidInput(f"{given[0]} {why}", hint=hint)
