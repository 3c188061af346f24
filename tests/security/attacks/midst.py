"""A statement that puts another context in its own midst.

A policy asks for the tenant once in a statement, so a statement goes on with the rows that it began
with; whatever asks anew for each row (triggers, and the functions that they call) hears another
answer. Here a context is cleared or exchanged wherever a statement may call a function: in WHERE,
in the rows' source, in a CTE, in RETURNING, in MERGE and ON CONFLICT, under COPY.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from psycopg import sql

from tests.security.attacks.attempts import Act, Attempt
from tests.security.attacks.catalogue import Session, Table

_SWITCH = "set_config('neolayer.context', {switch}, true) IS NOT NULL"

# {where} is the victim's row, {own} one that the attacker may change.
_CHANGES = {
    "where": "UPDATE {table} SET {column} = {value} WHERE {where} AND " + _SWITCH,
    "case": "UPDATE {table} SET {column} = CASE WHEN "
    + _SWITCH
    + " THEN {value} END WHERE {where}",
    "from": "UPDATE {table} SET {column} = {value} FROM (SELECT "
    + _SWITCH
    + " AS yes OFFSET 0) s WHERE {where} AND s.yes",
    "merge": "MERGE INTO {table} t USING (SELECT 1) s ON {where} WHEN MATCHED AND "
    + _SWITCH
    + " THEN UPDATE SET {column} = {value}",
    "own first": "WITH v AS MATERIALIZED ("
    "SELECT ctid AS at, {where} AS is_theirs FROM {table} WHERE ({own}) OR ({where}) ORDER BY 2)"
    " UPDATE {table} t SET {column} = CASE WHEN v.is_theirs THEN {value} ELSE t.{column} END"
    " FROM v WHERE t.ctid = v.at AND CASE WHEN v.is_theirs THEN "
    + _SWITCH
    + " ELSE true END RETURNING set_config('neolayer.context', {present}, true) IS NULL",
}
_FOR_ALL_COLUMNS = ("where", "own first")
_REMOVALS = {
    "where": "DELETE FROM {table} WHERE {where} AND " + _SWITCH,
    "using": "DELETE FROM {table} USING (SELECT "
    + _SWITCH
    + " AS yes OFFSET 0) s WHERE {where} AND s.yes",
    "cte": "WITH gone AS (DELETE FROM {table} WHERE {where} AND "
    + _SWITCH
    + " RETURNING 1) SELECT count(*) FROM gone",
    "returning": "DELETE FROM {table} WHERE {where} RETURNING " + _SWITCH,
    "merge": "MERGE INTO {table} t USING (SELECT 1) s ON {where} WHEN MATCHED AND "
    + _SWITCH
    + " THEN DELETE",
}
_UNDER_COPY = "COPY (DELETE FROM {table} WHERE {where} AND " + _SWITCH + " RETURNING 1) TO STDOUT"


@dataclass(frozen=True, slots=True)
class Midst:
    """One attacker's present context, and what they put in its place, by name."""

    present: str
    switches: dict[str, str]


def attempts_on(
    table: Table,
    midst: Midst,
    victim: dict[str, Any],
    *,
    changes: dict[str, Any],
    fresh: dict[str, Any] | None = None,
    own: dict[str, Any] | None = None,
    mine: dict[str, Any] | None = None,
    tells: tuple[str, ...] = (),
) -> Iterator[Attempt]:
    """Everything on the victim's row: each of `changes` made (the first one in every form), the row
    deleted, `fresh` made.

    `own` is a row that the attacker may change, `mine` one that they may make: a statement that
    takes it first goes on with what its policies said of it.
    """
    for name, switch in midst.switches.items():
        words = _words(table, midst, switch, victim, own)

        def attempt(
            place: str, statement: str, made: dict[str, Any], words: dict[str, Any] = words
        ) -> Act:
            composed = sql.SQL(statement).format(**words)  # type: ignore[arg-type]
            return _reached(table, midst, made, composed, is_copy=place == "copy")

        for number, (column, value) in enumerate(changes.items()):
            filled = words | {
                "column": sql.Identifier(column),
                "value": _values(table, {column: value}),
            }
            for place, statement in _CHANGES.items():
                if (place != "own first" or own) and (number == 0 or place in _FOR_ALL_COLUMNS):
                    yield Attempt(
                        f"update, {name} in {place}",
                        f"{table.name}.{column}",
                        attempt(place, statement, victim, filled),
                        tells=tells,
                    )
        for place, statement in (*_REMOVALS.items(), ("copy", _UNDER_COPY)):
            yield Attempt(
                f"delete, {name} in {place}",
                table.name,
                attempt(place, statement, victim),
                tells=tells,
            )
        if fresh:
            yield from _makings(table, midst, name, switch, fresh, mine, tells)


def _words(
    table: Table, midst: Midst, switch: str, victim: dict[str, Any], own: dict[str, Any] | None
) -> dict[str, Any]:
    return {
        "table": _name(table),
        "where": _key(table, victim),
        "own": _key(table, own) if own else sql.SQL("false"),
        "switch": sql.Literal(switch),
        "present": sql.Literal(midst.present),
    }


def _makings(
    table: Table,
    midst: Midst,
    name: str,
    switch: str,
    fresh: dict[str, Any],
    mine: dict[str, Any] | None,
    tells: tuple[str, ...],
) -> Iterator[Attempt]:
    """Another row: alone, behind one that the attacker may make, and in place of what is there."""
    columns = sql.SQL(", ").join(map(sql.Identifier, fresh))
    switching = sql.SQL(_SWITCH).format(switch=sql.Literal(switch))
    made = sql.SQL("INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE ").format(_name(table), columns)
    theirs = sql.SQL("SELECT {} WHERE {}").format(_values(table, fresh), switching)
    upsert = sql.SQL("{} {} ON CONFLICT DO NOTHING").format(made, theirs)
    forms = {"alone": sql.SQL("{} {}").format(made, theirs), "upsert": upsert}
    if mine:
        first = sql.SQL("SELECT {}").format(_values(table, {c: mine.get(c) for c in fresh}))
        forms["own first"] = sql.SQL("{} {} UNION ALL {}").format(made, first, theirs)
    for place, statement in forms.items():
        yield Attempt(
            f"insert, {name} in {place}",
            table.name,
            _reached(table, midst, fresh, statement, is_copy=False),
            tells=tells,
        )


def _name(table: Table) -> sql.Identifier:
    return sql.Identifier(*table.name.split("."))


def _key(table: Table, row: dict[str, Any]) -> sql.Composable:
    keys = [key for key in table.primary_key if key in row] or [table.tenant]
    return sql.SQL(" AND ").join(
        sql.SQL("{} = {}").format(sql.Identifier(key), sql.Literal(row[key])) for key in keys
    )


def _values(table: Table, row: dict[str, Any]) -> sql.Composed:
    types = {column.name: column.type for column in table.columns}
    return sql.SQL(", ").join(
        sql.SQL("{}::" + types[name]).format(sql.Literal(value))  # type: ignore[arg-type]
        for name, value in row.items()
    )


def _reached(
    table: Table, midst: Midst, row: dict[str, Any], statement: sql.Composed, *, is_copy: bool
) -> Act:
    """Whether the row with this key is another than before, once the statement is over."""
    look = sql.SQL("SELECT t::text FROM {} t WHERE {}").format(_name(table), _key(table, row))

    def act(session: Session) -> int:
        before = session.execute(look).fetchall()
        if is_copy:
            with session.cursor().copy(statement) as copy:
                list(copy)
        else:
            session.execute(statement)
        session.execute("SELECT set_config('neolayer.context', %s, true)", (midst.present,))
        return int(session.execute(look).fetchall() != before)

    return act
