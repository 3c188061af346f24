"""What the wallets room promises: who has which wallet, in which form, and what stays as it is."""

from __future__ import annotations

import asyncio
import json
from uuid import UUID, uuid4

import psycopg
import pytest
from eth_account import Account
from tests.fixtures.fix_wallets import NewWallets
from tests.unit.test_wallets_keystores import keystore_of

from neolayer.engines.postgres.connections import Connection
from neolayer.errors import InvalidInput, NotSupported
from neolayer.wallets import (
    Custody,
    KeyNotHeld,
    KeystoreError,
    KeyWouldBeLost,
    NetworkNotFound,
    OwnerNotFound,
    TransactionRefused,
    WalletExists,
    WalletNotFound,
    Wallets,
)

KEY = "46" * 32
ADDRESS = "0x9d8A62f656a8d1615C1294fd71e9CFb3E4855A4F"
PUBLIC_KEY = Account.from_key(KEY)._key_obj.public_key.to_compressed_bytes().hex()
NEO_KEY = "L1eV34wPoj9weqhGijdDLtVQzUpWGHszXXpdU9dPuh2nRFFzFa7E"
NEO_PUBLIC = "033a4d051b04b7fc0230d2b1aaedfd5a84be279a5361a7358db665ad7857787f1b"
NEO_ADDRESS = "NM7Aky765FG8NhhwtxjXRx7jEL1cnw7PBP"
TRANSACTION = {"to": ADDRESS, "value": 1, "gas": 21000, "gasPrice": 1, "nonce": 0}


async def entries(wallets: Wallets) -> list[tuple[object, ...]]:
    """The tenant's audit entries on wallets, oldest first."""
    return await wallets.scope.fetch(
        "SELECT action, changes, success, error_message FROM audit.entries"
        " WHERE resource = 'wallet' ORDER BY transaction_id"
    )


async def test_every_way_to_a_wallet(new_wallets: NewWallets) -> None:
    """Created, imported, watched, on a device: each is read back as it was answered."""
    wallets = await new_wallets()
    keystore = json.dumps(keystore_of(b"\x07" * 32, "password"))
    made = [
        await wallets.create(network="ethereum", name="  Treasury  ", wallet_type="cold"),
        await wallets.import_key(network="ethereum", private_key=KEY),
        await wallets.import_keystore(network="sepolia", keystore=keystore, password="password"),
        await wallets.watch(network="sepolia", address=ADDRESS, public_key="0x" + PUBLIC_KEY),
        await wallets.add_hardware(network="neo-n3-testnet", public_key=NEO_PUBLIC),
        await wallets.import_key(network="neo-n3", private_key=NEO_KEY),
        await wallets.create(network="neo-n3"),
    ]
    for wallet in made:
        assert await wallets.get(wallet.id) == wallet
        found = await wallets.find(network=wallet.network.name, address=wallet.shown_address)
        assert found == wallet
    assert (await wallets.list()).items == tuple(made)
    assert [wallet.custody for wallet in made] == [
        *[Custody.CUSTODIAL] * 3,
        Custody.WATCH_ONLY,
        Custody.HARDWARE,
        *[Custody.CUSTODIAL] * 2,
    ]
    assert (made[0].name, made[0].wallet_type) == ("Treasury", "cold")
    assert made[1].shown_address == made[3].shown_address == ADDRESS
    assert made[1].address == ADDRESS.lower()
    assert made[5].address == NEO_ADDRESS
    assert made[5].script_hash == "0x69ecca587293047be4c59159bf8bc399985c160d"
    assert all((wallet.key_id is None) == (wallet.custody != "custodial") for wallet in made)


async def test_D_one_address_is_one_wallet(new_wallets: NewWallets) -> None:
    """However it is written and however it came: once a tenant and network; elsewhere again."""
    ann, bob = await new_wallets(), await new_wallets()
    first = await ann.watch(network="ethereum", address=ADDRESS)
    for again in (ADDRESS.lower(), "0x" + ADDRESS[2:].upper()):
        with pytest.raises(WalletExists):
            await ann.watch(network="ethereum", address=again)
    with pytest.raises(WalletExists):
        await ann.import_key(network="ethereum", private_key=KEY)
    await ann.watch(network="sepolia", address=ADDRESS)
    theirs = await bob.watch(network="ethereum", address=ADDRESS)
    assert theirs.id != first.id
    await ann.watch(network="neo-n3", address=NEO_ADDRESS)
    with pytest.raises(WalletExists):
        script_hash = "0x69ecca587293047be4c59159bf8bc399985c160d"
        await ann.watch(network="neo-n3", address=script_hash)


async def test_parallel_imports_make_one_wallet(new_wallets: NewWallets) -> None:
    """Twenty at once: one is stored and audited, the others are told that it is there."""
    wallets = await new_wallets()
    outcomes = await asyncio.gather(
        *(wallets.import_key(network="ethereum", private_key=KEY) for _ in range(20)),
        return_exceptions=True,
    )
    assert sum(isinstance(each, WalletExists) for each in outcomes) == 19
    (stored,) = (await wallets.list()).items
    assert [each for each in outcomes if not isinstance(each, Exception)] == [stored]
    assert len(await entries(wallets)) == 1


async def test_D_what_is_refused(new_wallets: NewWallets) -> None:
    """Unknown networks and users, bad addresses, keys of other addresses, names that hide."""
    wallets = await new_wallets()
    with pytest.raises(NetworkNotFound):
        await wallets.create(network="nowhere")
    with pytest.raises(OwnerNotFound):
        await wallets.create(network="ethereum", user_id=uuid4())
    bad = (
        lambda: wallets.watch(network="ethereum", address=NEO_ADDRESS),
        lambda: wallets.watch(network="neo-n3", address=ADDRESS),
        lambda: wallets.watch(network="ethereum", address=ADDRESS[:-1] + "f"),
        lambda: wallets.watch(network="ethereum", address=ADDRESS.lower(), public_key=NEO_PUBLIC),
        lambda: wallets.watch(network="ethereum", address="0x" + "11" * 20, public_key=PUBLIC_KEY),
        lambda: wallets.add_hardware(
            network="ethereum", public_key=PUBLIC_KEY, address="0x" + "11" * 20
        ),
        lambda: wallets.add_hardware(network="ethereum", public_key="02"),
        lambda: wallets.create(network="ethereum", name=" "),
        lambda: wallets.create(network="ethereum", name="a\u202eb"),
        lambda: wallets.create(network="ethereum", name="a\0b"),
        lambda: wallets.create(network="ethereum", name="a" * 256),
        lambda: wallets.create(network="ethereum", wallet_type="Hot"),
        lambda: wallets.list(limit=0),
        lambda: wallets.list(limit=10**9),
        lambda: wallets.list(after="forged"),
        lambda: wallets.list(after="é"),
    )
    for attempt in bad:
        with pytest.raises(InvalidInput):
            await attempt()
    with pytest.raises(KeystoreError, match="NEP-2"):
        await wallets.import_keystore(network="neo-n3", keystore="{}", password="p")
    assert (await wallets.list()).items == ()
    assert await entries(wallets) == []


async def test_pages_of_wallets(new_wallets: NewWallets) -> None:
    """Page by page all are seen once, oldest first; filters hold; another tenant's are not in."""
    wallets, other = await new_wallets(), await new_wallets()
    await other.create(network="ethereum")
    made = [await wallets.create(network="ethereum") for _ in range(7)]
    extra = await wallets.create(network="sepolia")
    seen, after = [], None
    while True:
        page = await wallets.list(network="ethereum", after=after, limit=3)
        seen += page.items
        after = page.after
        if after is None:
            break
    assert seen == made
    assert (await wallets.list(network="sepolia")).items == (extra,)
    assert (await wallets.list(network="nowhere")).items == ()
    assert (await wallets.list(user_id=uuid4())).items == ()


@pytest.mark.parametrize("instant", ["infinity", "20000-01-01", "-infinity", "0044-03-15 BC"])
async def test_E17_pages_end_whatever_instant_sql_has_written(
    new_wallets: NewWallets, instant: str
) -> None:
    """Wallets of no year that is read are seen, the others too, and there is a last page."""
    wallets = await new_wallets()
    made = {(await wallets.watch(network="ethereum", address=f"0x{n:040x}")).id for n in (1, 2)}
    added = (
        "INSERT INTO blockchain.wallets (tenant_id, network_id, address, wallet_type, created_at)"
        " SELECT w.tenant_id, w.network_id, a, w.wallet_type, %s"
        " FROM (SELECT * FROM blockchain.wallets LIMIT 1) AS w, unnest(%s::text[]) AS a"
        " RETURNING id"
    )
    addresses = [f"0x{n:040x}" for n in (3, 4, 5)]
    made |= {row[0] for row in await wallets.scope.fetch(added, (instant, addresses))}
    seen, after = list[UUID](), None
    for _ in range(10):
        page = await wallets.list(after=after, limit=1)
        seen += [each.id for each in page.items]
        if (after := page.after) is None:
            break
    assert after is None
    assert (len(seen), set(seen)) == (5, made)
    assert {each.id for each in (await wallets.list(limit=100)).items} == made


async def test_D_a_page_goes_on_only_where_it_ended(new_wallets: NewWallets) -> None:
    """A cursor of another tenant, another filter or another list is refused, and so is one with any
    bit turned or a letter added: nobody chooses a place by hand."""
    wallets, other = await new_wallets(), await new_wallets()
    for _ in range(3):
        await wallets.create(network="ethereum")
        await other.create(network="ethereum")
    after = (await wallets.list(network="ethereum", limit=1)).after
    assert after is not None
    assert len((await wallets.list(network="ethereum", after=after)).items) == 2
    wallet_id = (await wallets.list(limit=1)).items[0].id
    forged = [after[:n] + ("A" if after[n] != "A" else "B") + after[n + 1 :] for n in range(22)]
    forged += [after[:-1], after + "A", after + "=", f" {after}", after.swapcase(), "A" * 5000]
    for attempt in (
        lambda: other.list(network="ethereum", after=after),
        lambda: wallets.list(after=after),
        lambda: wallets.list(network="sepolia", after=after),
        lambda: wallets.list(network="ethereum", user_id=uuid4(), after=after),
        lambda: wallets.transactions(wallet_id, after=after),
        *(lambda text=text: wallets.list(network="ethereum", after=text) for text in forged),
    ):
        with pytest.raises(InvalidInput, match="where a page of this list ended"):
            await attempt()


async def test_update_and_delete(new_wallets: NewWallets) -> None:
    """Labels change alone or together; a wallet with a key goes only where that is meant."""
    wallets = await new_wallets()
    wallet = await wallets.create(network="ethereum", name="a")
    assert (await wallets.update(wallet.id, name="b")).name == "b"
    changed = await wallets.update(wallet.id, wallet_type="hot")
    assert (changed.name, changed.wallet_type) == ("b", "hot")
    assert (await wallets.update(wallet.id, name=None)).name is None
    with pytest.raises(OwnerNotFound):
        await wallets.update(wallet.id, user_id=uuid4())
    with pytest.raises(InvalidInput):
        await wallets.update(wallet.id, wallet_type="")
    with pytest.raises(KeyWouldBeLost):
        await wallets.delete(wallet.id)
    await wallets.sign_transaction(wallet.id, TRANSACTION)
    await wallets.delete(wallet.id, destroy_key=True)
    for absent in (wallet.id, uuid4(), UUID(int=0)):
        with pytest.raises(WalletNotFound):
            await wallets.delete(absent, destroy_key=True)
        with pytest.raises(WalletNotFound):
            await wallets.update(absent, name="c")
    watched = await wallets.watch(network="ethereum", address=ADDRESS)
    await wallets.delete(watched.id)
    actions = [action for action, *_ in await entries(wallets)]
    assert actions == [
        "CREATE", "UPDATE", "UPDATE", "UPDATE", "EXECUTE", "DELETE", "CREATE", "DELETE",
    ]  # fmt: skip


async def test_signing_is_audited_with_its_hash(new_wallets: NewWallets) -> None:
    """Each use of a key leaves an entry with what was signed; a refused one uses no key."""
    wallets = await new_wallets()
    wallet = await wallets.import_key(network="ethereum", private_key=KEY)
    signed = await wallets.sign_transaction(wallet.id, TRANSACTION)
    assert Account.recover_transaction(signed.raw) == ADDRESS
    message = await wallets.sign_message(wallet.id, "hello")
    with pytest.raises(TransactionRefused):
        await wallets.sign_transaction(wallet.id, TRANSACTION | {"chainId": 5})
    created, *uses = await entries(wallets)
    assert created[:2] == (
        "CREATE",
        {
            "network": "ethereum",
            "address": ADDRESS.lower(),
            "custody": "custodial",
            "wallet_type": "custodial",
            "name": None,
            "user_id": None,
        },
    )
    assert uses == [
        (
            "EXECUTE",
            {"operation": "sign_transaction", "transaction_hash": signed.transaction_hash},
            True,
            None,
        ),
        (
            "EXECUTE",
            {"operation": "sign_message", "message_hash": message.message_hash},
            True,
            None,
        ),
    ]


async def test_D_a_message_that_is_no_text_is_refused(new_wallets: NewWallets) -> None:
    """A lone surrogate has no bytes to sign: one clear error, and nothing is signed."""
    wallets = await new_wallets()
    wallet = await wallets.create(network="ethereum")
    with pytest.raises(InvalidInput, match="no encoding"):
        await wallets.sign_message(wallet.id, "half \ud83d")


async def test_signing_for_neo(new_wallets: NewWallets) -> None:
    """A transaction as nodes write it gets this wallet's witness; there is no EIP-191 there."""
    wallets = await new_wallets()
    wallet = await wallets.import_key(network="neo-n3", private_key=NEO_KEY)
    transaction = {
        "nonce": 1,
        "sender": NEO_ADDRESS,
        "sysfee": "1",
        "netfee": "1",
        "validuntilblock": 10,
        "signers": [{"account": wallet.script_hash, "scopes": "CalledByEntry"}],
        "script": "EQ==",
    }
    signed = await wallets.sign_transaction(wallet.id, transaction)
    assert signed.raw is not None and signed.witness is not None
    with pytest.raises(NotSupported):
        await wallets.sign_message(wallet.id, "hello")


async def test_a_neo_key_goes_out_and_comes_in(new_wallets: NewWallets) -> None:
    """As NEP-2 text, which a wallet on another network takes; the export is audited as such."""
    wallets = await new_wallets()
    wallet = await wallets.create(network="neo-n3")
    text = await wallets.export_keystore(wallet.id, password="correct horse battery")
    assert text.startswith("6P") and len(text) == 58
    again = await wallets.import_keystore(
        network="neo-n3-testnet", keystore=text, password="correct horse battery"
    )
    assert again.address == wallet.address
    found = await wallets.scope.fetch(
        "SELECT changes ->> 'kdf' FROM audit.entries WHERE action = 'READ'"
    )
    assert found == [("nep2",)]


async def test_wallets_without_a_key_do_not_sign(new_wallets: NewWallets) -> None:
    """Watch-only and hardware wallets have nothing to sign or export with."""
    wallets = await new_wallets()
    for wallet in (
        await wallets.watch(network="ethereum", address=ADDRESS),
        await wallets.add_hardware(network="sepolia", public_key=PUBLIC_KEY),
    ):
        for attempt in (
            lambda wallet=wallet: wallets.sign_transaction(wallet.id, TRANSACTION),
            lambda wallet=wallet: wallets.sign_message(wallet.id, "hello"),
            lambda wallet=wallet: wallets.export_keystore(wallet.id, password="x" * 20),
        ):
            with pytest.raises(KeyNotHeld, match="not held here"):
                await attempt()


async def test_a_keystore_goes_out_and_comes_in(new_wallets: NewWallets) -> None:
    """Exported by one tenant and imported by another, it is the same key; the export is audited."""
    ann, bob = await new_wallets(), await new_wallets()
    wallet = await ann.create(network="ethereum")
    text = await ann.export_keystore(wallet.id, password="correct horse battery", kdf="pbkdf2")
    with pytest.raises(KeystoreError):
        await bob.import_keystore(network="ethereum", keystore=text, password="wrong")
    theirs = await bob.import_keystore(
        network="ethereum", keystore=text, password="correct horse battery"
    )
    assert theirs.address == wallet.address
    assert (await entries(ann))[-1][:2] == (
        "READ",
        {"operation": "export_keystore", "kdf": "pbkdf2"},
    )


async def test_the_database_keeps_what_a_wallet_is(
    new_wallets: NewWallets, chain_admin: Connection
) -> None:
    """Whoever writes: identity and custody stay; a bare key, a twin form, a bad key are refused."""
    wallets = await new_wallets()
    held = await wallets.create(network="ethereum")
    watched = await wallets.watch(network="sepolia", address=ADDRESS)
    other = await wallets.watch(network="neo-n3", address=NEO_ADDRESS)
    columns = {
        "id": uuid4(),
        "tenant_id": uuid4(),
        "network_id": other.network.id,
        "address": "0x" + "11" * 20,
        "public_key": "02" + "11" * 32,
        "is_hardware": True,
        "created_at": "2020-01-01T00:00:00Z",
    }
    for column, value in columns.items():
        for wallet in (held, watched):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                await chain_admin.execute(
                    f"UPDATE blockchain.wallets SET {column} = %s WHERE id = %s",  # type: ignore[arg-type]
                    (value, wallet.id),
                )
    sealed = "encrypted_private_key = %s, key_id = %s"
    for wallet, values in ((watched, ("x" * 100, "k/1")), (held, (None, None))):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            await chain_admin.execute(
                f"UPDATE blockchain.wallets SET {sealed} WHERE id = %s", (*values, wallet.id)
            )
    with pytest.raises(psycopg.errors.CheckViolation):
        await chain_admin.execute(
            f"UPDATE blockchain.wallets SET {sealed} WHERE id = %s",
            ("0x" + "46" * 32, "k/1", held.id),
        )
    insert = (
        "INSERT INTO blockchain.wallets (tenant_id, network_id, address, wallet_type, is_hardware,"
        " encrypted_private_key, key_id) VALUES (%s, %s, %s, 'x', %s, %s, %s)"
    )
    tenant, evm, neo = wallets.scope.tenant, held.network.id, other.network.id
    for values in (
        (tenant, neo, "0x69ecca587293047be4c59159bf8bc399985c160d", False, None, None),
        (tenant, evm, "NPTmAHDxo6Pkyic8Nvu3kwyXoYJCvcCB6i", False, None, None),
        (tenant, evm, "0x" + "22" * 20, True, "x" * 100, "k/1"),
        (tenant, evm, ADDRESS, False, None, None),
    ):
        with pytest.raises(psycopg.errors.CheckViolation):
            await chain_admin.execute(insert, values)
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        await chain_admin.execute(insert, (tenant, uuid4(), ADDRESS.lower(), False, None, None))
