"""Bringing every database to the schema this version expects, and back.

    await migrate_up(endpoints)

makes databases and roles, then applies what is missing in the one order over all lines. It may be
killed at any moment and started again: what was begun is finished first, in its own direction.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from time import perf_counter

from neolayer.engines.endpoints import Endpoints
from neolayer.errors import MigrationError
from neolayer.schema.clickhouse_target import open_clickhouse_target, provision_clickhouse
from neolayer.schema.context_secret import share_context_secret
from neolayer.schema.elasticsearch_target import open_elasticsearch_target
from neolayer.schema.files import Direction, Migration, load_migrations, numbered, parse_number
from neolayer.schema.history import Books, Mark
from neolayer.schema.lines import Line, lines_at
from neolayer.schema.partitions import make_partitions_ahead
from neolayer.schema.postgres_target import Patience, PostgresTarget, open_target
from neolayer.schema.provision import provision
from neolayer.schema.target import OnStatement, Target, ignore_statement


@dataclass(frozen=True, slots=True)
class AppliedStep:
    """One migration that was applied or taken back just now."""

    number: int
    line: Line
    name: str
    direction: Direction
    statements: int
    seconds: float

    @property
    def label(self) -> str:
        return f"{self.line}/{self.number:04d}_{self.name}"


OnStep = Callable[[AppliedStep], None]


@dataclass(frozen=True, slots=True)
class Run:
    """What a run works with: the files, the open databases, and who is watching."""

    migrations: tuple[Migration, ...]
    targets: dict[Line, Target]
    on_step: OnStep | None = None
    on_statement: OnStatement = ignore_statement

    async def books(self) -> Books:
        marks = [mark for target in self.targets.values() for mark in await target.marks()]
        return Books({mark.number: mark for mark in sorted(marks, key=lambda mark: mark.number)})

    async def step(self, migration: Migration, direction: Direction, done: int = 0) -> AppliedStep:
        """Apply or take back one migration and enter it in the history."""
        started = perf_counter()
        target = self.targets[migration.line]
        await target.run(migration, direction, done=done, on_statement=self.on_statement)
        statements = len(migration.script(direction).statements)
        self.on_statement(migration, statements + 1)
        if migration.line is not Line.CORE and (core := self.core) is not None:
            await core.write_history(migration, direction)
        step = AppliedStep(
            migration.number,
            migration.line,
            migration.name,
            direction,
            statements,
            perf_counter() - started,
        )
        if self.on_step is not None:
            self.on_step(step)
        return step

    @property
    def core(self) -> PostgresTarget | None:
        core = self.targets.get(Line.CORE)
        return core if isinstance(core, PostgresTarget) else None


async def migrate_up(
    endpoints: Endpoints,
    *,
    to: str | None = None,
    on_step: OnStep | None = None,
    on_statement: OnStatement = ignore_statement,
    lines: Collection[Line] = tuple(Line),
    migrations: Sequence[Migration] | None = None,
    patience: Patience | None = None,
) -> list[AppliedStep]:
    """Make databases and roles, then apply what is missing (up to number `to`), in order.

    Raises MigrationError on drift, on a refused statement (then that migration has left nothing
    behind), and when another migrator is at work for too long.
    """
    last = parse_number(to) if to is not None else None
    lines = lines_at(endpoints, lines)
    await provision(endpoints, databases=[line.database for line in lines if line.database])
    if Line.CLICKHOUSE in lines:
        await provision_clickhouse(endpoints.clickhouse)
    async with open_run(
        endpoints, lines, migrations, patience=patience, on_step=on_step, on_statement=on_statement
    ) as run:
        steps = await _finish_begun(run)
        books = await run.books()
        books.check(run.migrations)
        for migration in books.pending(run.migrations):
            if last is None or migration.number <= last:
                steps.append(await run.step(migration, Direction.UP))
        await _after_up(run)
        return steps


async def migrate_down(
    endpoints: Endpoints,
    *,
    to: str | None = None,
    on_step: OnStep | None = None,
    on_statement: OnStatement = ignore_statement,
    lines: Collection[Line] = tuple(Line),
    migrations: Sequence[Migration] | None = None,
    patience: Patience | None = None,
) -> list[AppliedStep]:
    """Take back all migrations above number `to` (`0`: all; None: the last one), newest first.

    Raises MigrationError before anything is touched if one of them has no way back.
    """
    last = parse_number(to) if to is not None else None
    async with open_run(
        endpoints, lines, migrations, patience=patience, on_step=on_step, on_statement=on_statement
    ) as run:
        steps = await _finish_begun(run)
        books = await run.books()
        books.check(run.migrations)
        applied = books.applied(run.migrations)[::-1]
        doomed = applied[:1] if last is None else [m for m in applied if m.number > last]
        for migration in doomed:
            migration.script(Direction.DOWN)
        return steps + [await run.step(migration, Direction.DOWN) for migration in doomed]


@asynccontextmanager
async def open_run(
    endpoints: Endpoints,
    lines: Collection[Line],
    migrations: Sequence[Migration] | None,
    *,
    patience: Patience | None = None,
    on_step: OnStep | None = None,
    on_statement: OnStatement = ignore_statement,
) -> AsyncGenerator[Run]:
    """Open and lock the databases of `lines`, in the order that every migrator takes them."""
    lines = lines_at(endpoints, lines)
    chosen = tuple(m for m in sorted(migrations or load_migrations()) if m.line in lines)
    targets: dict[Line, Target] = {}
    try:
        for line in Line:
            if any(migration.line is line for migration in chosen):
                targets[line] = await _open(endpoints, line, patience)
        run = Run(chosen, targets, on_step, on_statement)
        await _catch_up_history(run)
        yield run
    finally:
        for target in reversed(targets.values()):
            await target.close()


async def _open(endpoints: Endpoints, line: Line, patience: Patience | None) -> Target:
    if line is Line.MONGODB and endpoints.mongodb is not None:
        from neolayer.schema.mongodb_target import open_mongodb_target  # its driver is an extra

        return await open_mongodb_target(endpoints.mongodb)
    if line is Line.ELASTICSEARCH and endpoints.elasticsearch is not None:
        return await open_elasticsearch_target(endpoints.elasticsearch)
    if line.database is None:
        return await open_clickhouse_target(endpoints.clickhouse)
    return await open_target(endpoints.cluster(line.database), line, patience=patience)


async def _finish_begun(run: Run) -> list[AppliedStep]:
    """Finish what a killed migrator began outside a transaction."""
    files = numbered(run.migrations)
    begun = [mark for mark in (await run.books()).marks.values() if not mark.is_finished]
    for mark in begun:
        if mark.number not in files or files[mark.number].checksum != mark.checksum:
            raise MigrationError(f"{mark.label} was begun and its file has changed since")
    return [
        await run.step(files[mark.number], mark.direction, mark.statements_done) for mark in begun
    ]


async def _catch_up_history(run: Run) -> None:
    """Enter what committed elsewhere just before a crash."""
    if run.core is None:
        return
    known = await run.core.history_heads()
    marks = (await run.books()).marks
    for mark in marks.values():
        if mark.is_finished and not _is_up(known.get(mark.number)):
            await run.core.write_history(mark, Direction.UP)
    for head in known.values():
        if _is_up(head) and head.number not in marks and head.line in run.targets:
            await run.core.write_history(head, Direction.DOWN)


def _is_up(mark: Mark | None) -> bool:
    return mark is not None and mark.direction is Direction.UP


async def _after_up(run: Run) -> None:
    """What belongs to a complete schema and is no migration."""
    connections = {
        target.line: target.connection
        for target in run.targets.values()
        if isinstance(target, PostgresTarget)
    }
    await make_partitions_ahead(connections)
    await share_context_secret(list(connections.values()))
