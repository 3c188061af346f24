"""E9, E10: every way of SQL within a tenant to what others hold, and every guard taken away."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

import psycopg
import pytest

from neolayer.engines.endpoints import Database, Endpoints, Role
from neolayer.schema.context_secret import sign_context
from tests.security.attacks import attempts, catalogue, members, seeds
from tests.security.attacks.attempts import Tally
from tests.security.attacks.catalogue import Session, Table
from tests.security.attacks.members import Guard, Stage
from tests.security.attacks.midst import Midst
from tests.security.test_tenant_attacks import _read_secret

REFUSED = psycopg.errors.InsufficientPrivilege


@dataclass(frozen=True, slots=True)
class Inside:
    """A tenant with somebody to attack, and the tables whose changes are admitted."""

    endpoints: Endpoints
    admin: Session
    secret: bytes
    tables: list[Table]
    guards: list[Guard]
    stage: Stage
    all_tables: list[Table]

    def context(self, tenant: UUID, person: UUID, *, minutes: int = 10) -> str:
        return sign_context(
            self.secret,
            tenant=tenant,
            principal=f"user:{person}",
            expires_at=datetime.now(UTC) + timedelta(minutes=minutes),
        )

    def session(self) -> Session:
        return psycopg.connect(self.endpoints.cluster(Database.CORE).dsn(Role.APP, Database.CORE))


@pytest.fixture(scope="module")
def inside(module_databases: Endpoints) -> Iterator[Inside]:
    dsn = module_databases.cluster(Database.CORE).dsn(Role.ADMIN, Database.CORE)
    with psycopg.connect(dsn, autocommit=True) as admin:
        tables = catalogue.tenant_tables(admin)
        seeds.plant_public(admin)
        stage = members.plant(admin, tables)
        guards = members.guards(admin)
        guarded = {guard.table for guard in guards}
        secret = asyncio.run(_read_secret(module_databases, Database.CORE))
        attacked = [table for table in tables if table.name in guarded]
        yield Inside(module_databases, admin, secret, attacked, guards, stage, tables)


def attack(inside: Inside, tables: list[Table]) -> Tally:
    """Both attackers on the victim's row of each table."""
    tally, stage = Tally(), inside.stage
    for attacker in (stage.weak, stage.idle):
        context = inside.context(stage.tenant, attacker)
        with inside.session() as session:
            session.execute("SELECT set_config('neolayer.context', %s, true)", (context,))
            for table in tables:
                attempts.run(session, members.attacks_on(table, stage, attacker), tally)
    return tally


def attack_in_midst(
    inside: Inside, tables: list[Table], *, columns: int | None = 1, strangers: bool = True
) -> Tally:
    """The same with statements that clear the context, let it run out, or put there one of a tenant
    in which the attacker may do everything; and on a tenant in which they are nobody."""
    tally, stage = Tally(), inside.stage
    for attacker in (stage.weak, stage.idle):
        present = inside.context(stage.tenant, attacker)
        over = inside.context(stage.tenant, attacker, minutes=-10)
        gone = {"cleared": ""} if attacker == stage.weak else {"run out": over}
        midst = Midst(present, gone | {"exchanged": inside.context(stage.rival, attacker)})
        with inside.session() as session:
            session.execute("SET enable_hashjoin = off; SET enable_mergejoin = off")
            session.execute("SELECT set_config('neolayer.context', %s, true)", (midst.present,))
            for table in tables:
                inner = members.attacks_in_midst(table, stage, attacker, midst, columns=columns)
                attempts.run(session, inner, tally)
            for table in inside.all_tables:
                if strangers and attacker == stage.weak and not table.is_partition:
                    outer = members.attacks_on_strangers(table, stage, attacker, midst)
                    attempts.run(session, outer, tally)
    return tally


def test_E10_every_table_of_access_is_guarded(inside: Inside) -> None:
    """Whatever the application may write in auth is admitted by a trigger, in each of its verbs."""
    guarded = {(guard.table, event) for guard in inside.guards for event in guard.events}
    for table in catalogue.tenant_tables(inside.admin):
        if table.name.startswith("auth."):
            needed = {(table.name, event) for event in members.EVENTS}
            assert needed <= guarded, table.name


def test_E10_no_member_changes_what_others_hold(inside: Inside) -> None:
    """Neither who may change access but holds less, nor who holds as much but may not change it:
    no column, no row, no new row. A reference or check that answers would show a way past."""
    tally = attack(inside, inside.tables)
    assert tally.leaks == []
    assert tally.faults == [], "\n".join(tally.faults)
    assert tally.cases >= len(inside.tables) * 10


def test_E10_no_statement_changes_its_context_in_its_midst(inside: Inside) -> None:
    """Whoever clears or exchanges the context within a statement is refused what they may not do
    without: whatever asks for each row, asks in a context of the row's own tenant."""
    tally = attack_in_midst(inside, inside.tables)
    assert tally.leaks == []
    assert tally.faults == [], "\n".join(tally.faults)
    assert tally.cases >= len(inside.tables) * 50


# Nobody but logins may change these, whose context no member has.
SHADOWED = "auth.login_failures"


@pytest.mark.security
def test_E10_every_question_for_the_context_is_needed(inside: Inside) -> None:
    """Without it on any one table, somebody who may do everything in another tenant gets in."""
    found = inside.admin.execute(
        "SELECT tgrelid::regclass::text FROM pg_trigger WHERE tgname = 'keep_to_context'"
    ).fetchall()
    by_name = {table.name: table for table in inside.tables}
    assert {name for (name,) in found} == {n for n in by_name if n.startswith("auth.")}
    for (name,) in found:
        inside.admin.execute(f"ALTER TABLE {name} DISABLE TRIGGER keep_to_context")
        try:
            tally = attack_in_midst(inside, [by_name[name]], strangers=False)
        finally:
            inside.admin.execute(f"ALTER TABLE {name} ENABLE TRIGGER keep_to_context")
        assert bool(tally.leaks) is (name != SHADOWED), name


@pytest.mark.parametrize("place", ["WHERE", "RETURNING"])
@pytest.mark.parametrize("switch", ["cleared", "exchanged"])
def test_E10_the_last_owner_stays_whatever_the_context_is_at_the_end(
    inside: Inside, place: str, switch: str
) -> None:
    """Whether an owner is left is asked when the statement is over, in a context that may no longer
    see the tenant; an owner who may take the grant away is refused then, too."""
    stage = inside.stage
    present = inside.context(stage.rival, stage.weak)
    other = "" if switch == "cleared" else inside.context(stage.tenant, stage.weak)
    switching = "set_config('neolayer.context', %s, true) IS NOT NULL"
    with inside.session() as session:
        session.execute("SELECT set_config('neolayer.context', %s, true)", (present,))
        session.execute("DELETE FROM auth.user_roles WHERE user_id = %s", (stage.idle,))
        ends = f"AND {switching}" if place == "WHERE" else f"RETURNING {switching}"
        with pytest.raises(
            (psycopg.errors.InsufficientPrivilege, psycopg.errors.RestrictViolation)
        ):
            session.execute(
                f"DELETE FROM auth.user_roles WHERE user_id = %s {ends}", (stage.weak, other)
            )


@pytest.mark.parametrize("switch", ["cleared", "exchanged"])
def test_E14_no_computation_changes_past_its_guard(inside: Inside, switch: str) -> None:
    """Its states are guarded for who has the tenant's context; who has none is refused."""
    stage = inside.stage
    row = stage.rows["enclave.computations"]
    other = "" if switch == "cleared" else inside.context(stage.rival, stage.weak)
    with inside.session() as session:
        session.execute(
            "SELECT set_config('neolayer.context', %s, true)",
            (inside.context(stage.tenant, stage.weak),),
        )
        with pytest.raises(REFUSED):
            session.execute(
                "UPDATE enclave.computations SET input_hash = %s WHERE id = %s"
                " AND set_config('neolayer.context', %s, true) IS NOT NULL",
                ("ab" * 32, row["id"], other),
            )


@pytest.mark.security
@pytest.mark.timeout(1200)
def test_E10_every_admission_is_needed(inside: Inside, pytestconfig: pytest.Config) -> None:
    """With any one event of a guard, or one question that a guard asks, taken away: a way in."""
    by_name = {table.name: table for table in inside.tables}
    found = [*members.of_guards(inside.guards), *members.of_functions(inside.admin)]
    assert len(found) >= len(inside.tables) * 3
    cases, survivors = 0, list[str]()
    for mutant in found:
        tables = [by_name[mutant.table]] if mutant.table else inside.tables
        inside.admin.execute(mutant.break_it)
        try:
            tally = attack(inside, tables)
        finally:
            inside.admin.execute(mutant.mend_it)
        cases += tally.cases
        if not tally.leaks:
            survivors.append(f"{mutant.what} {tally.faults[:1]}")
    healthy = attack(inside, inside.tables)
    midst = attack_in_midst(inside, inside.tables, columns=None)
    figures = {
        "cases": cases + healthy.cases + midst.cases,
        "leaks": len(healthy.leaks + midst.leaks),
        "mutants": len(found),
        "kills": len(found) - len(survivors),
    }
    assert pytestconfig.cache is not None
    pytestconfig.cache.set("security/members", figures)
    assert healthy.leaks + midst.leaks == []
    assert survivors == [], "\n".join(survivors)
