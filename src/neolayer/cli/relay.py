"""`neolayer relay`: how the sinks are; hold one, let it go on, send again what it refused, rebuild.

What is asked is written into the core database, and done by the running relay, wherever it runs.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict
from datetime import timedelta
from typing import Annotated, Any, Final

from cyclopts import App, Parameter
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

from neolayer.cli.output import counted, say, words, write_json, write_line, write_table
from neolayer.cli.relay_tables import alarms_of, facts_of, joined, key_text, letter_facts, show
from neolayer.cli.root import app as root
from neolayer.cli.root import invocation
from neolayer.cli.values import Count, PositionsOf, Seconds, each, shown
from neolayer.engines.endpoints import Endpoints, Role
from neolayer.errors import InvalidInput, NotFound, SettingsError
from neolayer.freshness import Store, Stream, stores_at, streams_at, wait_for
from neolayer.platform import data_classes, endpoints
from neolayer.relay.envelope import outgoing_databases
from neolayer.relay.operations.desk import Desk, RebuildStatus, desk_of
from neolayer.relay.sinks.declared import declared_sinks
from neolayer.relay.sinks.sink import Rebuildable, Sink
from neolayer.relay.sinks.webhooks import WebhookSink
from neolayer.relay.state import server_notes, state_path
from neolayer.relay.status import relay_status

app = App(name="relay", help="Look at the sinks, pause and resume one, replay, rebuild a copy.")
root.command(app)

AsJson = Annotated[bool, Parameter(name="--json", help="Write JSON to stdout.")]
Wait = Annotated[
    Seconds, Parameter(help="Seconds to wait for the relay; what was asked stays asked.")
]
SinkName = Annotated[str, Parameter(help="Name of the sink, as relay status shows it.")]
Limit = Annotated[Count, Parameter(help="How many at most.")]
FAILED = 1
STILL = 4
_LOOK_S: Final = 0.2


@app.command
async def status(*, as_json: AsJson = False) -> int:
    """Show each sink's position and lag, what is paused, refused letters, copies and rebuilds.

    The exit code is 1 where something needs a person: an alarm, a sink that fails, letters.

    Example: neolayer relay status
    """
    settings = invocation().settings
    at = endpoints(settings)
    found = await relay_status(at, state_file=state_path(settings.data_dir))
    async with _desk(at) as desk:
        asked = {one.sink: one for one in await desk.standings()}
        rebuilds = await desk.rebuilds()
    some_failed = any(one.state == "failed" for one in rebuilds)
    copied = {sink.name: sink.tables for sink in _sinks(at)} if some_failed else {}
    alarms = alarms_of(found, asked, rebuilds, settings.relay.log_bytes, copied)
    if as_json:
        write_json(facts_of(found, asked, rebuilds, alarms))
    else:
        show(found, asked, rebuilds)
        for alarm in alarms:
            write_line(alarm)
    return FAILED if alarms else 0


@app.command
async def pause(sink: SinkName, /, *, as_json: AsJson = False) -> None:
    """Let a sink have nothing more, over restarts too, until it is resumed; the others go on.

    What it misses is kept in the relay's log, up to the bound `relay.log_bytes`; beyond that it is
    given the tables anew when it goes on.

    Example: neolayer relay pause clickhouse
    """
    at = _at()
    chosen = _sink(at, sink).name
    async with _desk(at) as desk:
        await desk.pause(chosen)
    _answer({"sink": chosen, "paused": True}, f"{chosen} is paused.", as_json=as_json)


@app.command
async def resume(sink: SinkName, /, *, as_json: AsJson = False) -> None:
    """Let a paused sink go on from where it was; nothing is lost.

    Example: neolayer relay resume clickhouse
    """
    at = _at()
    chosen = _sink(at, sink).name
    async with _desk(at) as desk:
        was_paused = await desk.resume(chosen)
    text = f"{chosen} goes on." if was_paused else f"{chosen} was not paused."
    facts = {"sink": chosen, "paused": False, "was_paused": was_paused}
    _answer(facts, text, as_json=as_json)


@app.command
async def letters(sink: SinkName, /, *, limit: Limit = 20, as_json: AsJson = False) -> None:
    """Show the changes that a sink refused for ever, and why; oldest first.

    Example: neolayer relay letters mongodb --limit 5
    """
    at = _at()
    chosen = _sink(at, sink).name
    async with _desk(at) as desk:
        found = await desk.letters(chosen, limit=limit)
    if as_json:
        write_json([letter_facts(one) for one in found])
    elif not found:
        say(f"{chosen} refused nothing.")
    else:
        rows = [
            (one.table, key_text(one.key), one.parked_at, one.tries, one.cause) for one in found
        ]
        write_table(("table", "key", "parked", "tries", "cause"), rows)


@app.command
async def replay(
    sink: SinkName,
    /,
    *,
    table: Annotated[str | None, Parameter(help="Only this table: blocks, auth.users.")] = None,
    key: Annotated[
        tuple[str, ...] | None,
        Parameter(help="Only this row: its key's columns in order.", consume_multiple=True),
    ] = None,
    wait: Wait = 60,
    as_json: AsJson = False,
) -> int:
    """Send rows that a sink refused again, as they are now; taken ones leave the letters.

    The exit code is 1 where letters are left, 4 where the relay did not come to it in time.

    Example: neolayer relay replay clickhouse --key 5a0c0b0e-9f31-4c1e-8d38-1f6f6f3b9a10 0x8c5f
    """
    at = _at()
    chosen = _sink(at, sink)
    if not isinstance(chosen, Rebuildable):
        raise SettingsError(
            f"{chosen.name} holds no rows of its own, so none can be sent again by itself",
            hint=f"neolayer relay rebuild {chosen.name} TABLE",
        )
    named = None if table is None else _table(chosen, table)
    if key is not None and not any(key):
        raise InvalidInput("--key names no row", hint="leave it out to replay all letters")
    async with _desk(at) as desk:
        asked = await desk.request_replay(chosen.name, table=named, key=key)
        if not asked and (key or named):
            raise NotFound(
                f"{chosen.name} has no such letter", hint=f"neolayer relay letters {chosen.name}"
            )

        async def is_done() -> bool:
            return not await desk.still_requested(chosen.name)

        done = await _until(is_done, seconds=wait)
        left = {one.sink: one.letters for one in await desk.standings()}.get(chosen.name, 0)
    text = f"{counted(asked, 'letter')} sent again; {left} left with {chosen.name}."
    if not done:
        text = f"Asked for {counted(asked, 'letter')}; the relay has not come to it: {_WHY}"
    facts = {"sink": chosen.name, "asked": asked, "done": done, "left": left}
    _answer(facts, text, as_json=as_json)
    return (FAILED if left else 0) if done else STILL


@app.command
async def rebuild(
    sink: SinkName,
    table: Annotated[str, Parameter(help="Table or class of data: blocks, auth.users.")],
    /,
    *,
    wait: Wait = 86_400,
    as_json: AsJson = False,
) -> int:
    """Make one table anew in one sink while changes flow; a relay that dies goes on with it.

    The exit code is 1 where it failed, 4 where it is not done in time; then it goes on.

    Example: neolayer relay rebuild clickhouse transactions
    """
    at = _at()
    chosen = _sink(at, sink)
    named = _table(chosen, table)
    async with _desk(at) as desk:
        if not await desk.request_rebuild(chosen.name, named):
            say("It is under way already.")
        found = await _follow(desk, chosen.name, named, seconds=wait)
    if found.state == "done":
        text = f"{named} in {chosen.name}: {found.rows:,} rows made anew."
    elif found.state == "failed":
        text = f"{named} in {chosen.name}: failed: {found.error}"
    else:
        text = f"{named} in {chosen.name}: {found.ranges_done} of {found.ranges} parts; {_WHY}"
    _answer(asdict(found), text, as_json=as_json)
    return {"done": 0, "failed": FAILED}.get(found.state, STILL)


def _fed(text: str) -> Store | Stream:
    for one in (*Store, *Stream):
        if one == text:
            return one
    names = ", ".join((*Store, *Stream))
    raise ValueError(f"{shown(text)} is no store or stream. Choose from: {names}")


@app.command(name="wait")
async def wait_until_there(
    position: Annotated[PositionsOf, Parameter(help="What a write returned.")],
    /,
    *,
    sink: Annotated[
        list[Store | Stream] | None,
        each(_fed),
        Parameter(help="Only these; without: all that are configured, streams and webhooks too."),
    ] = None,
    wait: Annotated[Seconds, Parameter(help="Seconds to wait for it.")] = 60,
    as_json: AsJson = False,
) -> None:
    """Return when stores and streams reflect a position; webhooks: when it is in their queues.

    The exit code is 4 where it does not come in time; then it says how far each is. It is 1 where
    PostgreSQL was put back, so that no position says what the copies have.

    Example: neolayer relay wait neolayer:1:0/2A41F08 --sink clickhouse --sink webhooks
    """
    at = _at()
    async with _showing_copies(at):
        reached = await wait_for(
            position,
            at,
            stores=sink or (*stores_at(at), *streams_at(at)),
            timeout=timedelta(seconds=wait),
            notes=server_notes(invocation().settings.data_dir),
        )
    facts = {str(one): str(there) for one, there in reached.items()}
    text = ", ".join(f"{one} is at {there}" for one, there in facts.items())
    _answer(facts, text or "Nothing is fed from there.", as_json=as_json)


_WHY: Final = "is it running, and the sink neither paused nor failing? neolayer relay status"


async def _follow(desk: Desk, sink: str, table: str, *, seconds: float) -> RebuildStatus:
    """The rebuild when it has ended, or as it is when the time is over; with a bar meanwhile."""
    (found,) = await desk.rebuilds(sink, table)
    with _bars() as bar:
        task = bar.add_task(f"{table} in {sink}", total=None)

        async def has_ended() -> bool:
            nonlocal found
            (found,) = await desk.rebuilds(sink, table)
            bar.update(task, total=found.ranges or None, completed=found.ranges_done)
            return found.ended

        await _until(has_ended, seconds=seconds)
    return found


@asynccontextmanager
async def _showing_copies(at: Endpoints) -> AsyncGenerator[None]:
    """A bar for each sink that is copied as a whole meanwhile, where a person looks."""
    if not words().is_terminal:
        yield
        return
    with _bars() as bar:
        task = asyncio.create_task(_show_copies(at, bar))
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def _show_copies(at: Endpoints, bar: Progress) -> None:
    tasks: dict[str, TaskID] = {}
    async with _desk(at) as desk:
        while True:
            under_way = {one.sink: one for one in joined(await desk.rebuilds()) if one.whole}
            for sink, one in under_way.items():
                if sink not in tasks:
                    tasks[sink] = bar.add_task(f"{one.table} into {sink}", total=None)
                bar.update(tasks[sink], total=one.ranges or None, completed=one.ranges_done)
            for sink in tasks.keys() - under_way.keys():
                bar.remove_task(tasks.pop(sink))
            await asyncio.sleep(_LOOK_S)


def _bars() -> Progress:
    console = words()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    return Progress(
        *columns,
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


async def _until(condition: Callable[[], Awaitable[bool]], *, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            while not await condition():  # noqa: ASYNC110 - what changes is in the database
                await asyncio.sleep(_LOOK_S)
    except TimeoutError:
        return False
    return True


def _at() -> Endpoints:
    return endpoints(invocation().settings)


def _desk(at: Endpoints) -> Desk:
    return desk_of(at, Role.OPERATOR)


def _sinks(at: Endpoints) -> list[Sink]:
    """Every sink, not connected."""
    databases = outgoing_databases(data_classes())
    return [
        *declared_sinks(at, invocation().settings.relay, data_classes()),
        *(WebhookSink(at, data_classes(), database=one) for one in databases),
    ]


def _sink(at: Endpoints, name: str) -> Sink:
    """The sink of that name, not connected. Raises SettingsError where there is none."""
    sinks = _sinks(at)
    for sink in sinks:
        if sink.name == name:
            return sink
    names = ", ".join(sink.name for sink in sinks)
    raise SettingsError(f"no sink {name!r}", hint=f"one of: {names}")


def _table(sink: Sink, name: str) -> str:
    """The table, also by its class's name. Raises SettingsError where the sink has none of it."""
    tables = {one.name: one.table for one in data_classes() if one.table in sink.tables}
    if name in tables.values():
        return name
    if name not in tables:
        known = ", ".join(tables)
        raise SettingsError(f"{sink.name} has no table {name!r}", hint=f"one of: {known}")
    return tables[name]


def _answer(facts: dict[str, Any], text: str, *, as_json: bool) -> None:
    if as_json:
        write_json(facts)
    else:
        write_line(text)
