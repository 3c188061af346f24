"""`neolayer projections`: how read models are, rebuilt beside the live ones, compared, switched."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Annotated, Any

from cyclopts import App, Parameter
from rich.progress import Progress, SpinnerColumn, TextColumn

from neolayer.cli.output import say, words, write_json, write_table
from neolayer.cli.root import app as root
from neolayer.cli.root import invocation
from neolayer.engines.endpoints import Endpoints
from neolayer.events import Domain, Place, load_domain
from neolayer.events.projections import rebuild as rebuilding
from neolayer.events.projections.differences import Difference
from neolayer.events.projections.rebuild import Comparison, OnProgress
from neolayer.events.projections.status import Standing, standings
from neolayer.platform import endpoints

app = App(name="projections", help="Look at read models, rebuild, compare and switch them.")
root.command(app)

AsJson = Annotated[bool, Parameter(name="--json", help="Write JSON to stdout.")]
ExitCode = Annotated[bool, Parameter(help="Exit with 1 where a read model stands still.")]
Limit = Annotated[int, Parameter(help="How many differences to show at most.")]
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
        columns = ("projection", "mode", "status", "position", "lag", "certificate")
        write_table(columns, [_line(one) for one in found])
        for one in found:
            if one.cause:
                say(f"{one.name} stands still: {one.cause}")
    return int(exit_code and any(one.status == "failed" for one in found))


@app.command
async def rebuild(name: str, /, *, limit: Limit = 20, as_json: AsJson = False) -> int:
    """Replay every event into a second table beside the live one, and certify what comes out.

    The exit code is 0 where the live table is exactly what its events say, 1 where they differ.

    Example: neolayer projections rebuild balances
    """
    with _progress(name) as show:
        comparison = await rebuilding.rebuild(_at(), _domain(), name, on_progress=show)
    return _answer(comparison, limit, as_json=as_json)


@app.command
async def diff(name: str, /, *, limit: Limit = 20, as_json: AsJson = False) -> int:
    """Compare the rebuilt table with the live one row by row, as of now.

    The exit code is 0 where they are equal, 1 where they differ.

    Example: neolayer projections diff balances --limit 5
    """
    comparison = await rebuilding.compare(_at(), _domain(), name, limit=limit)
    return _answer(comparison, limit, as_json=as_json)


@app.command
async def switch(
    name: str,
    /,
    *,
    back: Annotated[bool, Parameter(help="To the table from before the last switch.")] = False,
    as_json: AsJson = False,
) -> None:
    """Let readers see the rebuilt table, in one transaction; the old one is kept to go back to.

    Example: neolayer projections switch balances && neolayer projections switch balances --back
    """
    change = rebuilding.switch_back if back else rebuilding.switch
    place = await change(_at(), _domain(), name)
    if as_json:
        write_json({"projection": name, "back": back, "position": str(place)})
    else:
        say(f"{name} is live as of {place}, {'as before' if back else 'rebuilt'}.")


@app.command
async def resume(name: str, /, *, as_json: AsJson = False) -> None:
    """Let a projection that failed try again, at the event it failed on.

    Example: neolayer projections resume balances
    """
    await rebuilding.resume(_at(), _domain(), name)
    if as_json:
        write_json({"projection": name, "status": "active"})
    else:
        say(f"{name} tries again.")


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
    return one.name, one.mode, one.status, one.place or "", lag, certificate


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
    live, replay = comparison.certificate.live, comparison.certificate.replay
    number = comparison.certificate.number
    if comparison.certificate.holds:
        return (
            f"Certificate {number}: {live.rows} rows, digest {live.digest}, as of {place}:"
            " the live table is what its events say."
        )
    return (
        f"Certificate {number}: DIFFERENT as of {place}: live {live.rows} rows, {live.digest};"
        f" replay {replay.rows} rows, {replay.digest}."
    )
