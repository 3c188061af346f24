"""`neolayer keys` as an operator uses it, over secrets that the rooms' own verbs have sealed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import psycopg
import pyotp
import pytest
from tests.fixtures.fix_identity import PASSWORD
from tests.fixtures.fix_key_service import PlayedKeyService
from tests.fixtures.fix_wallets import NewWallets

from neolayer import platform
from neolayer.cli import main, within_tenant
from neolayer.engines.endpoints import Database, Endpoints, Role
from neolayer.identity import PasswordHasher, Users
from neolayer.keys import Keyring
from neolayer.keys.sealed_rows import sealed_columns
from neolayer.platform import data_classes

Run = Callable[..., Awaitable[tuple[int, Any, str]]]


@pytest.fixture
def run(
    module_databases: Endpoints,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Run:
    """Runs `neolayer keys ...` on this data directory; the exit code, stdout as JSON, stderr."""
    monkeypatch.chdir(tmp_path)
    for module in (within_tenant, platform):
        monkeypatch.setattr(module, "endpoints", lambda _: module_databases)

    def command(*arguments: str) -> tuple[int, Any, str]:
        with pytest.raises(SystemExit) as stopped:
            main(["keys", *arguments, "--data-dir", str(tmp_path)])
        shown = capsys.readouterr()
        output = json.loads(shown.out) if "--json" in arguments and shown.out else shown.out
        return int(stopped.value.code or 0), output, shown.err

    async def in_thread(*arguments: str) -> tuple[int, Any, str]:
        return await asyncio.to_thread(command, *arguments)

    return in_thread


def states(status: dict[str, Any]) -> dict[str, str]:
    return {each["key"].rpartition("/")[2]: each["state"] for each in status["keys"]}


async def test_rotate_and_rewrap_what_the_rooms_have_sealed(
    run: Run, new_wallets: NewWallets, keyring: Keyring, module_databases: Endpoints
) -> None:
    """Status, rotate, rewrap, status; the user's code and the wallet's key work as before."""
    wallets = await new_wallets()
    hasher = PasswordHasher()
    users = Users(wallets.scope, hasher, keyring)
    wallet = await wallets.create(network="ethereum")
    before = await wallets.export_keystore(wallet.id, password="correct horse battery")
    user = await users.create(email="ann@example.com", username="ann", password=PASSWORD)
    enrolment = await users.mfa.begin(user.id)
    code, status, _ = await run("status", "--json", "--exit-code")
    (key,) = status["keys"]
    assert (code, key["state"], status["trouble"]) == (0, "seals", None)
    assert key["rows"] == {
        "auth.users.mfa_secret": 1,
        "blockchain.wallets.encrypted_private_key": 1,
    }
    code, rotated, _ = await run("rotate", "--json")
    assert (code, rotated["before"]) == (0, status["current"])
    code, status, _ = await run("status", "--json", "--exit-code")
    assert (code, states(status)) == (1, {"1": "opens", "2": "seals"})
    code, done, _ = await run("rewrap", "--json")
    assert (code, done["rows"], done["refused"]) == (0, 2, {})
    code, status, _ = await run("status", "--json", "--exit-code")
    assert code == 0
    assert status["current"] == rotated["current"]
    after = await wallets.export_keystore(wallet.id, password="correct horse battery")
    assert json.loads(after)["address"] == json.loads(before)["address"]
    await users.mfa.confirm(user.id, code=pyotp.TOTP(enrolment.secret).now())
    dsn = module_databases.cluster(Database.CORE).dsn(Role.ADMIN, Database.CORE)
    with psycopg.connect(dsn) as admin:
        found = admin.execute(
            "SELECT changes FROM audit.entries WHERE resource = 'keys' AND tenant_id IS NULL"
        ).fetchall()
    assert [row[0] for row in found] == [{"from": rotated["before"], "to": rotated["current"]}]


async def test_E16_a_lost_key_shows_with_its_rows(
    run: Run, new_wallets: NewWallets, keyring: Keyring, tmp_path: Path
) -> None:
    """Which key, how many rows, and what to do; the rows are left as they are."""
    wallets = await new_wallets()
    await wallets.create(network="ethereum")
    lost = await keyring.current()
    for file in (tmp_path / "keys").iterdir():
        file.unlink()
    code, status, _ = await run("status", "--json", "--exit-code")
    assert code == 1
    missing = next(each for each in status["keys"] if each["key"] == str(lost))
    assert missing["state"] == "missing"
    assert missing["rows"]["blockchain.wallets.encrypted_private_key"] == 1
    code, done, _ = await run("rewrap", "--json")
    assert code == 1
    assert done["rows"] == 0
    assert any(str(lost) in reason for reason in done["refused"])
    code, _, said = await run("rewrap")
    assert "left as they are" in said


async def test_the_keys_move_into_vault_and_its_key_is_rotated(
    run: Run,
    new_wallets: NewWallets,
    key_service: PlayedKeyService,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The commands of docs/how-to/keys.md: from the file to Vault, then a new version there."""
    wallets = await new_wallets()
    await wallets.create(network="ethereum")
    for name, value in {
        "PROVIDER": "vault-transit",
        "EARLIER": "file",
        "VAULT__URL": key_service.url,
        "VAULT__TOKEN": key_service.token,
    }.items():
        monkeypatch.setenv(f"NEOLAYER_KEYS__{name}", value)
    code, done, _ = await run("rewrap", "--json")
    assert (code, done["rows"]) in [(0, 1), (1, 1)]
    assert done["keys_relocked"] == 0
    master = key_service.masters["neolayer"]
    master.rotate()
    _, done, _ = await run("rewrap", "--json")
    assert (done["rows"], done["keys_relocked"]) == (0, 1)
    master.oldest_allowed = 2
    monkeypatch.delenv("NEOLAYER_KEYS__EARLIER")
    _, status, shown = await run("status", "--json")
    assert status["trouble"] is None
    key_service.token = "another"
    _, status, shown = await run("status", "--json")
    assert "refuses our token" in status["trouble"]
    assert "hvs." not in json.dumps(status) + shown


async def test_the_environment_is_rotated_by_whoever_sets_it(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One error with the way out, and no audit entry of something that was not done."""
    monkeypatch.setenv("NEOLAYER_KEYS__PROVIDER", "environment")
    monkeypatch.setenv("NEOLAYER_KEYS__KEY", "A" * 43 + "=")
    code, _, said = await run("rotate")
    assert code == 1
    assert "NEOLAYER_KEYS__PREVIOUS" in said
    assert "AAAA" not in said


async def test_every_sealed_column_is_declared(module_databases: Endpoints) -> None:
    """A column with a key id beside it that no catalogue names would be left behind for ever."""
    dsn = module_databases.cluster(Database.CORE).dsn(Role.ADMIN, Database.CORE)
    with psycopg.connect(dsn) as admin:
        found = admin.execute(
            "SELECT table_schema || '.' || table_name || '.' || column_name"
            " FROM information_schema.columns WHERE column_name LIKE '%key\\_id'"
            " AND table_schema IN ('core', 'auth', 'blockchain', 'enclave')"
            " AND data_type = 'character varying'"
        ).fetchall()
    of_the_processor = "enclave.sealed_data.key_id"  # names a key that no enclave gives away
    columns = sealed_columns(data_classes())
    assert sorted(row[0] for row in found if row[0] != of_the_processor) == sorted(
        f"{column.table}.{column.field.key_column}" for column in columns
    )
