"""Streams have versions from 1 without gaps, and recorded facts stay."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import psycopg
import pytest

from neolayer.engines.endpoints import Database, Endpoints, Role
from neolayer.engines.postgres.connections import connect
from neolayer.schema.context_secret import read_context_secret, sign_context

TENANT = uuid4()
Session = psycopg.Connection
INSERT = """
INSERT INTO public.events (tenant_id, aggregate_id, aggregate_type, event_type, event_version,
    event_data)
SELECT %s, %s, %s, 'deposited', v, '{}' FROM unnest(%s::int[]) v
"""


async def _context(endpoints: Endpoints) -> str:
    dsn = endpoints.event_store.dsn(Role.MIGRATOR, Database.EVENT_STORE)
    async with await connect(dsn, application_name="tests") as owner:
        secret = await read_context_secret(owner)
    assert secret is not None
    expiry = datetime.now(UTC) + timedelta(minutes=5)
    return sign_context(secret, tenant=TENANT, principal="tests", expires_at=expiry)


@pytest.fixture(scope="module")
def context(module_databases: Endpoints) -> str:
    return asyncio.run(_context(module_databases))


@pytest.fixture
def session(module_databases: Endpoints, context: str) -> Iterator[Session]:
    """The owner, whose function appends: what holds for its INSERT holds for every append."""
    dsn = module_databases.event_store.dsn(Role.MIGRATOR, Database.EVENT_STORE)
    with psycopg.connect(dsn) as opened, opened.transaction(force_rollback=True):
        opened.execute("SET LOCAL ROLE neolayer_owner")
        opened.execute("SELECT set_config('neolayer.context', %s, true)", (context,))
        yield opened


@pytest.fixture
def application(module_databases: Endpoints, context: str) -> Iterator[Session]:
    """The application in the tenant's name."""
    dsn = module_databases.event_store.dsn(Role.APP, Database.EVENT_STORE)
    with psycopg.connect(dsn) as opened, opened.transaction(force_rollback=True):
        opened.execute("SELECT set_config('neolayer.context', %s, true)", (context,))
        yield opened


def append(
    session: Session, stream: UUID, *versions: int, kind: str = "account", tenant: UUID = TENANT
) -> None:
    with session.transaction():
        session.execute(INSERT, (tenant, stream, kind, list(versions)))


def head(session: Session, stream: UUID) -> int | None:
    row = session.execute(
        "SELECT version FROM public.stream_heads WHERE aggregate_id = %s", (stream,)
    ).fetchone()
    return row[0] if row else None


def test_versions_follow_each_other(session: Session) -> None:
    """One by one or several at once; the head row keeps up."""
    stream = uuid4()
    append(session, stream, 1)
    append(session, stream, 2, 3, 4)
    append(session, stream, 5)
    assert head(session, stream) == 5


@pytest.mark.parametrize("versions", [(2,), (1, 3), (2, 3), (0,), (-7,), (1, 2, 4)])
def test_a_stream_starts_at_one_without_gaps(session: Session, versions: tuple[int, ...]) -> None:
    """Errata 17: version -7 and gaps were accepted."""
    stream = uuid4()
    with pytest.raises(psycopg.errors.CheckViolation):
        append(session, stream, *versions)
    assert head(session, stream) is None


@pytest.mark.parametrize("versions", [(4,), (3, 5), (5, 6)])
def test_a_stream_goes_on_without_gaps(session: Session, versions: tuple[int, ...]) -> None:
    """Also later on, and whatever the size of the append before."""
    stream = uuid4()
    append(session, stream, 1, 2)
    with pytest.raises(psycopg.errors.CheckViolation, match="does not follow"):
        append(session, stream, *versions)
    assert head(session, stream) == 2


def test_one_version_once(session: Session) -> None:
    """The writer who comes second learns it from the unique key."""
    stream = uuid4()
    append(session, stream, 1, 2)
    with pytest.raises(psycopg.errors.UniqueViolation, match="events_unique"):
        append(session, stream, 2)


def test_a_stream_keeps_its_type(session: Session) -> None:
    """Two kinds of aggregate under one id would be two streams in one."""
    stream = uuid4()
    append(session, stream, 1)
    with pytest.raises(psycopg.errors.CheckViolation):
        append(session, stream, 2, kind="order")


@pytest.mark.parametrize("versions", [(2,), (1, 3), (1, 2, 4), (1, 1)])
@pytest.mark.parametrize("way", ["copy", "merge", "upsert"])
def test_no_other_way_in_leaves_a_gap(
    module_databases: Endpoints, context: str, way: str, versions: tuple[int, ...]
) -> None:
    """Nor for the server's administrator: COPY, MERGE, an upsert are held to it as INSERT is."""
    stream = uuid4()
    rows = [(TENANT, stream, "account", "deposited", version, "{}") for version in versions]
    dsn = module_databases.event_store.dsn(Role.ADMIN, Database.EVENT_STORE)
    columns = "tenant_id, aggregate_id, aggregate_type, event_type, event_version, event_data"
    with psycopg.connect(dsn) as admin, pytest.raises(psycopg.errors.IntegrityError):
        admin.execute("SELECT set_config('neolayer.context', %s, true)", (context,))
        if way == "copy":
            copy = f"COPY public.events ({columns}) FROM STDIN"
            with admin.cursor() as cursor, cursor.copy(copy) as writing:  # type: ignore[arg-type]
                for row in rows:
                    writing.write_row(row)
            return
        source = "SELECT %s::uuid, %s::uuid, %s, %s, v, '{}'::jsonb FROM unnest(%s::int[]) v"
        statement = f"INSERT INTO public.events ({columns}) {source}"
        if way == "upsert":
            statement += " ON CONFLICT (tenant_id, event_id) DO NOTHING"
        else:
            statement = (
                f"MERGE INTO public.events e USING ({source}) s (t, a, k, y, v, d) ON false"
                f" WHEN NOT MATCHED THEN INSERT ({columns}) VALUES (s.t, s.a, s.k, s.y, s.v, s.d)"
            )
        admin.execute(statement, (*rows[0][:4], list(versions)))  # type: ignore[arg-type]
    with psycopg.connect(dsn) as admin:
        assert head(admin, stream) is None


def test_several_streams_in_one_statement(session: Session) -> None:
    """A statement that breaks one stream stores nothing of the others."""
    one, two = uuid4(), uuid4()
    append(session, one, 1)
    statement = """
        INSERT INTO public.events (tenant_id, aggregate_id, aggregate_type, event_type,
            event_version, event_data)
        VALUES (%(t)s, %(one)s, 'account', 'x', %(v)s, '{}'),
            (%(t)s, %(two)s, 'account', 'x', 1, '{}')
    """
    with pytest.raises(psycopg.errors.CheckViolation), session.transaction():
        session.execute(statement, {"t": TENANT, "one": one, "two": two, "v": 3})
    assert head(session, two) is None
    session.execute(statement, {"t": TENANT, "one": one, "two": two, "v": 2})
    assert (head(session, one), head(session, two)) == (2, 1)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE public.events SET event_data = '{}'",
        "DELETE FROM public.events",
        "TRUNCATE public.events",
        "UPDATE public.stream_heads SET version = 9",
        "DELETE FROM public.stream_heads",
    ],
)
def test_E14_facts_stay(application: Session, module_databases: Endpoints, statement: str) -> None:
    """The application may not, and the owner is stopped by the trigger."""
    with pytest.raises(psycopg.errors.InsufficientPrivilege), application.transaction():
        application.execute(statement)
    if "events" in statement:
        dsn = module_databases.event_store.dsn(Role.MIGRATOR, Database.EVENT_STORE)
        with (
            psycopg.connect(dsn) as owner,
            pytest.raises(psycopg.errors.InsufficientPrivilege, match="refused"),
        ):
            owner.execute(statement)


def test_E1_nobody_appends_to_another_tenant(session: Session) -> None:
    """Row policies hold for events too, and for the owner whose function appends."""
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="row-level security"):
        append(session, uuid4(), 1, tenant=uuid4())


def test_E14_the_application_inserts_no_event(application: Session) -> None:
    """An INSERT of its own could name a transaction, a time and a user that were others."""
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="permission denied"):
        append(application, uuid4(), 1)


def test_a_snapshot_belongs_to_a_stream(session: Session) -> None:
    """And may be deleted, since it can be made again."""
    stream = uuid4()
    insert = (
        "INSERT INTO public.snapshots (tenant_id, aggregate_id, aggregate_type, snapshot_version,"
        " snapshot_data) VALUES (%s, %s, 'account', 1, '{}')"
    )
    with pytest.raises(psycopg.errors.ForeignKeyViolation), session.transaction():
        session.execute(insert, (TENANT, stream))
    append(session, stream, 1)
    session.execute(insert, (TENANT, stream))
    assert session.execute("DELETE FROM public.snapshots").rowcount == 1


def test_G_who_appends_can_do_nothing_else(module_databases: Endpoints) -> None:
    """No policy holds the role whose function appends: so it has what that takes, and no login."""
    dsn = module_databases.event_store.dsn(Role.ADMIN, Database.EVENT_STORE)
    with psycopg.connect(dsn) as admin:
        granted = admin.execute(
            "SELECT table_name, string_agg(privilege_type, ',' ORDER BY privilege_type)"
            " FROM information_schema.role_table_grants WHERE grantee = 'neolayer_appender'"
            " GROUP BY table_name ORDER BY table_name"
        ).fetchall()
        members = admin.execute(
            "SELECT m.member::regrole::text FROM pg_auth_members m"
            " WHERE m.roleid = 'neolayer_appender'::regrole AND m.inherit_option"
        ).fetchall()
        role = admin.execute(
            "SELECT rolcanlogin, rolbypassrls, rolsuper FROM pg_roles"
            " WHERE rolname = 'neolayer_appender'"
        ).fetchone()
    assert granted == [
        ("archived_events", "SELECT"),
        ("events", "INSERT,SELECT"),
        ("stream_heads", "INSERT,SELECT,UPDATE"),
    ]
    assert members == [("neolayer_migrator",)]
    assert role == (False, True, False)


def test_G_only_the_function_reaches_what_appends(application: Session) -> None:
    """The parts that take tenant and user from their caller are not the application's to call."""
    for call in (
        "append_to_one(gen_random_uuid(), NULL, gen_random_uuid(), false, '[]')",
        "append_to_many(gen_random_uuid(), NULL, '{}', '[]')",
        "append_to_each(gen_random_uuid(), NULL, '{}', '[]')",
    ):
        with (
            pytest.raises(psycopg.errors.InsufficientPrivilege, match="permission denied"),
            application.transaction(),
        ):
            application.execute(f"SELECT public.{call}")  # type: ignore[arg-type]
