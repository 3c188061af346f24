"""`neolayer migrate`: every database brought to the schema this version expects, and back."""

from __future__ import annotations

from typing import Annotated, Any

from cyclopts import App, Parameter

from neolayer.cli.output import say, write_json, write_table
from neolayer.cli.root import app as root
from neolayer.cli.root import invocation
from neolayer.platform import endpoints
from neolayer.schema.plan import PlannedMigration, PlannedStatement
from neolayer.schema.plan import plan as make_plan
from neolayer.schema.runner import AppliedStep, migrate_down, migrate_up
from neolayer.schema.state import SchemaState
from neolayer.schema.state import status as read_status

app = App(name="migrate", help="Bring every database to the schema of this version, and back.")
root.command(app)

AsJson = Annotated[bool, Parameter(name="--json", help="Write JSON to stdout.")]
ExitCode = Annotated[bool, Parameter(help="Exit with 1 where something is pending or differs.")]
To = Annotated[str | None, Parameter(help="Number of a migration, such as 0007.")]


@app.command
async def up(*, to: To = None, as_json: AsJson = False) -> None:
    """Make databases and roles, and apply what is missing, in order.

    Example: neolayer migrate up
    """
    steps = await migrate_up(endpoints(invocation().settings), to=to, on_step=_say_step)
    _answer(steps, as_json=as_json, nothing="Every database is at this version already.")


@app.command
async def down(*, to: To = None, as_json: AsJson = False) -> None:
    """Take back the last migration, or all after number TO (0: all), the newest first.

    It stops before a PostgreSQL migration whose tables have rows; what it took back until then
    stays so. ClickHouse and MongoDB hold copies only: they are dropped unasked, and made again by
    `migrate up` and the relay.

    Example: neolayer migrate down --to 0007
    """
    steps = await migrate_down(endpoints(invocation().settings), to=to, on_step=_say_step_down)
    _answer(steps, as_json=as_json, nothing="Nothing to take back.")


@app.command
async def plan(*, as_json: AsJson = False, exit_code: ExitCode = False) -> int:
    """Show the SQL of what is missing and the locks it takes, measured and rolled back.

    Example: neolayer migrate plan
    """
    planned = await make_plan(endpoints(invocation().settings))
    if as_json:
        write_json([_plan_json(entry) for entry in planned])
    elif not planned:
        say("Every database is at this version already.")
    else:
        print("\n".join(_plan_text(entry) for entry in planned))
    return int(exit_code and bool(planned))


@app.command
async def status(*, as_json: AsJson = False, exit_code: ExitCode = False) -> int:
    """Show how far each database is, and where it differs from what this version made.

    Example: neolayer migrate status --exit-code
    """
    state = await read_status(endpoints(invocation().settings))
    if as_json:
        write_json(_status_json(state))
    else:
        rows = [
            (line.line, line.version, line.expected, ", ".join(line.pending))
            for line in state.lines
        ]
        write_table(("line", "version", "expected", "pending"), rows)
        for sentence in state.drift:
            say(f"differs: {sentence}")
    return int(exit_code and not state.is_current)


def _say_step(step: AppliedStep) -> None:
    say(f"{step.direction:>4} {step.label} ({step.statements} statements, {step.seconds:.2f} s)")


def _say_step_down(step: AppliedStep) -> None:
    _say_step(step)
    if step.line.database is None:
        say("     these are copies of what PostgreSQL has: migrate up and the relay make them")


def _answer(steps: list[AppliedStep], *, as_json: bool, nothing: str) -> None:
    if as_json:
        write_json(
            [
                {
                    "number": step.number,
                    "line": step.line,
                    "name": step.name,
                    "direction": step.direction,
                    "statements": step.statements,
                    "seconds": round(step.seconds, 3),
                }
                for step in steps
            ]
        )
    elif not steps:
        say(nothing)


def _plan_text(entry: PlannedMigration) -> str:
    migration = entry.migration
    together = migration.up.transactional and migration.line.database is not None
    how = "one transaction" if together else "statement by statement"
    body = "\n\n".join(_statement_text(statement) for statement in entry.statements)
    return f"-- {migration.path} ({how})\n\n{body}\n"


def _statement_text(statement: PlannedStatement) -> str:
    locks = [
        f"-- lock: {lock.mode} on {lock.relation}, about {lock.rows} rows: {lock.hinders}"
        for lock in statement.locks
    ]
    notes = [f"-- lock: {statement.note}"] if statement.note else []
    return "\n".join([*locks, *notes, f"{statement.sql};"])


def _plan_json(entry: PlannedMigration) -> dict[str, Any]:
    return {
        "number": entry.migration.number,
        "line": entry.migration.line,
        "name": entry.migration.name,
        "transactional": (
            entry.migration.up.transactional and entry.migration.line.database is not None
        ),
        "statements": [
            {
                "sql": statement.sql,
                "locks": [
                    {
                        "relation": lock.relation,
                        "mode": lock.mode,
                        "rows": lock.rows,
                        "hinders": lock.hinders,
                    }
                    for lock in statement.locks
                ],
                "note": statement.note,
            }
            for statement in entry.statements
        ],
    }


def _status_json(state: SchemaState) -> dict[str, Any]:
    return {
        "is_current": state.is_current,
        "lines": [
            {
                "line": line.line,
                "version": line.version,
                "expected": line.expected,
                "pending": list(line.pending),
            }
            for line in state.lines
        ],
        "drift": list(state.drift),
    }
