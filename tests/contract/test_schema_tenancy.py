"""The signed context, and what a tenant sees of the others: nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import psycopg
import pytest

from neolayer.engines.endpoints import Database, Endpoints, Role
from neolayer.engines.postgres.connections import connect
from neolayer.schema.context_secret import read_context_secret, sign_context

A, B = uuid4(), uuid4()
OPERATOR = "operator:tests"
Session = psycopg.Connection
As = Callable[[UUID | None], AbstractContextManager[Session]]


async def _read_secret(endpoints: Endpoints, database: Database) -> bytes:
    dsn = endpoints.cluster(database).dsn(Role.MIGRATOR, database)
    async with await connect(dsn, application_name="tests") as owner:
        secret = await read_context_secret(owner)
    assert secret is not None
    return secret


@pytest.fixture(scope="module")
def secret(module_databases: Endpoints) -> bytes:
    return asyncio.run(_read_secret(module_databases, Database.CORE))


def later(seconds: float = 60) -> datetime:
    return datetime.now(UTC) + timedelta(seconds=seconds)


@pytest.fixture
def acting_as(module_databases: Endpoints, secret: bytes) -> As:
    """A transaction of the application role for a tenant, or for nobody; rolled back."""

    @contextmanager
    def open_session(tenant: UUID | None) -> Iterator[Session]:
        dsn = module_databases.postgres.dsn(Role.APP)
        with psycopg.connect(dsn) as session, session.transaction(force_rollback=True):
            if tenant is not None:
                set_context(
                    session,
                    sign_context(secret, tenant=tenant, principal=OPERATOR, expires_at=later()),
                )
            yield session

    return open_session


def set_context(session: Session, value: str) -> None:
    session.execute("SELECT set_config('neolayer.context', %s, true)", (value,))


def tenant_of(session: Session) -> UUID | None:
    row = session.execute("SELECT core.current_tenant()").fetchone()
    assert row is not None
    return row[0]


def add_tenant(session: Session, tenant: UUID) -> None:
    session.execute(
        "INSERT INTO core.tenants (id, name, identifier) VALUES (%s, 'x', %s)",
        (tenant, f"t{tenant}"),
    )


def add_user(session: Session, tenant: UUID, *, email: str = "ann@example.com") -> UUID:
    row = session.execute(
        "INSERT INTO auth.users (tenant_id, email, username, password_hash)"
        " VALUES (%s, %s, %s, 'x') RETURNING id",
        (tenant, email, email.split("@")[0]),
    ).fetchone()
    assert row is not None
    return row[0]


def test_G_a_signed_context_names_tenant_and_principal(acting_as: As) -> None:
    """What the application signed is what policies read."""
    with acting_as(A) as session:
        assert tenant_of(session) == A
        row = session.execute("SELECT core.current_principal()").fetchone()
        assert row == (OPERATOR,)


def test_G_no_context_no_rows(acting_as: As) -> None:
    """Unset is NULL, not an error and not everybody."""
    with acting_as(None) as session:
        assert tenant_of(session) is None
        assert session.execute("SELECT * FROM core.tenants").fetchall() == []


def test_G_a_context_ends_with_its_transaction(module_databases: Endpoints, secret: bytes) -> None:
    """The next borrower of a pooled connection is nobody."""
    with psycopg.connect(module_databases.postgres.dsn(Role.APP)) as session:
        value = sign_context(secret, tenant=A, principal=OPERATOR, expires_at=later())
        set_context(session, value)
        assert tenant_of(session) == A
        session.commit()
        assert tenant_of(session) is None


def test_G_forged_and_stale_contexts_are_nobody(acting_as: As, secret: bytes) -> None:
    """Another key, another tenant under a real signature, a past expiry, and plain rubbish."""
    good = sign_context(secret, tenant=A, principal=OPERATOR, expires_at=later())
    forged = [
        sign_context(b"guess" * 6, tenant=A, principal=OPERATOR, expires_at=later()),
        good.replace(str(A), str(B)),
        good.replace(OPERATOR, "operator:admin"),
        good[:-1] + ("0" if good[-1] != "0" else "1"),
        good.upper(),
        sign_context(secret, tenant=A, principal=OPERATOR, expires_at=later(-1)),
        str(A),
        "",
        "....",
        f"{'-' * 36}.x.99999999999.{'0' * 64}",
    ]
    with acting_as(None) as session:
        for value in forged:
            set_context(session, value)
            assert tenant_of(session) is None, value


def test_E1_the_key_is_out_of_reach(acting_as: As) -> None:
    """The application can have a context checked, and never read what checks it."""
    with (
        acting_as(A) as session,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        session.execute("SELECT * FROM core.context_secrets")


def test_both_databases_check_with_one_key(module_databases: Endpoints, secret: bytes) -> None:
    """A context signed once is good in the event store too."""
    assert asyncio.run(_read_secret(module_databases, Database.EVENT_STORE)) == secret


def test_E1_a_tenant_sees_and_writes_only_its_own(acting_as: As, secret: bytes) -> None:
    """Rows of A are invisible to B, and B can neither change them nor write in A's name."""
    with acting_as(A) as session:
        add_tenant(session, A)
        add_user(session, A)
        session.execute("INSERT INTO core.tenant_data VALUES (%s, %s, '{}')", (A, uuid4()))
        set_context(session, sign_context(secret, tenant=B, principal=OPERATOR, expires_at=later()))
        for table in ("core.tenants", "auth.users", "core.tenant_data"):
            assert session.execute(f"SELECT * FROM {table}").fetchall() == []
            assert session.execute(f"UPDATE {table} SET created_at = now()").rowcount == 0
        with pytest.raises(psycopg.errors.InsufficientPrivilege), session.transaction():
            add_user(session, A, email="eve@example.com")
        with pytest.raises(psycopg.errors.InsufficientPrivilege), session.transaction():
            session.execute("SELECT * FROM core.tenant_data_p0")


def test_E10_a_role_of_another_tenant_cannot_be_granted(acting_as: As, secret: bytes) -> None:
    """Errata 13: the specification accepts it. Foreign and absent roles fail alike."""
    grant = "INSERT INTO auth.user_roles (tenant_id, user_id, role_id, role_scope_id) VALUES"
    with acting_as(A) as session:
        add_tenant(session, A)
        row = session.execute(
            "INSERT INTO auth.roles (tenant_id, name) VALUES (%s, 'clerk') RETURNING id", (A,)
        ).fetchone()
        assert row is not None
        set_context(session, sign_context(secret, tenant=B, principal=OPERATOR, expires_at=later()))
        add_tenant(session, B)
        user = add_user(session, B)
        failures: set[tuple[str | None, str | None]] = set()
        for role, scope in ((row[0], B), (uuid4(), B), (row[0], UUID(int=0))):
            with (
                pytest.raises(psycopg.errors.ForeignKeyViolation) as refused,
                session.transaction(),
            ):
                session.execute(f"{grant} (%s, %s, %s, %s)", (B, user, role, scope))
            failures.add((refused.value.sqlstate, refused.value.diag.constraint_name))
        assert failures == {("23503", "user_roles_role_fkey")}
        with pytest.raises(psycopg.errors.CheckViolation), session.transaction():
            session.execute(f"{grant} (%s, %s, %s, %s)", (B, user, row[0], A))


def test_E9_platform_roles_are_read_only(acting_as: As) -> None:
    """A tenant may use a role of the platform, and not make or change one."""
    with (
        acting_as(A) as session,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        session.execute("INSERT INTO auth.roles (name, is_system) VALUES ('root', true)")


@pytest.mark.parametrize("email", ["Bob@example.com", "a b@example.com", "a@b@c", "bob", "a@\n"])
def test_D_email_has_one_form(acting_as: As, email: str) -> None:
    """Case twins were two people, and line breaks go into headers."""
    with acting_as(A) as session:
        add_tenant(session, A)
        with pytest.raises(psycopg.errors.CheckViolation):
            add_user(session, A, email=email)


def test_who_left_may_come_back(acting_as: As) -> None:
    """Errata 20: a deleted account kept its address for ever."""
    with acting_as(A) as session:
        add_tenant(session, A)
        add_user(session, A)
        with pytest.raises(psycopg.errors.UniqueViolation), session.transaction():
            add_user(session, A)
        session.execute("UPDATE auth.users SET deleted_at = now()")
        add_user(session, A)


def test_E14_audit_entries_only_grow(acting_as: As, module_databases: Endpoints) -> None:
    """Neither the application nor the owner can change an entry, seal it, or take one away."""
    entry = (
        "INSERT INTO audit.entries (tenant_id, principal, action, resource, success)"
        " VALUES (%s, 'operator:tests', 'LOGIN', 'session', false)"
    )
    with acting_as(A) as session:
        with pytest.raises(psycopg.errors.InsufficientPrivilege), session.transaction():
            session.execute(entry, (None,))
        with pytest.raises(psycopg.errors.InsufficientPrivilege), session.transaction():
            session.execute("DELETE FROM audit.entries")
    seal = (
        "UPDATE audit.entries SET chain_number = 1, previous_hash = sha256(''),"
        " entry_hash = sha256(''), sealed_at = now()"
    )
    with psycopg.connect(module_databases.postgres.dsn(Role.MIGRATOR)) as owner:
        owner.execute(entry, (None,))
        for refused in (
            "DELETE FROM audit.entries",
            "TRUNCATE audit.entries",
            "UPDATE audit.entries SET success = true",
            seal,
        ):
            with (
                pytest.raises(psycopg.errors.InsufficientPrivilege, match="refused"),
                owner.transaction(),
            ):
                owner.execute(refused)
        owner.rollback()


@pytest.mark.parametrize("role", [Role.APP, Role.OPERATOR, Role.BACKUP])
def test_E1_readers_cannot_make_writers_wait(module_databases: Endpoints, role: Role) -> None:
    """Advisory locks, by which writers take turns, are not for whoever may only read."""
    for call in ("pg_advisory_lock(1)", "pg_try_advisory_xact_lock_shared(1, 2)"):
        with (
            psycopg.connect(module_databases.postgres.dsn(role)) as session,
            pytest.raises(psycopg.errors.InsufficientPrivilege),
        ):
            session.execute(f"SELECT {call}")  # type: ignore[arg-type]


@pytest.mark.parametrize("database", list(Database))
@pytest.mark.parametrize(
    "call",
    [
        "lo_create(0)",
        "lo_creat(1)",
        "lo_from_bytea(0, 'x')",
        "lo_get(1)",
        "lo_put(1, 0, 'x')",
        "lo_open(1, 262144)",
        "loread(0, 1)",
        "lowrite(0, 'x')",
        "lo_unlink(1)",
        "pg_terminate_backend(1)",
        "pg_cancel_backend(1)",
        "pg_prepared_statement()",
        "name FROM pg_prepared_statements",
    ],
)
def test_E17_what_reaches_other_tenants_sessions_is_not_for_the_application(
    module_databases: Endpoints, database: Database, call: str
) -> None:
    """Large objects are no tenant's, sessions of one role may end each other's, and the prepared
    statements of a connection are its next borrower's: the server's functions for that are kept."""
    dsn = module_databases.cluster(database).dsn(Role.APP, database)
    with psycopg.connect(dsn) as session, pytest.raises(psycopg.errors.InsufficientPrivilege):
        session.execute(f"SELECT {call}")  # type: ignore[arg-type]
