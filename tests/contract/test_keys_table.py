"""Locked keys in the real table: who may do what with them, rivals, and settings to keyring."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import psycopg
import pytest
from pydantic import SecretStr
from tests.fixtures.fix_key_service import ACCESS_KEY_ID, REGION, PlayedKeyService
from tests.fixtures.guarded_keys import KINDS

from neolayer.engines.endpoints import Database, Endpoints, Role
from neolayer.errors import MigrationError, SettingsError
from neolayer.keys import KeysUnavailable, MissingKey, key_id_of
from neolayer.keys.names import KeyName
from neolayer.keys.providers import open_keyring
from neolayer.keys.providers.guarded import GuardedKeys
from neolayer.keys.providers.master import LockedKey
from neolayer.keys.store import TableKeyStore, open_key_store
from neolayer.settings import KeySettings, KmsSettings, VaultSettings

ROW = {"tenant": "a"}
TABLE = "core.locked_keys"


def as_admin(endpoints: Endpoints, *statements: str, database: str = Database.CORE) -> None:
    dsn = endpoints.cluster(Database.CORE).dsn(Role.ADMIN, database)
    with psycopg.connect(dsn, autocommit=True) as admin:
        for statement in statements:
            admin.execute(statement)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def no_keys(module_databases: Endpoints) -> None:
    as_admin(module_databases, f"TRUNCATE {TABLE}")


@pytest.fixture
async def store(module_databases: Endpoints) -> AsyncIterator[TableKeyStore]:
    async with open_key_store(module_databases) as opened:
        yield opened


def settings_for(service: PlayedKeyService, kind: str, **others: object) -> KeySettings:
    values = {
        "provider": kind,
        "kms": KmsSettings(
            key="alias/neolayer",
            region=REGION,
            url=service.url,
            access_key_id=ACCESS_KEY_ID,
            secret_access_key=SecretStr(service.secret_access_key),
        ),
        "vault": VaultSettings(url=service.url, token=SecretStr(service.token)),
        **others,
    }
    return KeySettings.model_validate(values)


async def test_a_key_is_kept_once_and_relocked_only_from_what_it_was(store: TableKeyStore) -> None:
    """Whoever is second to make a version, or to lock it otherwise, changes nothing."""
    name = await store.next_name()
    first, second, third = (LockedKey("kms:x", text) for text in ("one", "two", "three"))
    await store.add(name, first)
    await store.add(KeyName("layer-rival", 1), second)
    assert await store.names() == (name,)
    assert await store.next_name() == KeyName(name.id, 2)
    await store.replace(name, second, third)
    assert await store.locked(name) == first
    await store.replace(name, first, third)
    assert await store.locked(name) == third
    assert await store.locked(KeyName(name.id, 2)) is None


@pytest.mark.parametrize("kind", KINDS)
async def test_processes_that_begin_at_once_have_one_key(
    module_databases: Endpoints, key_service: PlayedKeyService, kind: str, tmp_path: Path
) -> None:
    """Each makes the first key; the table keeps one, and all seal with it."""
    settings = settings_for(key_service, kind)

    async def seal() -> str:
        async with open_keyring(settings, tmp_path, module_databases) as keyring:
            return await keyring.seal(b"x", bound_to=ROW)

    sealed = await asyncio.gather(*(seal() for _ in range(4)))
    assert len({key_id_of(text) for text in sealed}) == 1
    async with open_keyring(settings, tmp_path, module_databases) as keyring:
        assert {await keyring.open(text, bound_to=ROW) for text in sealed} == {b"x"}


@pytest.mark.parametrize("role", [Role.APP, Role.OPERATOR, Role.BACKUP, Role.RELAY, Role.INGEST])
@pytest.mark.parametrize(
    "statement",
    [
        f"INSERT INTO {TABLE} (id, version, locked_by, locked_key) VALUES ('x', 9, 'x', 'x')",
        f"UPDATE {TABLE} SET locked_key = 'x'",
        f"DELETE FROM {TABLE}",
        f"TRUNCATE {TABLE}",
    ],
)
def test_E1_no_role_of_the_layer_can_put_another_key_in_place(
    module_databases: Endpoints, role: Role, statement: str
) -> None:
    """Only the migrator's login, which the command line uses to rotate."""
    dsn = module_databases.cluster(Database.CORE).dsn(role, Database.CORE)
    with psycopg.connect(dsn) as connection:
        connection.execute("SET TRANSACTION READ WRITE")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute(statement)  # type: ignore[arg-type]


@pytest.mark.parametrize("role", [Role.OPERATOR, Role.RELAY, Role.INGEST])
def test_E12_operators_see_that_there_are_keys_and_not_the_keys(
    module_databases: Endpoints, role: Role
) -> None:
    """Locked or not, who need not have them does not see them."""
    dsn = module_databases.cluster(Database.CORE).dsn(role, Database.CORE)
    with psycopg.connect(dsn) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute(f"SELECT locked_key FROM {TABLE}")


@pytest.mark.parametrize("kind", KINDS)
async def test_a_layer_moves_from_a_file_to_a_service_and_back(
    module_databases: Endpoints, key_service: PlayedKeyService, kind: str, tmp_path: Path
) -> None:
    """`keys.earlier` opens what the earlier provider sealed; after rewrap it is not needed."""
    local = KeySettings(provider="file")
    async with open_keyring(local, tmp_path) as keyring:
        in_file = await keyring.seal(b"x", bound_to=ROW)
    guarded = settings_for(key_service, kind)
    async with open_keyring(guarded, tmp_path, module_databases) as keyring:
        with pytest.raises(MissingKey, match=key_id_of(in_file)):
            await keyring.open(in_file, bound_to=ROW)
    moving = settings_for(key_service, kind, earlier="file")
    async with open_keyring(moving, tmp_path, module_databases) as keyring:
        in_service = await keyring.rewrap(in_file, bound_to=ROW)
        names = await keyring.provider.versions()
        await keyring.provider.health()
    assert [str(name) for name in names] == [key_id_of(in_file), key_id_of(in_service)]
    async with open_keyring(guarded, tmp_path, module_databases) as keyring:
        assert await keyring.open(in_service, bound_to=ROW) == b"x"
    back = settings_for(key_service, "file", earlier=kind)
    async with open_keyring(back, tmp_path, module_databases) as keyring:
        again = await keyring.rewrap(in_service, bound_to=ROW)
    async with open_keyring(local, tmp_path) as keyring:
        assert await keyring.open(again, bound_to=ROW) == b"x"


async def test_a_layer_moves_from_one_service_to_the_other(
    module_databases: Endpoints, key_service: PlayedKeyService, tmp_path: Path
) -> None:
    """Both unlock keys of one table."""
    settings = settings_for(key_service, "vault-transit")
    async with open_keyring(settings, tmp_path, module_databases) as keyring:
        sealed = await keyring.seal(b"x", bound_to=ROW)
    settings = settings_for(key_service, "aws-kms", earlier="vault-transit")
    async with open_keyring(settings, tmp_path, module_databases) as keyring:
        assert isinstance(keyring.provider, GuardedKeys)
        await keyring.provider.relock()
    settings = settings_for(key_service, "aws-kms")
    async with open_keyring(settings, tmp_path, module_databases) as keyring:
        assert await keyring.open(sealed, bound_to=ROW) == b"x"


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"provider": "aws-kms"}, "keys.kms"),
        ({"provider": "vault-transit"}, "keys.vault.url"),
        ({"provider": "vault-transit", "vault": {"url": "http://127.0.0.1"}}, "keys.vault.token"),
    ],
)
async def test_a_missing_setting_is_named(
    module_databases: Endpoints, tmp_path: Path, values: dict[str, object], named: str
) -> None:
    """With the variable that sets it."""
    settings = KeySettings.model_validate(values)
    with pytest.raises(SettingsError, match=named) as refused:
        async with open_keyring(settings, tmp_path, module_databases):
            pass
    assert "NEOLAYER_KEYS__" in (refused.value.hint or "")


async def test_before_the_migration_the_way_out_is_named(
    module_databases: Endpoints, key_service: PlayedKeyService, tmp_path: Path
) -> None:
    """A layer of an earlier version has no such table."""
    settings = settings_for(key_service, "vault-transit")
    as_admin(module_databases, f"ALTER TABLE {TABLE} RENAME TO not_yet")
    try:
        async with open_keyring(settings, tmp_path, module_databases) as keyring:
            with pytest.raises(MigrationError) as refused:
                await keyring.seal(b"x", bound_to=ROW)
    finally:
        as_admin(module_databases, f"ALTER TABLE core.not_yet RENAME TO {TABLE.split('.')[1]}")
    assert refused.value.hint == "run: neolayer migrate up"


async def test_a_database_that_goes_away_is_one_sentence(
    module_databases: Endpoints, key_service: PlayedKeyService, tmp_path: Path
) -> None:
    """What is unlocked still opens; what is not says why."""
    settings = settings_for(key_service, "vault-transit")
    door = f"ALTER DATABASE {Database.CORE} ALLOW_CONNECTIONS"
    async with open_keyring(settings, tmp_path, module_databases) as keyring:
        sealed = await keyring.seal(b"x", bound_to=ROW)
        as_admin(
            module_databases,
            f"{door} false",
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            f" WHERE datname = '{Database.CORE}'",
            database="postgres",
        )
        try:
            assert await keyring.open(sealed, bound_to=ROW) == b"x"
            with pytest.raises(KeysUnavailable, match="database"):
                await keyring.provider.health()
        finally:
            as_admin(module_databases, f"{door} true", database="postgres")
