"""`neolayer projections`: how read models are, rebuilt beside the live ones, compared, switched;
and what they could not fold, replayed or given up."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Annotated, Any
from uuid import UUID

from cyclopts import App, Parameter
from rich.progress import Progress, SpinnerColumn, TextColumn

from neolayer.cli.output import say, words, write_json, write_table
from neolayer.cli.root import answering, invocation
from neolayer.cli.root import app as root
from neolayer.cli.values import Count, Id, whole
from neolayer.cli.within_tenant import TenantOption, operator
from neolayer.engines.endpoints import Endpoints
from neolayer.errors import InvalidInput
from neolayer.events import Domain, Place, load_domain
from neolayer.events.projections import parking
from neolayer.events.projections import rebuild as rebuilding
from neolayer.events.projections.differences import Difference
from neolayer.events.projections.rebuild import Comparison, OnProgress
from neolayer.events.projections.status import Standing, standings
from neolayer.platform import endpoints
from neolayer.tenancy.directory import open_directory

app = App(name="projections", help="Look at read models, rebuild, compare, switch, mend them.")
root.command(app)

AsJson = Annotated[bool, Parameter(name="--json", help="Write JSON to stdout.")]
ExitCode = Annotated[
    bool, Parameter(help="Exit with 1 where a read model, or a stream, stands still.")
]
Name = Annotated[str, Parameter(help="Name of the read model.")]
Limit = Annotated[int, whole(0, 1_000_000), Parameter(help="How many differences to show at most.")]
OfTenant = Annotated[str | None, Parameter(name="--tenant", help="Of this tenant only.")]
OfStream = Annotated[Id | None, Parameter(name="--stream", help="Of this stream only.")]
DIFFERENT = 1


@app.command(name="list")
async def list_(*, as_json: AsJson = False, exit_code: ExitCode = False) -> int:
    """Show every read model: how it is run, whether it runs, how far it is and how far behind.

    Example: neolayer projections list
    """
    found = await standings(_at())
    if as_json:
        write_json([_standing(one) for one in found])
    elif not found:
        say("No projection was ever run. Name your modules in the settings: events.modules")
    else:
        columns = ("projection", "mode", "status", "position", "lag", "waiting", "certificate")
        write_table(columns, [_line(one) for one in found], whole=("projection", "position"))
        for one in found:
            if one.cause:
                say(f"{one.name} stands still: {one.cause}")
            if one.waiting:
                say(f"{one.name}: neolayer projections parked {one.name} says which streams wait.")
    return int(exit_code and any(one.stands_still for one in found))


@app.command
async def rebuild(name: Name, /, *, limit: Limit = 20, as_json: AsJson = False) -> int:
    """Replay every event into a second table beside the live one, and certify what comes out.

    The exit code is 0 where the live table is exactly what its events say, 1 where they differ or
    streams stand still, 3 where anything kept it from replaying them.

    Example: neolayer projections rebuild balances
    """
    with answering(), _progress(name) as show:
        comparison = await rebuilding.rebuild(_at(), _domain(), name, on_progress=show)
    return _answer(comparison, limit, as_json=as_json)


@app.command
async def diff(name: Name, /, *, limit: Limit = 20, as_json: AsJson = False) -> int:
    """Compare the rebuilt table with the live one row by row, as of now.

    The exit code is 0 where they are equal, 1 where they differ, 3 where anything kept it from
    comparing.

    Example: neolayer projections diff balances --limit 5
    """
    with answering():
        comparison = await rebuilding.compare(_at(), _domain(), name, limit=limit)
    return _answer(comparison, limit, as_json=as_json)


@app.command
async def switch(
    name: Name,
    /,
    *,
    back: Annotated[bool, Parameter(help="To the table from before the last switch.")] = False,
    different: Annotated[
        bool, Parameter(help="Also where the certificate says that its rows differ.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Let readers see the rebuilt table, in one transaction; the old one is kept to go back to.

    Example: neolayer projections switch balances && neolayer projections switch balances --back
    """
    if back and different:
        raise InvalidInput("--different is about the rebuilt table, and --back goes to another")
    if back:
        place = await rebuilding.switch_back(_at(), _domain(), name)
    else:
        place = await rebuilding.switch(_at(), _domain(), name, different=different)
    if as_json:
        write_json({"projection": name, "back": back, "position": str(place)})
    else:
        say(f"{name} is live as of {place}, {'as before' if back else 'rebuilt'}.")


@app.command
async def resume(name: Name, /, *, as_json: AsJson = False) -> None:
    """Let a projection that stopped try again.

    Example: neolayer projections resume balances
    """
    await rebuilding.resume(_at(), _domain(), name)
    if as_json:
        write_json({"projection": name, "status": "active"})
    else:
        say(f"{name} tries again.")


@app.command
async def drop(
    name: Name,
    /,
    *,
    yes: Annotated[bool, Parameter(help="Really: its tables and certificates go.")] = False,
    as_json: AsJson = False,
) -> None:
    """Forget a read model that no module declares any more, which would keep streams from archives.

    Example: neolayer projections drop old_balances --yes
    """
    if not yes:
        raise InvalidInput(f"{name} would be dropped with its certificates", hint="add --yes")
    await rebuilding.drop(_at(), _domain(), name)
    if as_json:
        write_json({"projection": name, "dropped": True})
    else:
        say(f"{name} is dropped.")


@app.command
async def parked(
    name: Annotated[str | None, Parameter(help="Of this projection, or balances:next.")] = None,
    /,
    *,
    tenant: OfTenant = None,
    discarded: Annotated[bool, Parameter(help="Show what was given up instead.")] = False,
    limit: Annotated[Count, Parameter(help="How many at most.")] = 100,
    as_json: AsJson = False,
) -> None:
    """Show the events that could not be folded, at which their streams stand still, and why.

    Example: neolayer projections parked balances
    """
    of = await _tenant(tenant)
    found = await parking.parked(_at(), name, tenant=of, discarded=discarded, limit=limit)
    if as_json:
        write_json([asdict(one) for one in found])
    elif not found:
        say("Nothing was discarded." if discarded else "No stream stands still.")
    else:
        columns = ("projection", "tenant", "stream", "version", "waiting", "attempts", "cause")
        lines = [
            (o.projection, o.tenant, o.stream_id, o.version, o.waiting, o.attempts, o.cause)
            for o in found
        ]
        write_table(columns, lines)


@app.command
async def replay(
    name: Name, /, *, tenant: OfTenant = None, stream: OfStream = None, as_json: AsJson = False
) -> int:
    """Fold streams on that stand still, once the projection or its events' types are mended.

    The exit code is 0 where all of them flow again, 1 where one stands again.

    Example: neolayer projections replay balances --tenant acme
    """
    of = await _tenant(tenant)
    done = await parking.replay(_at(), _domain(), name, tenant=of, stream_id=stream)
    return _replayed(name, done, as_json=as_json)


@app.command
async def discard(
    name: Name,
    /,
    *,
    tenant: TenantOption,
    stream: Annotated[Id, Parameter(help="Id of the stream that stands still.")],
    as_json: AsJson = False,
) -> int:
    """Give up the event that a stream stands still at, in rebuilds too, and fold what waits behind.

    The event itself stays where it is. The exit code is 1 where the stream stands again.

    Example: neolayer projections discard balances --tenant acme --stream
    6f0c2e1d-8a34-4f7b-b0c5-92d1e7a4c310
    """
    async with open_directory(_at()) as directory:
        of = (await directory.find(tenant)).id
    done = await parking.discard(_at(), _domain(), name, tenant=of, stream_id=stream, by=operator())
    return _replayed(name, done, as_json=as_json)


def _replayed(name: str, done: parking.Replayed, *, as_json: bool) -> int:
    if as_json:
        write_json({"projection": name, **asdict(done)})
    else:
        still = f", {done.standing} stand still" if done.standing else ""
        say(f"{name}: {done.flowing} streams flow again{still}.")
        if done.is_late:
            say(
                "Rows are made of several streams here, and these came late: where their order"
                f" counts, neolayer projections rebuild {name} says what differs."
            )
    return int(done.standing > 0)


async def _tenant(text: str | None) -> UUID | None:
    if text is None:
        return None
    async with open_directory(_at()) as directory:
        return (await directory.find(text)).id


def _at() -> Endpoints:
    return endpoints(invocation().settings)


def _domain() -> Domain:
    return load_domain(invocation().settings.events.modules)


@contextmanager
def _progress(name: str) -> Generator[OnProgress]:
    columns = (SpinnerColumn(), TextColumn("{task.description}"))
    console = words()
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as progress:
        task = progress.add_task(f"rebuilding {name}", total=None)
        yield lambda events: progress.update(task, description=f"{name}: {events:,} events")


def _standing(one: Standing) -> dict[str, Any]:
    return {**asdict(one), "place": None if one.place is None else str(one.place)}


def _line(one: Standing) -> tuple[object, ...]:
    lag = f"{one.lag_events:,} events, {one.lag_seconds:.1f} s" if one.lag_events else "none"
    certificate = {None: "", True: "holds", False: "DIFFERS"}[one.certificate_holds]
    waiting = f"{one.waiting} streams" if one.waiting else "none"
    return one.name, one.mode, one.status, one.place or "", lag, waiting, certificate


def _answer(comparison: Comparison, limit: int, *, as_json: bool) -> int:
    certificate = comparison.certificate
    shown = comparison.differences[:limit]
    if as_json:
        write_json(
            {
                "projection": certificate.projection,
                "position": str(certificate.as_of),
                "equal": certificate.holds,
                "live": asdict(certificate.live),
                "replay": asdict(certificate.replay),
                "certificate": certificate.number,
                "waiting": {
                    "live": certificate.live_waiting,
                    "replay": certificate.replay_waiting,
                },
                "discarded": certificate.discarded,
                "new_fields": comparison.new_fields,
                "gone_fields": comparison.gone_fields,
                "differences": [asdict(one) for one in shown],
            }
        )
        return 0 if certificate.holds else DIFFERENT
    if shown:
        columns = ("tenant", "key", "field", "live", "replay")
        write_table(columns, [line for one in shown for line in _lines(one)])
    for what, fields in (("new", comparison.new_fields), ("gone", comparison.gone_fields)):
        if fields:
            say(f"{what} fields: {', '.join(fields)}")
    say(_sentence(comparison, certificate.as_of))
    return 0 if certificate.holds else DIFFERENT


def _lines(one: Difference) -> list[tuple[object, ...]]:
    key = ", ".join(map(str, one.key))
    if one.live is None or one.replay is None:
        there = "only in the replay" if one.live is None else "only live"
        return [(one.tenant, key, there, "", "")]
    return [(one.tenant, key, name, one.live[name], one.replay[name]) for name in one.fields]


def _sentence(comparison: Comparison, place: Place) -> str:
    made = comparison.certificate
    live, replay, aside = made.live, made.replay, ""
    if made.live_waiting or made.replay_waiting:
        aside = (
            f" Streams that stand still: {made.live_waiting} live,"
            f" {made.replay_waiting} in the replay."
        )
    if made.discarded:
        aside += f" {made.discarded} discarded events count for nothing."
    if live != replay:
        return (
            f"Certificate {made.number}: DIFFERENT as of {place}: live {live.rows} rows,"
            f" {live.digest}; replay {replay.rows} rows, {replay.digest}.{aside}"
        )
    verdict = "the live table is what its events say"
    if not made.holds:
        verdict = "INCOMPLETE, though equal on both sides"
    return (
        f"Certificate {made.number}: {live.rows} rows, digest {live.digest}, as of {place}:"
        f" {verdict}.{aside}"
    )
