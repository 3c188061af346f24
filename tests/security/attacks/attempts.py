"""What B tries on A's row, each in a savepoint that is rolled back.

A denial is 0 rows or SQLSTATE 42501; the few others that count are named where they are expected.
Any other error is a fault of the attempt, not a denial, and fails the run.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import psycopg
from psycopg import sql

from tests.security.attacks import seeds
from tests.security.attacks.catalogue import Function, Session, Table

DENIED = "42501"
NO_COPY = "0A000"  # COPY FROM is not supported with row-level security
NO_REFERENCE = "23503"
STORED = ("23505", NO_REFERENCE)

# The columns that say whose a row is, or whose a role is.
TENANTS = ("tenant_id", "scope_id", "role_scope_id")

Act = Callable[[Session], int]


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attack: `act` gives how many of A's rows it reached.

    `denials` are the SQLSTATEs that count as one beside 42501; `tells` are those that say that the
    row got past the policy and met what is stored.
    """

    verb: str
    what: str
    act: Act
    denials: tuple[str, ...] = ()
    tells: tuple[str, ...] = ()


@dataclass(slots=True)
class Tally:
    """What came of a run."""

    cases: int = 0
    leaks: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


class _Undo(Exception):
    pass


def run(session: Session, attempts: Iterator[Attempt], tally: Tally) -> Tally:
    """Try all of them on a session of B's."""
    for attempt in attempts:
        tally.cases += 1
        try:
            with session.transaction():
                reached = attempt.act(session)
                if reached:
                    tally.leaks.append(f"{attempt.verb} {attempt.what}: {reached}")
                raise _Undo
        except _Undo:
            continue
        except psycopg.Error as exc:
            if exc.sqlstate in attempt.tells:
                tally.leaks.append(f"{attempt.verb} {attempt.what}: told by {exc.sqlstate}")
            elif exc.sqlstate not in (DENIED, *attempt.denials):
                tally.faults.append(f"{attempt.verb} {attempt.what}: {exc.sqlstate} {exc}".strip())
    return tally


def _name(table: Table) -> sql.Identifier:
    return sql.Identifier(*table.name.split("."))


def _where(table: Table, row: dict[str, Any]) -> tuple[sql.Composable, list[Any]]:
    keys = [key for key in table.primary_key if key in row] or [table.tenant]
    clause = sql.SQL(" AND ").join(sql.SQL("{} = %s").format(sql.Identifier(key)) for key in keys)
    return clause, [row[key] for key in keys]


def marks(tenant: UUID, row: dict[str, Any]) -> set[str]:
    """What gives A's row away in any output."""
    ids = {str(value) for value in row.values() if isinstance(value, UUID)}
    return (ids | {str(tenant), seeds.marker(tenant)}) - {
        str(seeds.NETWORK),
        str(seeds.PLATFORM_PERMISSION),
    }


def seen(rows: list[Any], given_away: set[str]) -> int:
    """How many rows bear one of the marks."""
    return sum(any(mark in str(row) for mark in given_away) for row in rows)


def reads(table: Table, a: UUID, row: dict[str, Any]) -> Iterator[Attempt]:
    """Every way to see the row."""
    name, (where, keys) = _name(table), _where(table, row)
    given_away = marks(a, row)

    def query(text: str, params: list[Any], *, scan: bool = True) -> Act:
        def act(session: Session) -> int:
            statement = sql.SQL(text).format(table=name, where=where)  # type: ignore[arg-type]
            found = session.execute(statement, params).fetchall()
            return seen(found, given_away) if scan else len(found)

        return act

    yield Attempt("select", table.name, query("SELECT t::text FROM {table} t WHERE {where}", keys))
    yield Attempt("scan", table.name, query("SELECT t::text FROM {table} t", []))
    yield Attempt(
        "lock", table.name, query("SELECT 1 FROM {table} WHERE {where} FOR SHARE", keys, scan=False)
    )
    yield Attempt(
        "explain", table.name, query("EXPLAIN (VERBOSE, COSTS OFF) SELECT * FROM {table}", [])
    )
    yield Attempt(
        "count",
        table.name,
        query(
            "SELECT 1 FROM {table} WHERE {where} GROUP BY () HAVING count(*) > 0", keys, scan=False
        ),
    )
    yield Attempt(
        "copy to", table.name, _copy_out(sql.SQL("COPY {} TO STDOUT").format(name), given_away)
    )
    yield Attempt(
        "copy query",
        table.name,
        _copy_out(sql.SQL("COPY (SELECT * FROM {}) TO STDOUT").format(name), given_away),
    )


def _copy_out(statement: sql.Composed, given_away: set[str]) -> Act:
    def act(session: Session) -> int:
        with session.cursor().copy(statement) as copy:
            return seen([bytes(data).decode() for data in copy], given_away)

    return act


def writes(table: Table, a: UUID, b: UUID, row: dict[str, Any]) -> Iterator[Attempt]:
    """Every way to change the row, or to plant one of A's."""
    name, (where, keys) = _name(table), _where(table, row)
    column = sql.Identifier(table.tenant)
    fresh = seeds.row(table, a, own=uuid4())

    def statement(text: str, params: list[Any]) -> Act:
        def act(session: Session) -> int:
            composed = sql.SQL(text).format(table=name, where=where, tenant=column)  # type: ignore[arg-type]
            return session.execute(composed, params).rowcount

        return act

    yield Attempt(
        "update",
        table.name,
        statement("UPDATE {table} SET {tenant} = {tenant} WHERE {where}", keys),
    )
    yield Attempt(
        "give away",
        table.name,
        statement("UPDATE {table} SET {tenant} = %s WHERE {tenant} = %s", [a, b]),
        denials=() if table.tenant == "tenant_id" else (NO_REFERENCE,),
    )
    yield Attempt("delete", table.name, statement("DELETE FROM {table} WHERE {where}", keys))
    for verb, values in (("plant", fresh), ("insert", row)):
        yield Attempt(verb, table.name, _insert(table, values), tells=STORED)
    nothing = "ON CONFLICT DO NOTHING"
    yield Attempt("upsert nothing", table.name, _insert(table, row, nothing), tells=STORED)
    if table.primary_key:
        conflict = "ON CONFLICT ({}) DO UPDATE SET {tenant} = excluded.{tenant}".format(
            ", ".join(table.primary_key), tenant=table.tenant
        )
        yield Attempt("upsert", table.name, _insert(table, row, conflict), tells=STORED)
    yield Attempt("copy from", table.name, _copy_in(table, fresh), denials=(NO_COPY,))


def truncates(table: Table) -> Iterator[Attempt]:
    """What no policy holds back, so nobody but the owner may do it."""
    yield Attempt("truncate", table.name, _truncate(_name(table)))


def _insert(table: Table, row: dict[str, Any], tail: str = "") -> Act:
    return lambda session: seeds.insert(session, table, row, tail=tail)


def _copy_in(table: Table, row: dict[str, Any]) -> Act:
    def act(session: Session) -> int:
        columns = sql.SQL(", ").join(map(sql.Identifier, row))
        cursor = session.cursor()
        with cursor.copy(sql.SQL("COPY {} ({}) FROM STDIN").format(_name(table), columns)) as copy:
            copy.write_row(list(row.values()))
        return cursor.rowcount

    return act


def _truncate(name: sql.Identifier) -> Act:
    def act(session: Session) -> int:
        with contextlib.suppress(psycopg.errors.FeatureNotSupported):  # allowed, but referenced
            session.execute(sql.SQL("TRUNCATE {}").format(name))
        return 1

    return act


def references(
    table: Table, b: UUID, own: dict[str, Any], theirs: dict[str, Any]
) -> Iterator[Attempt]:
    """B's own row made to point at a row of A: refused as if there were none."""
    for key in table.foreign_keys:
        if not set(TENANTS) & set(key.columns):
            continue
        pointing = {c: theirs[c] for c in key.columns if c in theirs and c not in TENANTS}
        for columns in (pointing, pointing | {"role_scope_id": theirs.get("role_scope_id")}):
            if not pointing or None in columns.values():
                continue
            what = f"{table.name} {key.name}"
            inserted = _replace(table, own, seeds.row(table, b, own=uuid4()) | columns)
            refusals = (NO_REFERENCE, "23514")
            yield Attempt("point at (insert)", what, inserted, denials=refusals)
            yield Attempt("point at (update)", what, _point(table, own, columns), denials=refusals)


def _replace(table: Table, own: dict[str, Any], row: dict[str, Any]) -> Act:
    """The row in place of B's own, which might hold a key that B may have only once."""

    def act(session: Session) -> int:
        where, keys = _where(table, own)
        with contextlib.suppress(psycopg.errors.InsufficientPrivilege), session.transaction():
            session.execute(sql.SQL("DELETE FROM {} WHERE {}").format(_name(table), where), keys)
        return seeds.insert(session, table, row)

    return act


def _point(table: Table, own: dict[str, Any], pointing: dict[str, Any]) -> Act:
    def act(session: Session) -> int:
        where, keys = _where(table, own)
        assignments = sql.SQL(", ").join(
            sql.SQL("{} = %s").format(sql.Identifier(column)) for column in pointing
        )
        statement = sql.SQL("UPDATE {} SET {} WHERE {}").format(_name(table), assignments, where)
        reached = session.execute(statement, [*pointing.values(), *keys]).rowcount
        session.execute("SET CONSTRAINTS ALL IMMEDIATE")
        return reached

    return act


def calls(function: Function, a: UUID, rows: dict[str, dict[str, Any]]) -> Iterator[Attempt]:
    """The function with A's ids and words for arguments."""
    given_away: set[str] = set()
    for row in rows.values():
        given_away |= marks(a, row)
    ids = {a} | {
        value for row in rows.values() for value in row.values() if isinstance(value, UUID)
    }
    for some_id in sorted(ids):
        arguments = [_argument(kind, a, some_id) for kind in function.arguments]
        yield Attempt(
            "call",
            f"{function.signature} with {some_id}",
            _call(function, arguments, given_away),
            # A function may refuse what it is given; what counts is that it gives nothing away.
            denials=("22023", "22P02", "22003", "23514", "P0001", "P0002", "23503", "22008"),
        )
        if "uuid" not in function.arguments:
            return


def _argument(kind: str, a: UUID, some_id: UUID) -> Any:
    match kind:
        case "uuid":
            return some_id
        case "jsonb":
            return "{}"
        case "boolean":
            return True
        case "smallint" | "integer" | "bigint" | "numeric":
            return 1
        case "timestamp with time zone":
            return seeds.NOW
        case "interval":
            return "1 second"
        case "bytea":
            return b"\0"
        case "inet":
            return "192.0.2.1"
        case _ if kind.endswith("[]"):
            return "{}"
        case _:
            return seeds.marker(a)[:8]


def _call(function: Function, arguments: list[Any], given_away: set[str]) -> Act:
    def act(session: Session) -> int:
        casts = sql.SQL(", ").join(
            sql.SQL("%s::" + kind)
            for kind in function.arguments  # type: ignore[arg-type]
        )
        statement = sql.SQL("SELECT * FROM {}({})").format(
            sql.Identifier(*function.name.split(".")), casts
        )
        found = session.execute(statement, arguments).fetchall()
        echoed = {str(argument) for argument in arguments}
        return seen(found, {mark for mark in given_away if mark not in echoed})

    return act


def looks(view: str, given_away: set[str]) -> Iterator[Attempt]:
    """All rows of a view."""

    def act(session: Session) -> int:
        statement = sql.SQL("SELECT t::text FROM {} t").format(sql.Identifier(*view.split(".")))
        return seen(session.execute(statement).fetchall(), given_away)

    yield Attempt("view", view, act)
