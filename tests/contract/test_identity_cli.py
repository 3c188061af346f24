"""`neolayer roles`, `services` and `sessions`, through the command line into a database."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import pytest
from tests.fixtures.fix_access import HERE

from neolayer.cli import main, within_tenant
from neolayer.engines.endpoints import Endpoints
from neolayer.identity import AccessCache, Sessions
from neolayer.tenancy import CoreDatabase, Principal, Scope, open_core


@dataclass(frozen=True)
class Line:
    """The command line on one tenant."""

    tenant: str
    capsys: pytest.CaptureFixture[str]

    def run(self, *arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stopped:
            main([*arguments, "--tenant", self.tenant])
        told = self.capsys.readouterr()
        return int(stopped.value.code or 0), told.out, told.err

    def json(self, *arguments: str, code: int = 0) -> Any:
        got, out, err = self.run(*arguments, "--json")
        assert got == code, err
        return json.loads(out)


@pytest.fixture
def within(module_databases: Endpoints) -> Callable[[Callable[[CoreDatabase], Any]], Any]:
    """Run something on the core database, outside the command line's own loop."""

    def run(work: Callable[[CoreDatabase], Any]) -> Any:
        async def opened() -> Any:
            async with open_core(module_databases) as core:
                return await work(core)

        return asyncio.run(opened())

    return run


@pytest.fixture
def line(
    module_databases: Endpoints,
    within: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Line:
    """A tenant with two people and no sessions."""
    monkeypatch.setattr(within_tenant, "endpoints", lambda _: module_databases)
    tenant = uuid4()

    async def make(core: CoreDatabase) -> None:
        scope = core.scope(tenant, by=Principal.operator("tests"))
        await scope.fetch(
            "INSERT INTO core.tenants (id, name, identifier, subscription_tier)"
            " VALUES (%s, 'x', %s, 'enterprise') RETURNING id",
            (tenant, f"t{tenant}"),
        )
        for name in ("olga", "ann"):
            await scope.fetch(
                "INSERT INTO auth.users (tenant_id, email, username, password_hash)"
                " VALUES (%s, %s, %s, 'x') RETURNING id",
                (tenant, f"{name}@example.com", name),
            )

    within(make)
    return Line(f"t{tenant}", capsys)


def test_roles_are_made_granted_explained_and_taken_back(line: Line) -> None:
    """The whole life of a role, by address and by name; explain answers by exit code."""
    assert {role["name"] for role in line.json("roles", "list")} >= {"owner", "signer"}
    assert {"name": "*", "description": "everything"} in line.json("roles", "permissions")
    made = line.json("roles", "create", "clerk", "wallets:read, documents:*")
    assert made["permissions"] == ["documents:*", "wallets:read"]
    ann = ("--user", "Ann@Example.com")
    refused = line.json("roles", "explain", "wallets:sign", *ann, code=1)
    assert (refused["is_allowed"], refused["would_give"]) == (False, ["owner", "signer"])
    line.json("roles", "update", "clerk", "wallets:*")
    line.json("roles", "grant", "clerk", "--user", "ann", "--until", "2099-01-01T00:00:00Z")
    allowed = line.json("roles", "explain", "wallets:sign", *ann)
    assert allowed["given_by"] == ["clerk"]
    code, out, _ = line.run("roles", "explain", "wallets:sign", *ann)
    assert (code, "is allowed for user:" in out) == (0, True)
    assert line.json("roles", "revoke", "clerk", *ann)["was_granted"] is True
    assert line.json("roles", "delete", "clerk") == {"role": "clerk", "deleted": True}


def test_the_last_owner_stays_at_the_command_line_too(line: Line) -> None:
    """With one sentence why and what to do."""
    line.json("roles", "grant", "owner", "--user", "olga")
    code, _, err = line.run("roles", "revoke", "owner", "--user", "olga")
    assert code == 1
    assert "error: A tenant keeps one owner at least." in err
    assert "hint: grant the role owner" in err


@pytest.mark.parametrize(
    "arguments",
    [
        ("roles", "grant", "owner"),
        ("roles", "grant", "owner", "--user", "ann", "--service", "x"),
        ("roles", "grant", "owner", "--user", "nobody"),
        ("roles", "grant", "nothing", "--user", "ann"),
        ("roles", "grant", "member", "--user", "ann", "--until", "tomorrow"),
        ("roles", "grant", "member", "--user", "ann", "--until", "2099-01-01"),
        ("roles", "create", "Clerk", "wallets:read"),
        ("roles", "create", "clerk", "wallets:fly"),
        ("roles", "delete", "owner"),
        ("roles", "explain", "wallets:*", "--user", "ann"),
        ("services", "key", "nothing"),
        ("services", "revoke-key", "x"),
        ("sessions", "revoke"),
        ("sessions", "revoke", "x"),
        ("sessions", "revoke", "00000000-0000-0000-0000-000000000000"),
        ("sessions", "list", "--user", "a\nb"),
    ],
)
def test_slips_of_the_pen_are_one_sentence(line: Line, arguments: tuple[str, ...]) -> None:
    """An exit code, one error line, nothing on stdout."""
    code, out, err = line.run(*arguments)
    assert code in (1, 2)
    assert out == ""
    assert err.startswith("error: ")
    assert "Traceback" not in err


def test_a_services_key_is_printed_once_and_alone(line: Line, within: Callable[..., Any]) -> None:
    """On stdout, for a script; a list never shows it; rotation ends the old one."""
    line.json("services", "create", "robot", "--description", "Feeds prices")
    line.json("roles", "grant", "service", "--service", "robot")
    _, out, err = line.run("services", "key", "robot")
    old = out.removesuffix("\n")
    assert old not in err
    new = line.json("services", "key", "robot", "--rotate-hours", "0", "--days", "7")
    listed = line.json("services", "list")
    assert [key["has_ended"] for key in listed[0]["keys"]] == [False, True]
    assert new["key"] not in str(listed) + line.run("services", "list")[1]

    async def check(core: CoreDatabase) -> list[bool]:
        found: list[bool] = []
        for key in (old, new["key"]):
            try:
                found.append((await AccessCache(core).check(key)).allows("metrics:create"))
            except Exception:
                found.append(False)
        return found

    assert within(check) == [False, True]
    line.json("services", "disable", "robot")
    assert within(check) == [False, False]
    line.json("services", "enable", "robot")
    line.json("services", "revoke-key", new["id"])
    assert within(check) == [False, False]


def test_sessions_are_listed_and_ended(line: Line, within: Callable[..., Any]) -> None:
    """One by its id, the others of a person together, but one."""

    async def log_in(core: CoreDatabase) -> list[str]:
        scope = await _scope(core, line.tenant)
        row = await scope.one("SELECT id FROM auth.users WHERE username = 'ann'")
        assert row is not None
        sessions = Sessions(scope, AccessCache(core))
        return [str((await sessions.start(row[0], ip_address=HERE)).session_id) for _ in range(4)]

    first, second, *_ = within(log_in)
    assert len(line.json("sessions", "list")) == 4
    assert line.json("sessions", "revoke", first) == {"ended": 1}
    assert line.json("sessions", "revoke", "--user", "ann", "--but", second) == {"ended": 2}
    assert [s["id"] for s in line.json("sessions", "list", "--user", "ann")] == [second]
    code, _, err = line.run("sessions", "revoke", "--user", "ann")
    assert (code, err) == (0, "ended 1 session\n")


async def _scope(core: CoreDatabase, identifier: str) -> Scope:
    return core.scope(UUID(identifier[1:]), by=Principal.operator("tests"))
