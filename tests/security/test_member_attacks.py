"""E9, E10: every way of SQL within a tenant to what others hold, and every guard taken away."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from neolayer.engines.endpoints import Database, Endpoints, Role
from neolayer.schema.context_secret import sign_context
from tests.security.attacks import attempts, catalogue, members, seeds
from tests.security.attacks.attempts import Tally
from tests.security.attacks.catalogue import Session, Table
from tests.security.attacks.members import Guard, Stage
from tests.security.test_tenant_attacks import _read_secret


@dataclass(frozen=True, slots=True)
class Inside:
    """A tenant with somebody to attack, and the tables whose changes are admitted."""

    endpoints: Endpoints
    admin: Session
    secret: bytes
    tables: list[Table]
    guards: list[Guard]
    stage: Stage


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
        yield Inside(module_databases, admin, secret, attacked, guards, stage)


def attack(inside: Inside, tables: list[Table]) -> Tally:
    """Both attackers on the victim's row of each table."""
    tally, stage = Tally(), inside.stage
    dsn = inside.endpoints.cluster(Database.CORE).dsn(Role.APP, Database.CORE)
    for attacker in (stage.weak, stage.idle):
        context = sign_context(
            inside.secret,
            tenant=stage.tenant,
            principal=f"user:{attacker}",
            expires_at=datetime.now(UTC) + timedelta(minutes=10),
        )
        with psycopg.connect(dsn) as session:
            session.execute("SELECT set_config('neolayer.context', %s, true)", (context,))
            for table in tables:
                attempts.run(session, members.attacks_on(table, stage, attacker), tally)
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
    figures = {
        "cases": cases + healthy.cases,
        "leaks": len(healthy.leaks),
        "mutants": len(found),
        "kills": len(found) - len(survivors),
    }
    assert pytestconfig.cache is not None
    pytestconfig.cache.set("security/members", figures)
    assert healthy.leaks == []
    assert survivors == [], "\n".join(survivors)
