"""Keys in custody: of one tenant, one row and one call, and shown nowhere."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import sys
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from neolayer.engines.endpoints import Endpoints
from neolayer.engines.postgres.connections import Connection
from neolayer.errors import AccessDenied, NeolayerError, NotSupported
from neolayer.keys import Keyring, KeyringError
from neolayer.keys.rewrapping import rewrap
from neolayer.keys.sealed_rows import key_usage, sealed_columns
from neolayer.tenancy import Principal, TenantLimitExceeded, open_core
from neolayer.wallets import (
    KeystoreError,
    TransactionRefused,
    WalletExists,
    WalletNotFound,
    Wallets,
    private_keys,
)
from neolayer.wallets.addresses import base58check
from neolayer.wallets.catalogue import CLASSES
from tests.fixtures.fix_wallets import NewWallets
from tests.fixtures.owners import new_owner
from tests.unit.test_wallets_keystores import keystore_of

# Nobody's key; every spelling of it is looked for.
CANARY = bytes.fromhex("c0ffee5eed0c0ffee5eed0c0ffee5eed0c0ffee5eed0c0ffee5eed0c0ffee5ee")
PASSWORD = "canary keystore password 7d1"
TO = "0x3535353535353535353535353535353535353535"
TRANSACTION = {"to": TO, "value": 1, "gas": 21000, "gasPrice": 1, "nonce": 0}
SPELLINGS = (
    CANARY.hex(),
    CANARY.hex().upper(),
    str(int.from_bytes(CANARY)),
    base64.b64encode(CANARY).decode(),
    base64.urlsafe_b64encode(CANARY).decode(),
    repr(CANARY),
    base58check(b"\x80" + CANARY + b"\x01"),
    PASSWORD,
)


def shown_in(text: str) -> list[str]:
    return [spelling for spelling in SPELLINGS if spelling in text]


async def sealed_of(admin: Connection, wallet_id: UUID) -> tuple[str, str]:
    cursor = await admin.execute(
        "SELECT encrypted_private_key, key_id FROM blockchain.wallets WHERE id = %s", (wallet_id,)
    )
    row = await cursor.fetchone()
    assert row is not None
    return row


async def test_E1_a_wallet_of_another_tenant(
    new_wallets: NewWallets, chain_admin: Connection
) -> None:
    """Unreadable, unsignable, unchangeable: every verb answers as if it were not there."""
    ann, bob = await new_wallets(), await new_wallets()
    wallet = await ann.import_key(network="ethereum", private_key=CANARY.hex())
    before = await sealed_of(chain_admin, wallet.id)
    for wallet_id in (wallet.id, uuid4()):
        attempts = (
            lambda i=wallet_id: bob.get(i),
            lambda i=wallet_id: bob.update(i, name="mine"),
            lambda i=wallet_id: bob.delete(i, destroy_key=True),
            lambda i=wallet_id: bob.sign_transaction(i, TRANSACTION),
            lambda i=wallet_id: bob.sign_message(i, "hello"),
            lambda i=wallet_id: bob.export_keystore(i, password=PASSWORD),
            lambda i=wallet_id: bob.transactions(i),
            lambda i=wallet_id: bob.balance(i),
        )
        for attempt in attempts:
            with pytest.raises(WalletNotFound) as refusal:
                await attempt()
            assert refusal.value.message == "There is no such wallet."
    with pytest.raises(WalletNotFound):
        await bob.find(network="ethereum", address=wallet.address)
    assert (await bob.list()).items == ()
    assert await sealed_of(chain_admin, wallet.id) == before
    assert await ann.get(wallet.id) == wallet
    assert await bob.scope.fetch("SELECT FROM audit.entries") == []


async def test_E1_statements_from_another_tenant(new_wallets: NewWallets) -> None:
    """Whatever SQL runs under another tenant's context reads, changes and plants nothing."""
    ann, bob = await new_wallets(), await new_wallets()
    wallet = await ann.create(network="ethereum")
    for statement in (
        "SELECT encrypted_private_key FROM blockchain.wallets WHERE id = %(id)s",
        "UPDATE blockchain.wallets SET name = 'x' WHERE id = %(id)s RETURNING id",
        "DELETE FROM blockchain.wallets WHERE id = %(id)s RETURNING id",
    ):
        assert await bob.scope.fetch(statement, {"id": wallet.id}) == []  # type: ignore[arg-type]
    insert = (
        "INSERT INTO blockchain.wallets (tenant_id, network_id, address, wallet_type)"
        " VALUES (%(tenant)s, %(network)s, %(address)s, 'x')"
    )
    for ending in (
        "",
        " ON CONFLICT DO NOTHING",
        " ON CONFLICT ON CONSTRAINT wallets_address_unique DO UPDATE SET name = 'x'",
    ):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            values = {
                "tenant": ann.scope.tenant,
                "network": wallet.network.id,
                "address": wallet.address if ending else TO,
            }
            await bob.scope.fetch(insert + ending + " RETURNING id", values)  # type: ignore[arg-type]
    assert await ann.get(wallet.id) == wallet


async def test_E1_a_ciphertext_that_was_moved_does_not_open(
    new_wallets: NewWallets, chain_admin: Connection
) -> None:
    """To another tenant's wallet of the same address, another network, another address: never.

    Even the database's administrator cannot make one wallet sign with another's key; each attempt
    is in the audit log as a failure.
    """
    ann, bob = await new_wallets(), await new_wallets()
    source = await ann.import_key(network="ethereum", private_key=CANARY.hex())
    same = await bob.import_key(network="ethereum", private_key=CANARY.hex())
    victims = [
        (bob, same.id),
        (bob, (await bob.create(network="ethereum")).id),
        (ann, (await ann.import_key(network="sepolia", private_key=CANARY.hex())).id),
        (ann, (await ann.create(network="ethereum")).id),
    ]
    moved = await sealed_of(chain_admin, source.id)
    for wallets, wallet_id in victims:
        await wallets.sign_transaction(wallet_id, TRANSACTION)
        await chain_admin.execute(
            "UPDATE blockchain.wallets SET encrypted_private_key = %s, key_id = %s WHERE id = %s",
            (*moved, wallet_id),
        )
        for attempt in (
            lambda w=wallets, i=wallet_id: w.sign_transaction(i, TRANSACTION),
            lambda w=wallets, i=wallet_id: w.sign_message(i, "hello"),
            lambda w=wallets, i=wallet_id: w.export_keystore(i, password=PASSWORD, kdf="pbkdf2"),
        ):
            with pytest.raises(KeyringError) as refusal:
                await attempt()
            assert moved[0] not in refusal.value.message
        failures = await wallets.scope.fetch(
            "SELECT changes ->> 'operation', error_message FROM audit.entries"
            " WHERE resource_id = %s AND NOT success ORDER BY transaction_id",
            (str(wallet_id),),
        )
        operations = ("sign_transaction", "sign_message", "export_keystore")
        assert failures == [(operation, "BrokenSeal") for operation in operations]


async def test_E16_wallets_sign_before_and_after_a_rotation(
    new_wallets: NewWallets, chain_admin: Connection
) -> None:
    """Re-wrapped under a new key the ciphertext is the same, and the old key is not needed."""
    wallets = await new_wallets()
    made = [await wallets.create(network=name) for name in ("ethereum", "ethereum", "neo-n3")]
    before = {wallet.id: await sealed_of(chain_admin, wallet.id) for wallet in made}
    await wallets.keyring.provider.rotate()
    await wallets.sign_message(made[0].id, "between")
    columns = sealed_columns(CLASSES)
    usage = [
        use for use in await key_usage(chain_admin, columns) if use.tenant == wallets.scope.tenant
    ]
    done = await rewrap(wallets.keyring, usage, scope_of=lambda tenant: wallets.scope)
    assert (done.rows, done.refused.total()) == (3, 0)
    current = str(await wallets.keyring.current())
    for wallet in made:
        sealed, key_id = await sealed_of(chain_admin, wallet.id)
        old_sealed, old_key_id = before[wallet.id]
        assert sealed.split(".")[4:] == old_sealed.split(".")[4:]
        assert (key_id, sealed != old_sealed) == (current, True)
        assert old_key_id != current
    await wallets.sign_message(made[1].id, "after")


class Meddling(Keyring):
    """A keyring during whose work something else happens."""

    def __init__(self, keyring: Keyring, meanwhile: Any) -> None:
        super().__init__(keyring.provider)
        self.meanwhile = meanwhile

    async def open(self, sealed: str, *, bound_to: Mapping[str, str]) -> bytes:
        await self.meanwhile()
        return await super().open(sealed, bound_to=bound_to)


async def test_a_wallet_that_went_away_does_not_sign(new_wallets: NewWallets) -> None:
    """Deleted while its key is being opened: no signature comes back, no use is recorded."""
    wallets = await new_wallets()
    wallet = await wallets.create(network="ethereum")
    delete = lambda: wallets.delete(wallet.id, destroy_key=True)  # noqa: E731
    meddled = Wallets(wallets.scope, Meddling(wallets.keyring, delete))
    with pytest.raises(WalletNotFound):
        await meddled.sign_transaction(wallet.id, TRANSACTION)
    uses = await wallets.scope.fetch("SELECT FROM audit.entries WHERE action = 'EXECUTE'")
    assert uses == []


async def test_no_signature_without_its_audit_entry(
    new_wallets: NewWallets, chain_admin: Connection
) -> None:
    """Where the entry cannot be written, the caller gets an error and no signature."""
    wallets = await new_wallets()
    wallet = await wallets.create(network="ethereum")
    await chain_admin.execute("REVOKE INSERT ON audit.entries FROM neolayer_app")
    try:
        for attempt in (
            lambda: wallets.sign_transaction(wallet.id, TRANSACTION),
            lambda: wallets.sign_message(wallet.id, "x"),
            lambda: wallets.export_keystore(wallet.id, password=PASSWORD, kdf="pbkdf2"),
            lambda: wallets.create(network="ethereum"),
            lambda: wallets.delete(wallet.id, destroy_key=True),
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                await attempt()
    finally:
        await chain_admin.execute("GRANT INSERT ON audit.entries TO neolayer_app")
    assert (await wallets.list()).items == (wallet,)


async def test_no_key_is_destroyed_without_its_audit_entry(
    new_wallets: NewWallets, chain_admin: Connection
) -> None:
    """By SQL no more than by the verb, whoever may remove wallets; and who may not is refused."""
    wallets = await new_wallets()
    held = await wallets.create(network="ethereum")
    watched = await wallets.watch(network="ethereum", address=TO)
    owner = await new_owner(wallets.scope)
    remove = "DELETE FROM blockchain.wallets WHERE id = %s RETURNING id"
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="without an audit entry"):
        await owner.fetch(remove, (held.id,))
    nobody = owner.acting_as(Principal.user(uuid4()))
    for wallet in (held, watched):
        with pytest.raises(AccessDenied, match="permission"):
            await nobody.fetch(remove, (wallet.id,))
    assert {one.id for one in (await wallets.list()).items} == {held.id, watched.id}
    assert await owner.fetch(remove, (watched.id,)) == [(watched.id,)]
    await Wallets(owner, wallets.keyring).delete(held.id, destroy_key=True)
    assert (await wallets.list()).items == ()


async def test_a_tenants_limit_holds(new_wallets: NewWallets, chain_admin: Connection) -> None:
    """Of twenty created at once, as many are stored as the tenant may have."""
    wallets = await new_wallets()
    await chain_admin.execute(
        "UPDATE core.tenants SET limits = '{\"wallets\": 5}' WHERE id = %s", (wallets.scope.tenant,)
    )
    outcomes = await asyncio.gather(
        *(wallets.create(network="ethereum") for _ in range(20)), return_exceptions=True
    )
    refused = [each for each in outcomes if isinstance(each, BaseException)]
    assert {type(each) for each in refused} == {TenantLimitExceeded}, refused
    assert (len(refused), len((await wallets.list()).items)) == (15, 5)


@pytest.fixture
async def loud_wallets(
    chain_admin: Connection, module_databases: Endpoints, keyring: Keyring
) -> Any:
    """Wallets over sessions whose every statement and parameter the server logs; and its log."""
    for setting in ("log_statement = 'all'", "log_min_error_statement = 'debug1'"):
        await chain_admin.execute(f"ALTER DATABASE neolayer SET {setting}")  # type: ignore[arg-type]
    row = await (await chain_admin.execute("SHOW data_directory")).fetchone()
    assert row is not None
    tenant = uuid4()
    await chain_admin.execute(
        "INSERT INTO core.tenants (id, name, identifier, subscription_tier)"
        " VALUES (%s, 'loud', %s, 'enterprise')",
        (tenant, f"t{tenant}"),
    )
    async with open_core(module_databases, application_name="tests") as core:
        scope = core.scope(tenant, by=Principal.operator("tests"))
        yield Wallets(scope, keyring), Path(row[0]).parent.parent / "postgres.log"
    await chain_admin.execute("ALTER DATABASE neolayer RESET ALL")


async def test_E12_canaries_appear_nowhere(
    loud_wallets: tuple[Wallets, Path],
    chain_admin: Connection,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """A planted key and password pass through every verb, and every refusal, and show nowhere.

    Looked through: answers, errors with their causes, Python's logs, stdout and stderr, every row
    of every table (audit too), and the server's own log, to which it writes all parameters.
    """
    caplog.set_level(logging.DEBUG)
    wallets, log = loud_wallets
    begin = log.stat().st_size
    said: list[str] = []
    wallet = await wallets.import_key(network="ethereum", private_key="0x" + CANARY.hex())
    wif = base58check(b"\x80" + CANARY + b"\x01")
    neo = await wallets.import_key(network="neo-n3", private_key=wif)
    keystore = json.dumps(keystore_of(CANARY, PASSWORD))
    other = await wallets.import_keystore(network="sepolia", keystore=keystore, password=PASSWORD)
    said += [repr(wallet), str(neo), json.dumps(other.plain()), repr(wallets)]
    said.append(repr(await wallets.sign_transaction(wallet.id, TRANSACTION)))
    said.append(repr(await wallets.sign_message(wallet.id, "hello")))
    said.append(await wallets.export_keystore(wallet.id, password=PASSWORD, kdf="pbkdf2"))
    said.append(await wallets.export_keystore(neo.id, password=PASSWORD))
    refusals: list[tuple[type[NeolayerError], Any]] = [
        (WalletExists, lambda: wallets.import_key(network="ethereum", private_key=CANARY.hex())),
        (
            WalletExists,
            lambda: wallets.import_keystore(
                network="ethereum", keystore=keystore, password=PASSWORD
            ),
        ),
        (
            KeystoreError,
            lambda: wallets.import_keystore(
                network="ethereum",
                keystore=json.dumps(keystore_of(CANARY, "another")),
                password=PASSWORD,
            ),
        ),
        (NeolayerError, lambda: wallets.import_key(network="ethereum", private_key=wif)),
        (
            NeolayerError,
            lambda: wallets.import_key(network="neo-n3", private_key=CANARY.hex() + "00"),
        ),
        (
            TransactionRefused,
            lambda: wallets.sign_transaction(wallet.id, TRANSACTION | {"chainId": 5}),
        ),
        (NotSupported, lambda: wallets.sign_message(neo.id, "hello")),
    ]
    for kind, attempt in refusals:
        with pytest.raises(kind) as refusal:
            await attempt()
        error = refusal.value
        said.append("".join(traceback.format_exception(error)) + repr(error) + (error.hint or ""))
    assert shown_in("\n".join(said)) == []
    assert shown_in(caplog.text) == []
    output = capfd.readouterr()
    assert shown_in(output.out + output.err) == []
    sealed, _ = await sealed_of(chain_admin, wallet.id)
    assert shown_in(await every_row(chain_admin)) == []
    with log.open("rb") as file:
        file.seek(begin)
        logged = file.read().decode("utf-8", "replace")
    assert sealed in logged  # the log was open to us, and parameters were in it
    assert shown_in(logged) == []


async def every_row(admin: Connection) -> str:
    """All rows of all tables, as text."""
    tables = await (
        await admin.execute(
            "SELECT oid::regclass::text FROM pg_class WHERE relkind = 'r'"
            " AND relnamespace::regnamespace::text IN"
            " ('core', 'auth', 'blockchain', 'enclave', 'audit')"
        )
    ).fetchall()
    found: list[str] = []
    for (table,) in tables:
        rows = await (await admin.execute(f"SELECT t::text FROM {table} t")).fetchall()  # type: ignore[arg-type]
        found += [row[0] for row in rows]
    text = "\n".join(found)
    assert "sign_transaction" in text
    return text


async def test_E12_a_failing_signature_does_not_show_the_key(
    new_wallets: NewWallets, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error after the key was opened, printed with the locals of every frame, holds no key."""
    from neolayer.wallets import evm_signing

    wallets = await new_wallets()
    wallet = await wallets.import_key(network="ethereum", private_key=CANARY.hex())

    def fail(item: object, key: private_keys.PrivateKey) -> None:
        raise RuntimeError("out of order")

    monkeypatch.setattr(evm_signing, "sign", fail)
    with pytest.raises(RuntimeError) as failure:
        await wallets.sign_transaction(wallet.id, TRANSACTION)
    printed = traceback.TracebackException.from_exception(failure.value, capture_locals=True)
    text = "".join(printed.format())
    assert "PrivateKey(***)" in text
    assert shown_in(text) == []


@pytest.fixture
def without_the_extra(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An installation without the packages of the extra `wallets`."""
    for name in ("eth_account", "eth_account.messages", "eth_keyfile", "coincurve", "Crypto"):
        monkeypatch.setitem(sys.modules, name, None)
    yield


async def test_without_the_extra(new_wallets: NewWallets, without_the_extra: None) -> None:
    """Watching, creating and Neo N3 work; what needs the packages says how to get them."""
    wallets = await new_wallets()
    await wallets.watch(network="ethereum", address=TO)
    wallet = await wallets.create(network="ethereum")
    keystore = json.dumps(keystore_of(CANARY, PASSWORD))
    for attempt in (
        lambda: wallets.sign_transaction(wallet.id, TRANSACTION),
        lambda: wallets.sign_message(wallet.id, "x"),
        lambda: wallets.export_keystore(wallet.id, password=PASSWORD),
        lambda: wallets.import_keystore(network="ethereum", keystore=keystore, password=PASSWORD),
    ):
        with pytest.raises(NotSupported) as refusal:
            await attempt()
        assert refusal.value.hint == "pip install neolayer[wallets]"
    uses = await wallets.scope.fetch(
        "SELECT changes ->> 'operation' FROM audit.entries WHERE action <> 'CREATE'"
    )
    assert uses == []
