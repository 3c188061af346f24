"""Moving sealed rows under a new key: nothing lost or overwritten, and on where it stopped."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from tests.fixtures.fix_tenancy import NewTenant
from tests.fixtures.sealed_people import NETWORK, SealedPeople
from tests.fixtures.shared_data import REPOSITORY

from neolayer.engines.endpoints import Endpoints
from neolayer.keys import Keyring, KeysUnavailable
from neolayer.keys.provider import WrappedKey
from neolayer.keys.providers.file import FileKeys
from neolayer.tenancy import CoreDatabase


@pytest.fixture
def people(core: CoreDatabase, layer_databases: Endpoints) -> SealedPeople:
    return SealedPeople(core, layer_databases)


async def test_every_row_moves_and_no_ciphertext_changes(
    people: SealedPeople, new_tenant: NewTenant, keyring: Keyring
) -> None:
    """Two tenants, two tables, several batches; a second run has nothing to do."""
    for _ in range(2):
        await people.settle(await new_tenant(), keyring, users=23, wallets=12)
    before = people.stored()
    new = await keyring.provider.rotate()
    await people.all_open(keyring)
    done = await people.rewrap(keyring, batch_rows=10)
    assert (done.rows, done.refused) == (70, {})
    await people.all_open(keyring)
    after = people.stored()
    assert {key for _, key in after.values()} == {str(new)}
    for name, (sealed, _) in after.items():
        assert sealed.split(".")[4:] == before[name][0].split(".")[4:]
    assert (await people.rewrap(keyring)).rows == 0
    assert {use.key_id for use in await people.usage()} == {str(new)}


@pytest.mark.parametrize("rows", [0, 14, 31])
async def test_E16_killed_in_the_middle_it_goes_on_where_it_was(
    people: SealedPeople,
    new_tenant: NewTenant,
    keyring: Keyring,
    tmp_path: Path,
    layer_databases: Endpoints,
    rows: int,
) -> None:
    """kill -9 inside a batch: whole batches are moved, all rows open, the rest follows."""
    for _ in range(2):
        await people.settle(await new_tenant(), keyring, users=15, wallets=9)
    await keyring.provider.rotate()
    cluster = layer_databases.postgres
    passwords = json.dumps({str(role): text for role, text in cluster.passwords.items()})
    argv = [cluster.admin_dsn, passwords, str(tmp_path / "keys"), str(rows)]
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.crash.rewrap_process", *argv],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=REPOSITORY,
        text=True,
    )
    with process:
        assert process.stdout is not None
        said = process.stdout.readline()
        process.kill()
        assert said == "stopped\n", process.communicate()[1]
    await people.all_open(keyring)
    moved = sum(key.endswith("/2") for _, key in people.stored().values())
    assert moved <= rows
    assert moved > 0 or rows == 0
    assert (await people.rewrap(keyring)).rows == 48 - moved
    await people.all_open(keyring)
    assert {key[-2:] for _, key in people.stored().values()} == {"/2"}


async def test_a_secret_that_changes_meanwhile_is_not_overwritten(
    people: SealedPeople, new_tenant: NewTenant, keyring: Keyring
) -> None:
    """A user sets up a new seed between our read and our write: theirs stays, and is moved too."""
    scope = await new_tenant()
    await people.settle(scope, keyring, users=3, wallets=0)
    (_, user), (_, bound_to, _) = next(iter(people.secrets.items()))
    newer = await keyring.seal(b"newer", bound_to=bound_to)
    people.secrets["auth.users", user] = (scope, bound_to, b"newer")
    await keyring.provider.rotate()

    class Overtaken(Keyring):
        async def rewrap(self, sealed: str, *, bound_to: Mapping[str, str]) -> str:
            if bound_to["user"] == str(user) and sealed != newer:
                people.as_admin("UPDATE auth.users SET mfa_secret = %s WHERE id = %s", newer, user)
            return await super().rewrap(sealed, bound_to=bound_to)

    done = await people.rewrap(Overtaken(keyring.provider))
    assert (done.rows, done.changed_meanwhile) == (3, 1)
    await people.all_open(keyring)
    assert {key[-2:] for _, key in people.stored().values()} == {"/2"}


async def test_no_transaction_waits_for_the_provider(
    people: SealedPeople, new_tenant: NewTenant, keyring: Keyring
) -> None:
    """A provider elsewhere may take longer than the server lets a transaction stand idle."""
    await people.settle(await new_tenant(), keyring, users=3, wallets=0)
    await keyring.provider.rotate()
    seen = list[object]()
    query = (
        "SELECT query FROM pg_stat_activity WHERE datname = current_database()"
        " AND starts_with(state, 'idle in transaction')"
    )

    class Watching(Keyring):
        async def rewrap(self, sealed: str, *, bound_to: Mapping[str, str]) -> str:
            seen.append(people.as_admin(query))
            return await super().rewrap(sealed, bound_to=bound_to)

    assert (await people.rewrap(Watching(keyring.provider))).rows == 3
    assert seen == [[]] * 3


async def test_E16_a_row_that_was_moved_or_lost_its_key_is_left_and_named(
    people: SealedPeople, new_tenant: NewTenant, keyring: Keyring, tmp_path: Path
) -> None:
    """A wallet under another tenant's text, and one under a key that is gone, stop nobody else."""
    ours, theirs = await new_tenant(), await new_tenant()
    await people.settle(theirs, keyring, users=1, wallets=2)
    await people.settle(ours, keyring, users=2, wallets=3)
    stolen, lost = [
        wallet
        for (table, wallet), (scope, *_) in people.secrets.items()
        if table == "blockchain.wallets" and scope is ours
    ][:2]
    people.as_admin(
        "UPDATE blockchain.wallets SET encrypted_private_key = (SELECT encrypted_private_key"
        " FROM blockchain.wallets WHERE tenant_id = %s LIMIT 1) WHERE id = %s",
        theirs.tenant,
        stolen,
    )
    gone = Keyring(FileKeys(tmp_path / "gone"))
    _, bound_to, secret = people.secrets["blockchain.wallets", lost]
    sealed = await gone.seal(secret, bound_to=bound_to)
    key = str(await gone.current())
    people.as_admin(
        "UPDATE blockchain.wallets SET encrypted_private_key = %s, key_id = %s WHERE id = %s",
        sealed,
        key,
        lost,
    )
    before = people.stored()
    await keyring.provider.rotate()
    done = await people.rewrap(keyring, batch_rows=2)
    assert (done.rows, done.refused.total()) == (6, 2)
    reasons = " ".join(done.refused)
    assert key in reasons
    assert f"network {NETWORK}" in reasons
    assert str(ours.tenant) in reasons
    after = people.stored()
    for wallet in (stolen, lost):
        assert after["blockchain.wallets", wallet] == before["blockchain.wallets", wallet]
    failed = people.as_admin(
        "SELECT changes->>'rows' FROM audit.entries WHERE NOT success AND tenant_id = %s",
        ours.tenant,
    )
    assert sum(int(str(rows)) for (rows,) in failed) == 2


async def test_a_deleted_tenants_rows_move_too(
    people: SealedPeople, new_tenant: NewTenant, keyring: Keyring
) -> None:
    """It may come back, and until it is erased its rows would hold an old key for ever."""
    scope = await new_tenant()
    await people.settle(scope, keyring, users=2, wallets=1)
    people.as_admin("UPDATE core.tenants SET deleted_at = now() WHERE id = %s", scope.tenant)
    await keyring.provider.rotate()
    assert (await people.rewrap(keyring)).rows == 3
    await people.all_open(keyring)


async def test_a_wrong_key_id_beside_a_right_text_is_put_right(
    people: SealedPeople, new_tenant: NewTenant, keyring: Keyring
) -> None:
    """The column only says what the text says."""
    await people.settle(await new_tenant(), keyring, users=2, wallets=0)
    people.as_admin("UPDATE auth.users SET mfa_key_id = 'nl1'")
    assert (await people.rewrap(keyring)).rows == 2
    await people.all_open(keyring)


async def test_E12_the_audit_says_how_many_under_which_key_and_nothing_secret(
    people: SealedPeople, new_tenant: NewTenant, keyring: Keyring, tmp_path: Path
) -> None:
    """One entry a batch, of the tenant and the operator; no text, no key, no secret in it."""
    scope = await new_tenant()
    await people.settle(scope, keyring, users=5, wallets=1)
    new = await keyring.provider.rotate()
    await people.rewrap(keyring, batch_rows=2)
    entries = people.as_admin(
        "SELECT tenant_id, principal, action, resource, changes, to_jsonb(e)::text"
        " FROM audit.entries e WHERE changes ? 'rewrapped' ORDER BY occurred_at"
    )
    counted = [(row[3], row[4]["rows"]) for row in entries]  # type: ignore[index]
    assert counted == [*[("auth.users", n) for n in (2, 2, 1)], ("blockchain.wallets", 1)]
    assert {row[:3] for row in entries} == {(scope.tenant, "operator:tests", "UPDATE")}
    assert {row[4]["key"] for row in entries} == {str(new)}  # type: ignore[index]
    text = " ".join(str(row[5]) for row in entries)
    keys = json.loads((tmp_path / "keys" / "keys.json").read_text())["keys"].values()
    parts = [part for sealed, _ in people.stored().values() for part in sealed.split(".")[3:]]
    canaries = [*keys, *parts]
    assert [canary for canary in canaries if canary in text] == []


async def test_an_outage_of_the_keys_ends_it_and_keeps_what_was_done(
    people: SealedPeople, new_tenant: NewTenant, keyring: Keyring
) -> None:
    """It is no reason to count rows as broken; run again, it goes on."""
    await people.settle(await new_tenant(), keyring, users=10, wallets=0)
    await keyring.provider.rotate()

    class Failing(FileKeys):
        left = 5

        async def unwrap(self, wrapped: WrappedKey) -> bytes:
            self.left -= 1
            if self.left < 0:
                raise KeysUnavailable
            return await keyring.provider.unwrap(wrapped)

        async def wrap(self, data_key: bytes) -> WrappedKey:
            return await keyring.provider.wrap(data_key)

        async def current(self):  # type: ignore[no-untyped-def]
            return await keyring.provider.current()

    with pytest.raises(KeysUnavailable):
        await people.rewrap(Keyring(Failing(Path("unused"))), batch_rows=2)
    moved = sum(key.endswith("/2") for _, key in people.stored().values())
    assert moved == 4
    assert (await people.rewrap(keyring)).rows == 6
    await people.all_open(keyring)
