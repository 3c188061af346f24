"""`neolayer users`: the verbs as a person types them, and secrets that never stand in arguments."""

from __future__ import annotations

import io
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from pyotp.totp import TOTP

from neolayer.cli import main, within_tenant
from neolayer.engines.endpoints import Endpoints, Role

PASSWORD = "quiet lamp orbits seven"

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(
    module_databases: Endpoints,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Run:
    """Runs a command for a fresh tenant with `typed` on stdin: exit code, stdout, stderr."""
    monkeypatch.setattr(within_tenant, "endpoints", lambda settings: module_databases)
    monkeypatch.chdir(tmp_path)
    tenant = f"t{uuid4()}"
    with psycopg.connect(module_databases.postgres.dsn(Role.ADMIN, "neolayer")) as admin:
        admin.execute(
            "INSERT INTO core.tenants (name, identifier, subscription_tier)"
            " VALUES ('Acme', %s, 'enterprise')",
            (tenant,),
        )

    def called(*arguments: str, typed: str = "") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(typed.encode())))
        with pytest.raises(SystemExit) as stopped:
            main(("users", *arguments, "--tenant", tenant, "--data-dir", str(tmp_path / "layer")))
        shown = capsys.readouterr()
        return int(stopped.value.code or 0), shown.out, shown.err

    return called


def answer(run: Run, *arguments: str, typed: str = "") -> Any:
    code, out, err = run(*arguments, "--json", typed=typed)
    assert code == 0, err
    return json.loads(out)


def add(run: Run, name: str) -> Any:
    named = ("--email", f"{name}@Example.com", "--username", name)
    return answer(run, "create", *named, typed=f"{PASSWORD}\n")


def test_a_user_from_beginning_to_end(run: Run) -> None:
    """create, show, list, rename, email, status, password, delete; JSON on stdout alone."""
    ann = add(run, "Ann")
    assert (ann["email"], ann["username"], ann["status"]) == ("ann@example.com", "ann", "active")
    assert not {"password", "password_hash", "mfa_secret"} & set(ann)
    for name in ("ANN", "ann@example.com", ann["id"]):
        assert answer(run, "show", name) == ann
    add(run, "bob")
    assert answer(run, "rename", "ann", "--username", "anna")["username"] == "anna"
    assert answer(run, "email", "anna", "--email", "anna@example.com")["email_verified"] is False
    until = "2030-01-31T12:00:00+00:00"
    locked = answer(run, "status", "anna", "locked", "--until", until)
    assert (locked["status"], locked["locked_until"][:10]) == ("locked", "2030-01-31")
    assert [u["username"] for u in answer(run, "list", "--status", "locked")] == ["anna"]
    assert answer(run, "password", "anna", typed="another quiet lamp\n")["id"] == ann["id"]
    code, out, err = run("list", "--limit", "1")
    assert (code, "anna" in out, "--after anna" in err) == (0, True, True)
    assert answer(run, "delete", "anna") == {"id": ann["id"], "deleted": True}
    assert answer(run, "delete", ann["id"], "--anonymise")["anonymised"]
    assert [u["username"] for u in answer(run, "list")] == ["bob"]


def test_a_second_factor_on_and_away(run: Run) -> None:
    """begin shows the seed once, confirm the recovery codes once; an operator takes it away."""
    add(run, "ann")
    seed = answer(run, "mfa", "begin", "ann")["secret"]
    code = TOTP(seed).generate_otp(int(time.time()) // 30)
    codes = answer(run, "mfa", "confirm", "ann", typed=code)["recovery_codes"]
    assert len(codes) == 10
    shown = answer(run, "mfa", "show", "ann")
    assert shown == {"mfa_enabled": True, "recovery_codes_left": 10}
    assert answer(run, "mfa", "remove", "ann")["mfa_enabled"] is False
    uri = run("mfa", "begin", "ann")[1]
    assert uri.startswith("otpauth://totp/")
    assert uri.count("\n") == 1  # however narrow the terminal is: it is copied or piped


@pytest.mark.parametrize(
    ("arguments", "typed", "exit_code", "said"),
    [
        (("create", "--email", "x", "--username", "x"), PASSWORD, 2, "not an e-mail address"),
        (("create", "--email", "a@x.org", "--username", "ann"), "short", 2, "at least 15"),
        (("create", "--email", "a@x.org", "--username", "ann"), "", 2, "no password"),
        (("show", "nobody"), "", 1, "There is no such user"),
        (("status", "nobody", "gone"), "", 2, "gone"),
        (("status", "nobody", "locked", "--until", "soon"), "", 2, "no time"),
        (("list", "--limit", "0"), "", 2, "--limit"),
    ],
    ids=range(7),
)
def test_a_refusal_is_one_sentence(
    run: Run, arguments: tuple[str, ...], typed: str, exit_code: int, said: str
) -> None:
    """What is wrong and never what was typed as a secret; nothing on stdout."""
    code, out, err = run(*arguments, typed=typed)
    assert (code, out) == (exit_code, "")
    assert said in err
    assert not typed or typed not in err
