"""`neolayer keys`: which keys seal secrets, a new one, and what is sealed moved under it."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

from cyclopts import App, Parameter
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn

from neolayer.audit import Entry, append
from neolayer.cli.output import say, words, write_json, write_table
from neolayer.cli.root import app as root
from neolayer.cli.root import invocation
from neolayer.cli.within_tenant import operator, platform_scope
from neolayer.engines.endpoints import Database, Endpoints, Role
from neolayer.engines.postgres.connections import connect
from neolayer.errors import NeolayerError
from neolayer.keys import Keyring
from neolayer.keys.rewrapping import Rewrapped
from neolayer.keys.rewrapping import rewrap as rewrap_rows
from neolayer.keys.sealed_rows import KeyUse, key_usage, sealed_columns
from neolayer.platform import data_classes, keyring

app = App(name="keys", help="Look at, rotate and apply the keys that seal secrets.")
root.command(app)

AsJson = Annotated[bool, Parameter(name="--json", help="Write JSON to stdout.")]
ExitCode = Annotated[
    bool, Parameter(help="Exit with 1 where a key is missing, or rows wait for `keys rewrap`.")
]
_MOST_REASONS = 20


@app.command
async def status(*, as_json: AsJson = False, exit_code: ExitCode = False) -> int:
    """Show every key, whether it can be used, and how many rows it seals.

    Example: neolayer keys status --exit-code
    """
    async with keyring(invocation().settings) as opened, platform_scope() as (at, _):
        current = str(await opened.current())
        names = [str(name) for name in await opened.provider.versions()]
        trouble = await _trouble(opened)
        usage = await _usage(at)
    rows: dict[str, dict[str, int]] = {name: {} for name in names}
    for use in usage:
        counts = rows.setdefault(use.key_id, {})
        counts[str(use.column)] = counts.get(str(use.column), 0) + use.rows
    states = {key: _state(key, names, current) for key in rows}
    if as_json:
        keys = [{"key": key, "state": states[key], "rows": rows[key]} for key in rows]
        provider = invocation().settings.keys.provider
        write_json({"provider": provider, "current": current, "trouble": trouble, "keys": keys})
    else:
        write_table(("key", "state", "rows"), [(k, states[k], _counted(rows[k])) for k in rows])
        if trouble:
            say(f"the current key cannot be used: {trouble}")
        if any(rows[key] for key in rows if states[key] == "opens"):
            say("rows under earlier keys are moved with: neolayer keys rewrap")
    bad = trouble is not None or any(rows[key] for key in rows if states[key] != "seals")
    return int(exit_code and bad)


@app.command
async def rotate(*, as_json: AsJson = False) -> None:
    """Make a new key that seals from now on; the earlier ones still open.

    Example: neolayer keys rotate && neolayer keys rewrap
    """
    async with keyring(invocation().settings) as opened, platform_scope() as (_, scope):
        before = await opened.current()
        now = await opened.provider.rotate()
        async with scope.transaction() as tx:
            changes = {"from": str(before), "to": str(now)}
            append(tx, Entry("EXECUTE", "keys", resource_id="rotate", changes=changes))
    if as_json:
        write_json({"before": str(before), "current": str(now)})
    else:
        say(f"{now} seals from now on. Move what {before} seals with: neolayer keys rewrap")


@app.command
async def rewrap(*, as_json: AsJson = False) -> int:
    """Move what earlier keys seal under the current one; ciphertexts stay as they are.

    Interrupted, it goes on where it was when it is run again. Where AWS KMS or Vault locks the
    keys, they are first locked by the newest version of the master key.

    Example: neolayer keys rewrap
    """
    started = time.monotonic()
    async with keyring(invocation().settings) as opened, platform_scope() as (at, scope):
        relocked = await opened.provider.relock()
        if relocked:
            async with scope.transaction() as tx:
                changes = {"keys": relocked, "current": str(await opened.current())}
                append(tx, Entry("EXECUTE", "keys", resource_id="relock", changes=changes))
        usage = await _usage(at)
        waiting = _waiting(usage, str(await opened.current()))
        with _bar(waiting) as show:
            done = await rewrap_rows(
                opened,
                usage,
                scope_of=lambda tenant: scope.core.scope(tenant, by=operator()),
                on_batch=show,
            )
    seconds = time.monotonic() - started
    _answer(done, relocked, seconds, as_json=as_json)
    return int(bool(done.refused))


async def _trouble(opened: Keyring) -> str | None:
    try:
        await opened.provider.health()
    except NeolayerError as exc:
        return exc.message
    return None


async def _usage(at: Endpoints) -> list[KeyUse]:
    dsn = at.cluster(Database.CORE).dsn(Role.OPERATOR, Database.CORE)
    async with await connect(dsn, autocommit=True, application_name="keys") as connection:
        return await key_usage(connection, sealed_columns(data_classes()))


def _waiting(usage: Sequence[KeyUse], current: str) -> int:
    return sum(use.rows for use in usage if use.key_id != current)


def _state(key: str, names: Sequence[str], current: str) -> str:
    if key == current:
        return "seals"
    return "opens" if key in names else "missing"


def _counted(rows: dict[str, int]) -> str:
    return ", ".join(f"{count} in {column}" for column, count in rows.items()) or "none"


def _answer(done: Rewrapped, relocked: int, seconds: float, *, as_json: bool) -> None:
    rate = done.rows / seconds if seconds else 0.0
    if as_json:
        facts: dict[str, Any] = {
            "rows": done.rows,
            "keys_relocked": relocked,
            "changed_meanwhile": done.changed_meanwhile,
            "refused": dict(done.refused),
            "seconds": round(seconds, 3),
            "rows_per_second": round(rate),
        }
        write_json(facts)
        return
    say(f"{done.rows} rows in {seconds:.1f} s ({rate:,.0f} rows/s); {relocked} keys locked anew")
    for reason, count in done.refused.most_common(_MOST_REASONS):
        say(f"{count} left as they are: {reason}")
    if len(done.refused) > _MOST_REASONS:
        say(f"and {len(done.refused) - _MOST_REASONS} more; --json lists them all")


@contextmanager
def _bar(total: int) -> Generator[Callable[[Rewrapped], None]]:
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
    console = words()
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as progress:
        task = progress.add_task("re-wrapping", total=total)

        def show(done: Rewrapped) -> None:
            handled = done.rows + done.refused.total()
            progress.update(task, completed=handled, description=f"{done.rows:,} rows")

        yield show
