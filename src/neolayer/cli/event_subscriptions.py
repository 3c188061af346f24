"""`neolayer events subscribe` and what belongs to it: a tenant's subscriptions, and what they could
not handle, replayed or given up."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import asdict
from inspect import signature
from typing import Annotated, Any

from cyclopts import Parameter

from neolayer.cli.event_options import After, AsJson, Types, opened, opened_typed, write_event
from neolayer.cli.output import counted, say, write_json, write_table
from neolayer.cli.values import Count, Id, whole
from neolayer.cli.within_tenant import TenantOption, tenant_scope
from neolayer.errors import InvalidInput, SettingsError
from neolayer.events import Events, Poison, RecordedEvent, TypedEvents
from neolayer.events.consuming import Handler
from neolayer.events.parked import Parked
from neolayer.events.projections.domain import imported
from neolayer.tenancy import Transaction

Name = Annotated[str, Parameter(help="The subscription.")]
OfStream = Annotated[Id | None, Parameter(name="--stream", help="Of this stream only.")]
Partitions = Annotated[int, whole(1, 1024)]
_HANDLER = "--handler names"


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

    Types and place belong to the subscription: others are refused later. --once waits for what
    another consumer holds, until that one has handled it or is found dead.

    Example: neolayer events subscribe audit-feed --tenant acme --once
    """

    async with opened(tenant) as events:
        subscription = await events.subscribe(
            name,
            partitions=partitions,
            after=after,
            types=type_,
            poison=Poison.HOLD,
        )
        if once:
            await subscription.catch_up(_write)
            return
        stop, loop = asyncio.Event(), asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        await subscription.run(_write, until=stop)


async def subscriptions(*, tenant: TenantOption, as_json: AsJson = False) -> None:
    """Show a tenant's subscriptions: how far each is, what it parked, who works on it.

    Example: neolayer events subscriptions --tenant acme
    """
    async with opened(tenant) as events:
        found = await events.subscriptions.list()
    if as_json:
        for one in found:
            write_json({**asdict(one), "place": str(one.place)}, indent=False)
        return
    columns = ("subscription", "place", "behind", "parked", "partitions", "consumers")
    lines = [
        (o.name, o.place.shown, o.lag_events, o.parked, o.partitions, ", ".join(o.consumers))
        for o in found
    ]
    write_table(columns, lines)


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
    async with opened(tenant) as events:
        await events.subscriptions.delete(name)
    if as_json:
        write_json({"subscription": name, "deleted": True})
    else:
        say(f"subscription {name} is forgotten")


async def parked(
    name: Name,
    /,
    *,
    tenant: TenantOption,
    stream: OfStream = None,
    limit: Annotated[Count, Parameter(help="How many at most.")] = 100,
    as_json: AsJson = False,
) -> None:
    """Show the events that a subscription could not handle, and what waits behind each, and why.

    Example: neolayer events parked letters --tenant acme
    """
    async with opened(tenant) as events:
        found = await (await events.subscriptions.parked(name)).list(stream_id=stream, limit=limit)
    if as_json:
        write_json([asdict(one) for one in found])
    elif not found:
        say("Nothing is parked.")
    else:
        columns = ("stream", "version", "attempts", "cause")
        lines = [
            (o.stream_id, o.version, o.attempts, o.cause or "waits behind another") for o in found
        ]
        write_table(columns, lines, whole="stream")


async def replay(
    name: Name,
    /,
    *,
    tenant: TenantOption,
    stream: OfStream = None,
    handler: Annotated[
        str | None,
        Parameter(help="Your function, such as myapp.letters:send; without, events are written."),
    ] = None,
    as_json: Annotated[bool, Parameter(name="--json", help="Write the result as JSON.")] = False,
) -> int:
    """Handle what is parked, in order: write it as JSON lines, or call your program's handler.

    A handler is called as the subscription calls it: handler(tx, event), or handler(tx, event,
    recorded) where it wants the event as a type of your modules. The exit code is 0 where nothing
    is left, 1 where some of it failed again.

    Example: neolayer events replay letters --tenant acme --handler myapp.letters:send
    """
    async with _to_replay(name, tenant, handler) as (waiting, handle):
        handled = await waiting.replay(handle, stream_id=stream)
        left = bool(await waiting.list(stream_id=stream, limit=1))
    if as_json:
        write_json({"subscription": name, "handled": handled, "left": left}, indent=False)
    else:
        still = "; some of it failed again" if left else ""
        say(f"{name}: {counted(handled, 'event')} handled{still}")
    return int(left)


async def discard(
    name: Name,
    /,
    *,
    tenant: TenantOption,
    stream: Annotated[Id, Parameter(name="--stream", help="Id of the stream that stands still.")],
    yes: Annotated[bool, Parameter(help="Really: the subscription never handles it.")] = False,
    as_json: AsJson = False,
) -> None:
    """Give up the event that a stream stands still at; it is noted in the audit trail.

    The event itself stays where it is. What waited behind it is handled by `replay`.

    Example: neolayer events discard letters --tenant acme --stream
    6f0c2e1d-8a34-4f7b-b0c5-92d1e7a4c310 --yes
    """
    if not yes:
        raise InvalidInput(f"{name} would never handle the event", hint="add --yes")
    async with opened(tenant) as events, tenant_scope(tenant) as (_, core):
        waiting = await events.subscriptions.parked(name)
        given_up = await waiting.discard(stream, core=core)
        left = len(await waiting.list(stream_id=stream))
    if as_json:
        write_json({"subscription": name, **asdict(given_up), "waiting": left}, indent=False)
    else:
        behind = f"; {left} wait behind it: neolayer events replay {name}" if left else ""
        say(f"{name} has given up version {given_up.version} of stream {stream}{behind}")


COMMANDS = (subscribe, subscriptions, unsubscribe, parked, replay, discard)


@asynccontextmanager
async def _to_replay(
    name: str, tenant: str, handler: str | None
) -> AsyncGenerator[tuple[Parked, Handler]]:
    if handler is None:
        async with opened(tenant) as events:
            yield await events.subscriptions.parked(name), _write
        return
    wanted = _found(handler)
    async with opened_typed(tenant) as (events, _):
        yield await events.subscriptions.parked(name), _called_by(events, wanted, handler)


def _found(handler: str) -> Any:
    """The function `module:name`. Raises InvalidInput, SettingsError."""
    module, colon, name = handler.partition(":")
    if not colon or not name:
        raise InvalidInput(f"no handler: {handler!r}", hint="write module:function")
    found = getattr(imported(module, said=_HANDLER), name, None)
    if not callable(found):
        raise SettingsError(f"{_HANDLER} {handler!r}, and {module} has no function {name!r}")
    return found


def _called_by(events: Events | TypedEvents, wanted: Any, handler: str) -> Handler:
    if len(signature(wanted).parameters) < 3:
        return wanted
    if isinstance(events, TypedEvents):
        return events.typed(wanted)
    raise SettingsError(
        f"{handler} wants typed events, and no module declares their types",
        hint="name your modules in the settings: events.modules",
    )


async def _write(_: Transaction, event: RecordedEvent) -> None:
    write_event(event)
