"""The tables of read models: made, moved and dropped as the owner, never by hand.

Every one has the tenant in front of its key, forced row-level security with the one policy that all
tenant tables have, a bound on what a row may hold, and rights by role: the application reads, and
folds where the projection is inline; the projector writes where it is asynchronous. Whoever the
policy holds writes as the layer's own work alone, and so no tenant does by SQL.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager

import psycopg
from psycopg import sql

from neolayer.engines.endpoints import Database, Endpoints, Role
from neolayer.engines.postgres.connections import Connection, connect
from neolayer.engines.postgres.queries import load_queries
from neolayer.errors import Conflict
from neolayer.events.projections.model import AnyProjection, Mode, Slot
from neolayer.events.projections.shape import Shape, shape_of, table

QUERIES = load_queries(__name__)
LOCK_PATIENCE_MS = 10_000

_POLICY = sql.SQL(
    "CREATE POLICY tenant_isolation ON {} TO neolayer_app, neolayer_owner"
    " USING (tenant_id = (SELECT core.current_tenant()))"
    " WITH CHECK (tenant_id = (SELECT core.current_tenant()))"
)
_WRITER = {Mode.INLINE: Role.APP, Mode.ASYNC: Role.PROJECTOR}
_READERS = (Role.APP, Role.RELAY, Role.BACKUP, Role.OPERATOR, Role.PROJECTOR)


@asynccontextmanager
async def owner_connection(at: Endpoints) -> AsyncGenerator[Connection]:
    """The event store as the migrator, who may act as the owner and sees every tenant.

    Raises Conflict where others hold for long what is needed here.
    """
    dsn = at.cluster(Database.EVENT_STORE).dsn(Role.MIGRATOR, Database.EVENT_STORE)
    async with await connect(dsn, autocommit=True, application_name="projections") as owner:
        patience = sql.SQL("SET lock_timeout = {}").format(sql.Literal(LOCK_PATIENCE_MS))
        await owner.execute(patience)
        with giving_way():
            yield owner


@contextmanager
def giving_way() -> Generator[None]:
    """Raises Conflict where others hold for long what the block needs."""
    try:
        yield
    except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected) as exc:
        raise Conflict(
            "others were at work on the tables of read models", hint="try again"
        ) from exc


@asynccontextmanager
async def turn(owner: Connection) -> AsyncGenerator[None]:
    """One transaction, and nobody else's work on tables meanwhile."""
    async with owner.transaction():
        await owner.execute(QUERIES.take_turns)
        yield


@asynccontextmanager
async def alone(owner: Connection, name: str) -> AsyncGenerator[None]:
    """Nobody else rebuilds, compares, switches or drops this read model until the end of the block,
    over any number of transactions. Raises Conflict."""
    row = await (await owner.execute(QUERIES.take_alone, {"name": name})).fetchone()
    if row is None or not row[0]:
        raise Conflict(
            f"{name} is being rebuilt, compared or switched by somebody else",
            hint="try again when that has ended: neolayer projections list",
        )
    try:
        yield
    finally:
        if not owner.closed:
            await owner.execute(QUERIES.leave_alone, {"name": name})


async def create(connection: Connection, projection: AnyProjection, slot: Slot) -> None:
    """Make the table of a place, empty; what stood there is dropped."""
    at, shape = table(projection, slot), shape_of(projection)
    await connection.execute("SET LOCAL ROLE neolayer_owner")
    await connection.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(at))
    await connection.execute(_definition(at, shape))
    named = {"table": f"{slot.value}.{projection.name}"}
    await connection.execute(QUERIES.bound, named)
    await connection.execute(QUERIES.guard, named)
    for columns in shape.indexes:
        names = sql.SQL(", ").join(map(sql.Identifier, columns))
        await connection.execute(sql.SQL("CREATE INDEX ON {} (tenant_id, {})").format(at, names))
    for action in ("ENABLE", "FORCE"):
        statement = sql.SQL("ALTER TABLE {} {} ROW LEVEL SECURITY")
        await connection.execute(statement.format(at, sql.SQL(action)))
    await connection.execute(_POLICY.format(at))
    readers = sql.SQL(", ").join(map(sql.Identifier, _READERS))
    await connection.execute(sql.SQL("GRANT SELECT ON {} TO {}").format(at, readers))
    await connection.execute(
        sql.SQL("GRANT INSERT, UPDATE, DELETE ON {} TO {}").format(
            at, sql.Identifier(_WRITER[projection.mode])
        )
    )
    await connection.execute("RESET ROLE")


def _definition(at: sql.Identifier, shape: Shape) -> sql.Composed:
    columns = [sql.SQL("tenant_id uuid NOT NULL")]
    columns += [
        sql.SQL("{} {}{}").format(
            sql.Identifier(each.name),
            sql.SQL(each.type),  # pyright: ignore[reportArgumentType]  one of our own list
            sql.SQL("" if each.nullable else " NOT NULL"),
        )
        for each in shape.columns
    ]
    return sql.SQL("CREATE TABLE {} ({}, PRIMARY KEY ({}))").format(
        at, sql.SQL(", ").join(columns), shape.identity()
    )


async def move(
    connection: Connection, projection: AnyProjection, come_from: Slot, to: Slot
) -> None:
    """Put a table into another place, which is empty."""
    await connection.execute("SET LOCAL ROLE neolayer_owner")
    await connection.execute(
        sql.SQL("ALTER TABLE {} SET SCHEMA {}").format(
            table(projection, come_from), sql.Identifier(to.value)
        )
    )
    await connection.execute("RESET ROLE")


async def drop(connection: Connection, projection: AnyProjection, slot: Slot) -> None:
    """Drop the table of a place, if there is one, with its state."""
    await connection.execute("SET LOCAL ROLE neolayer_owner")
    await connection.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(table(projection, slot)))
    await connection.execute("RESET ROLE")
    await connection.execute(QUERIES.forget, {"name": projection.slot_name(slot)})


async def drop_all(connection: Connection, name: str) -> None:
    """Drop every table of a projection by name, with all that is kept about it."""
    await connection.execute("SET LOCAL ROLE neolayer_owner")
    for slot in Slot:
        at = sql.Identifier(slot.value, name)
        await connection.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(at))
    await connection.execute("RESET ROLE")
    await connection.execute(QUERIES.forget_all, {"name": name})


async def exists(connection: Connection, projection: AnyProjection, slot: Slot) -> bool:
    """Whether there is a table in that place."""
    name = f"{slot.value}.{projection.name}"
    row = await (await connection.execute(QUERIES.has_table, {"table": name})).fetchone()
    return row is not None and bool(row[0])
