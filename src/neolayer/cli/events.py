"""`neolayer events`: a tenant's events: append, read, subscribe, close and archive."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any, cast
from uuid import UUID, uuid4

import orjson
from cyclopts import App, Parameter

from neolayer.cli.output import say, write_json, write_table
from neolayer.cli.root import app as root
from neolayer.cli.root import invocation
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
    open_event_store,
)
from neolayer.events.archive import Archive, Archiving
from neolayer.events.segments import SegmentStore
from neolayer.platform import endpoints
from neolayer.tenancy import Transaction
from neolayer.tenancy.directory import open_directory

app = App(name="events", help="A tenant's events: append, read, subscribe.")
root.command(app)

AsJson = Annotated[bool, Parameter(name="--json", help="Write JSON to stdout, a line an event.")]
StreamId = Annotated[str, Parameter(help="Id of the stream.")]
Limit = Annotated[int, Parameter(help="How many events at most.")]
Category = Annotated[str | None, Parameter(help="What the stream is: a new one needs this.")]
Expected = Annotated[
    str, Parameter(name="--expected", help="The stream's version before: any, none, exists or N.")
]
After = Annotated[str | None, Parameter(help="Start after this place, such as 741:9.")]
_MOST_TOLD = 20
_EXPECTED = {"any": ANY, "none": NONE, "exists": EXISTS}


@asynccontextmanager
async def _events(tenant: str) -> AsyncGenerator[Events]:
    at = endpoints(invocation().settings)
    async with open_directory(at) as directory:
        found = await directory.find(tenant)
    async with open_event_store(at, size=4, application_name="cli") as store:
        yield store.events(found.id, by=operator())


@app.command
async def append(
    stream: Annotated[str | None, Parameter(help="Id of the stream; a new one without.")] = None,
    /,
    *,
    tenant: TenantOption,
    type_: Annotated[str, Parameter(name="--type", help="What happened, such as Deposited.")],
    data: Annotated[str, Parameter(help="The event's data, a JSON object; - reads stdin.")] = "{}",
    metadata: Annotated[str, Parameter(help="A JSON object beside the data.")] = "{}",
    category: Category = None,
    expected: Expected = "any",
    event_id: Annotated[
        str | None, Parameter(help="The event's id: the same again is stored once.")
    ] = None,
    correlation: Annotated[str | None, Parameter(help="Id of the request it belongs to.")] = None,
    as_json: AsJson = False,
) -> None:
    """Store one event at the end of a stream.

    Example: neolayer events append --tenant acme --type Opened --category account --data '{}'
    """
    text = sys.stdin.read() if data == "-" else data
    event = NewEvent(
        type_,
        _object(text, "--data"),
        event_id=uuid4() if event_id is None else _id(event_id),
        metadata=_object(metadata, "--metadata"),
        correlation_id=None if correlation is None else _id(correlation),
    )
    target = uuid4() if stream is None else _id(stream)
    async with _events(tenant) as events:
        written = await events.append(
            target, [event], category=category, expected_version=_expected(expected)
        )
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
    stream: Annotated[str | None, Parameter(help="Id of a stream; all events without.")] = None,
    /,
    *,
    tenant: TenantOption,
    from_version: Annotated[int | None, Parameter(help="With a stream: from this version.")] = None,
    backwards: Annotated[bool, Parameter(help="With a stream: the last one first.")] = False,
    type_: Annotated[list[str] | None, Parameter(name="--type", help="Of this type.")] = None,
    category: Annotated[list[str] | None, Parameter(help="Of this category.")] = None,
    correlation: Annotated[str | None, Parameter(help="Of this request.")] = None,
    after: After = None,
    limit: Limit = 100,
    as_json: AsJson = False,
) -> None:
    """Read a stream, or all events in the order in which they are to be read.

    Example: neolayer events read --tenant acme --type Deposited --limit 20
    """
    async with _events(tenant) as events:
        if stream is None:
            found = await events.read_all(
                after=BEGINNING if after is None else Place.parse(after),
                types=type_,
                categories=category,
                correlation_id=None if correlation is None else _id(correlation),
                limit=limit,
            )
        elif backwards:
            start = {} if from_version is None else {"from_version": from_version}
            found = await _first(events.read_backwards(_id(stream), **start), limit)
        else:
            found = await _first(
                events.read_stream(_id(stream), from_version=from_version or 1), limit
            )
    if as_json:
        for event in found:
            _write_line(event)
        return
    write_table(
        ("place", "stream", "version", "type", "data", "recorded"),
        [
            (e.place, e.stream_id, e.version, e.type, orjson.dumps(e.data).decode(), e.recorded_at)
            for e in found
        ],
    )


@app.command
async def subscribe(
    name: Annotated[str, Parameter(help="The subscription; its place is kept under this name.")],
    /,
    *,
    tenant: TenantOption,
    partitions: Annotated[int, Parameter(help="How many consumers may share it.")] = 4,
    type_: Annotated[list[str] | None, Parameter(name="--type", help="Of this type only.")] = None,
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
            after=BEGINNING if after is None else Place.parse(after),
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
async def close(
    stream: StreamId,
    /,
    *,
    tenant: TenantOption,
    reason: Annotated[str, Parameter(help="Why; it stands in the closing event.")],
    expected: Expected = "exists",
    as_json: AsJson = False,
) -> None:
    """Close a stream: it takes no more events, and can be archived.

    Example: neolayer events close 6f0c... --tenant acme --reason "account closed"
    """
    async with _events(tenant) as events:
        written = await events.close(
            _id(stream), {"reason": reason}, expected_version=_expected(expected)
        )
    if as_json:
        write_json({"stream": stream, "version": written.version})
    else:
        say(f"stream {stream} is closed at version {written.version}")


@app.command
async def archive(
    *,
    tenant: TenantOption,
    up_to: Annotated[str, Parameter(help="Streams closed at or before this place: 741:9.")],
    limit: Annotated[int, Parameter(help="How many streams at most.")] = 1000,
    as_json: AsJson = False,
) -> int:
    """Move closed streams to the object store; they are read from there as before.

    What a subscription, a projection or a running transaction still needs stays and is named; then
    the exit code is 1.

    Example: neolayer events archive --tenant acme --up-to 9120:1
    """
    segments = SegmentStore(endpoints(invocation().settings).objects)
    async with _events(tenant) as events:
        archiving = await Archive(events.scope, segments).archive_closed(
            up_to=Place.parse(up_to), limit=limit
        )
    if as_json:
        _write_archiving(archiving)
    else:
        for kept in archiving.kept[:_MOST_TOLD]:
            say(str(kept))
        if len(archiving.kept) > _MOST_TOLD:
            say(f"and {len(archiving.kept) - _MOST_TOLD} more stay; --json names them all")
        done = archiving.done
        say(f"archived {len(done)} streams, {sum(d.events for d in done)} events")
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


def _id(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise InvalidInput(f"no id: {text[:60]!r}", hint="write a UUID") from None


def _expected(text: str) -> int:
    if text in _EXPECTED:
        return _EXPECTED[text]
    if not text.isdecimal() or len(text) > 9:
        raise InvalidInput(f"no version: {text[:60]!r}", hint="write any, none, exists or a number")
    return int(text)


def _object(text: str, option: str) -> dict[str, Any]:
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as exc:
        raise InvalidInput(f"{option} is not JSON: {exc}") from None
    if not isinstance(value, dict):
        raise InvalidInput(f"{option} is not a JSON object", hint="write it as {{...}}")
    return cast("dict[str, Any]", value)
