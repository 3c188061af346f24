"""The verbs over a tenant's wallets.

    wallets = Wallets(scope, keyring)
    wallet = await wallets.create(network="ethereum", name="Treasury")
    signed = await wallets.sign_transaction(wallet.id, {"to": ..., "value": ..., ...})

A private key is sealed under the keyring before it is stored, bound to its tenant, network and
address, so that a ciphertext that was moved to another row does not open. It is opened for one
call, in that call, and no verb returns it: a key leaves only as a keystore under a password.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from psycopg.errors import ForeignKeyViolation

from neolayer.engines.postgres.queries import load_queries
from neolayer.errors import InvalidInput, NotSupported
from neolayer.keys import Keyring, key_id_of
from neolayer.tenancy import Scope
from neolayer.tenancy.cursors import Pages
from neolayer.tenancy.retrying import done_again
from neolayer.wallets import (
    evm_signing,
    keystores,
    movements,
    neo_signing,
    nep2,
    private_keys,
)
from neolayer.wallets.addresses import EVM, address_of, canonical, canonical_public_key, shown
from neolayer.wallets.held_keys import HeldKeys, binding
from neolayer.wallets.labels import checked_name, checked_type
from neolayer.wallets.labels import labels as labels_of
from neolayer.wallets.model import (
    Balance,
    Custody,
    KeyWouldBeLost,
    Movement,
    Network,
    NetworkNotFound,
    OwnerNotFound,
    Page,
    Signed,
    SignedMessage,
    Wallet,
    WalletExists,
    WalletNotFound,
)
from neolayer.wallets.paging import OLDEST, Place, require_limit
from neolayer.wallets.private_keys import PrivateKey
from neolayer.wallets.rows import known_wallet, note, wallet_of

sql = load_queries(__name__)
MAX_MESSAGE_BYTES = 65_536


class Unchanged:
    """Stands for a field that an update leaves as it is."""


UNCHANGED = Unchanged()


@dataclass(frozen=True, slots=True)
class Wallets:
    """The wallets of one tenant."""

    scope: Scope
    keyring: Keyring

    # Adding

    async def create(
        self,
        *,
        network: str,
        name: str | None = None,
        wallet_type: str | None = None,
        user_id: UUID | None = None,
    ) -> Wallet:
        """A wallet with a new key, held here. Raises NetworkNotFound."""
        chain = await self._network(network)
        key = private_keys.generate(chain.kind)
        return await self._hold(chain, key, labels_of(name, wallet_type, user_id))

    async def import_key(
        self,
        *,
        network: str,
        private_key: str,
        name: str | None = None,
        wallet_type: str | None = None,
        user_id: UUID | None = None,
    ) -> Wallet:
        """A wallet whose key is given: hex, or WIF on Neo N3. Raises InvalidInput, WalletExists."""
        chain = await self._network(network)
        key = private_keys.read(private_key, chain.kind)
        return await self._hold(chain, key, labels_of(name, wallet_type, user_id))

    async def import_keystore(
        self,
        *,
        network: str,
        keystore: str | bytes,
        password: str,
        name: str | None = None,
        wallet_type: str | None = None,
        user_id: UUID | None = None,
    ) -> Wallet:
        """A wallet whose key is in a keystore v3 (JSON), or on Neo N3 in NEP-2 text.

        Raises KeystoreError, WalletExists, TooManyDerivations.
        """
        chain = await self._network(network)
        opening: Any = keystores if chain.kind == EVM else nep2
        key = await opening.open_keystore(keystore, password, tenant=self.scope.tenant)
        return await self._hold(chain, key, labels_of(name, wallet_type, user_id))

    async def watch(
        self,
        *,
        network: str,
        address: str,
        public_key: str | None = None,
        name: str | None = None,
        wallet_type: str | None = None,
        user_id: UUID | None = None,
    ) -> Wallet:
        """A wallet that is only looked at. A public key, where given, must be the address's."""
        chain = await self._network(network)
        found = canonical(address, chain.kind)
        point = _matching(public_key, found, chain.kind)
        labels = labels_of(name, wallet_type, user_id)
        return await self._add(chain, found, Custody.WATCH_ONLY, point, None, labels)

    async def add_hardware(
        self,
        *,
        network: str,
        public_key: str,
        address: str | None = None,
        name: str | None = None,
        wallet_type: str | None = None,
        user_id: UUID | None = None,
    ) -> Wallet:
        """A wallet whose key is in a device; its address follows from the public key."""
        chain = await self._network(network)
        point = canonical_public_key(public_key, chain.kind)
        found = address_of(point, chain.kind)
        if address is not None:
            _matching(public_key, canonical(address, chain.kind), chain.kind)
        labels = labels_of(name, wallet_type, user_id)
        return await self._add(chain, found, Custody.HARDWARE, point.hex(), None, labels)

    # Looking

    async def get(self, wallet_id: UUID) -> Wallet:
        """One wallet. Raises WalletNotFound, alike for an absent and another tenant's."""
        return known_wallet(await self.scope.one(sql.wallet, {"wallet_id": wallet_id}))

    async def find(self, *, network: str, address: str) -> Wallet:
        """The wallet of an address. Raises NetworkNotFound, InvalidInput, WalletNotFound."""
        chain = await self._network(network)
        values = {"network": network, "address": canonical(address, chain.kind)}
        return known_wallet(await self.scope.one(sql.wallet_of_address, values))

    async def list(
        self,
        *,
        network: str | None = None,
        user_id: UUID | None = None,
        after: str | None = None,
        limit: int = 100,
    ) -> Page[Wallet]:
        """A page of wallets, oldest first; `after` is where the page before ended."""
        pages = Pages(self.scope, "wallets", {"network": network, "user_id": user_id})
        place = OLDEST if after is None else Place.read(after, pages)
        values = {
            "network": network,
            "user_id": user_id,
            "after_time": "-infinity" if after is None else place.time,
            "after_id": UUID(place.key),
            "limit": require_limit(limit) + 1,
        }
        found = [wallet_of(row) for row in await self.scope.fetch(sql.wallets, values)]
        page = found[:limit]
        last = Place(page[-1].created_at, 0, str(page[-1].id)) if len(found) > limit else None
        return Page(tuple(page), None if last is None else last.text(pages))

    async def transactions(
        self, wallet_id: UUID, *, after: str | None = None, limit: int = 50
    ) -> Page[Movement]:
        """A page of what a wallet sent and received, newest first. Raises WalletNotFound."""
        return await movements.transactions(self.scope, wallet_id, after=after, limit=limit)

    async def balance(self, wallet_id: UUID, *, as_of_block: int | None = None) -> Balance:
        """What the stored transactions moved, up to a block. Raises WalletNotFound."""
        return await movements.balance(self.scope, wallet_id, as_of_block=as_of_block)

    # Changing

    async def update(
        self,
        wallet_id: UUID,
        *,
        name: str | Unchanged | None = UNCHANGED,
        wallet_type: str | Unchanged = UNCHANGED,
        user_id: UUID | Unchanged | None = UNCHANGED,
    ) -> Wallet:
        """Rename a wallet, file it under another type, or give it to a user (None: to nobody)."""
        asked = {"name": name, "wallet_type": wallet_type, "user_id": user_id}
        changes = {key: value for key, value in asked.items() if not isinstance(value, Unchanged)}
        if isinstance(changes.get("name"), str):
            changes["name"] = checked_name(str(changes["name"]))
        if "wallet_type" in changes:
            changes["wallet_type"] = checked_type(str(changes["wallet_type"]))
        flags = {f"set_{key}": key in changes for key in asked}
        values = {key: changes.get(key) for key in asked}
        with _owner_at_the_door():
            async with self.scope.transaction() as tx:
                params = {"wallet_id": wallet_id, **values, **flags}
                if await tx.one(sql.update_wallet, params) is None:
                    raise WalletNotFound
                note(tx, "UPDATE", wallet_id, {key: _plain(v) for key, v in changes.items()})
                return known_wallet(await tx.one(sql.wallet, {"wallet_id": wallet_id}))

    @done_again
    async def delete(self, wallet_id: UUID, *, destroy_key: bool = False) -> None:
        """Take a wallet away; its transactions stay. Raises WalletNotFound.

        A wallet whose key is held here is deleted with `destroy_key` only, because the key is gone
        then: KeyWouldBeLost otherwise.
        """
        values = {"wallet_id": wallet_id, "destroy_key": destroy_key}
        async with self.scope.transaction() as tx:
            row = await tx.one(sql.delete_wallet, values)
            if row is None:
                wallet = known_wallet(await tx.one(sql.wallet, {"wallet_id": wallet_id}))
                raise KeyWouldBeLost(
                    f"deleting {wallet.shown_address} destroys its private key",
                    hint="export a keystore first, then say that the key may be destroyed",
                )
            note(tx, "DELETE", wallet_id, {"address": row[0]})

    # Using the key

    async def sign_transaction(self, wallet_id: UUID, transaction: Mapping[str, Any]) -> Signed:
        """The transaction signed, and an audit entry with its hash; nothing is sent anywhere.

        On EVM networks it is a JSON-RPC transaction object of type 0, 1 or 2 with all fees and the
        nonce; on Neo N3 one as nodes write it, without witnesses. Raises TransactionRefused (for
        another chain, too), KeyNotHeld, WalletNotFound, KeyringError.
        """
        wallet, sealed = await self._keys.sealed(wallet_id)
        signing: Any = evm_signing if wallet.network.kind == EVM else neo_signing
        if wallet.network.kind == EVM:
            evm_signing.require_library()
        item = signing.read(transaction, network=wallet.network, address=wallet.address)
        key = await self._keys.open(wallet, sealed, "sign_transaction")
        signed: Signed = await asyncio.to_thread(signing.sign, item, key)
        await self._keys.used(
            wallet, "sign_transaction", {"transaction_hash": signed.transaction_hash}
        )
        return signed

    async def sign_message(self, wallet_id: UUID, message: str | bytes) -> SignedMessage:
        """A message signed as EIP-191 says (`personal_sign`). EVM networks only."""
        try:
            raw = message.encode() if isinstance(message, str) else message
        except UnicodeEncodeError:
            raise InvalidInput(
                "the message holds half a character, which no encoding has"
            ) from None
        if len(raw) > MAX_MESSAGE_BYTES:
            raise InvalidInput(f"a message has at most {MAX_MESSAGE_BYTES} bytes")
        wallet, sealed = await self._keys.sealed(wallet_id)
        _require_evm(wallet.network, "an EIP-191 signature")
        evm_signing.require_library()
        key = await self._keys.open(wallet, sealed, "sign_message")
        signed = await asyncio.to_thread(evm_signing.sign_message, raw, key)
        await self._keys.used(wallet, "sign_message", {"message_hash": signed.message_hash})
        return signed

    async def export_keystore(
        self, wallet_id: UUID, *, password: str, kdf: keystores.Kdf = "scrypt"
    ) -> str:
        """The key under a password: a keystore v3 as JSON text, or on Neo N3 as NEP-2 text.

        `kdf` is of a keystore v3; NEP-2 has its own. Raises InvalidInput for a short password.
        """
        wallet, sealed = await self._keys.sealed(wallet_id)
        if wallet.network.kind == EVM:
            keystores.require_library()
        key = await self._keys.open(wallet, sealed, "export_keystore")
        if wallet.network.kind == EVM:
            form = str(kdf)
            made = await keystores.make_keystore(key, password, kdf=kdf, tenant=self.scope.tenant)
        else:
            form = "nep2"
            made = await nep2.make_keystore(key, password, tenant=self.scope.tenant)
        await self._keys.used(wallet, "export_keystore", {"kdf": form}, action="READ")
        return made

    # Within

    @property
    def _keys(self) -> HeldKeys:
        return HeldKeys(self.scope, self.keyring)

    async def _network(self, name: str) -> Network:
        row = await self.scope.one(sql.network, {"name": name})
        if row is None:
            raise NetworkNotFound(
                f"network {name[:60]!r} is not known",
                hint="neolayer status lists them; the first block of one makes it known",
            )
        return Network(*row)

    async def _hold(self, chain: Network, key: PrivateKey, labels: dict[str, Any]) -> Wallet:
        """Store a wallet with its key, sealed."""
        point, address = await asyncio.to_thread(lambda: (key.public_key(), key.address()))
        bound_to = self._binding(chain, address)
        sealed = await self.keyring.seal(key.reveal(), bound_to=bound_to)
        return await self._add(chain, address, Custody.CUSTODIAL, point.hex(), sealed, labels)

    @done_again
    async def _add(
        self,
        chain: Network,
        address: str,
        custody: Custody,
        public_key: str | None,
        sealed: str | None,
        labels: dict[str, Any],
    ) -> Wallet:
        key_id = None if sealed is None else key_id_of(sealed)
        labels = labels | {"wallet_type": labels["wallet_type"] or str(custody)}
        values = {
            "tenant_id": self.scope.tenant,
            "network_id": chain.id,
            "address": address,
            "public_key": public_key,
            "encrypted_private_key": sealed,
            "key_id": key_id,
            "is_hardware": custody is Custody.HARDWARE,
            **labels,
        }
        with _owner_at_the_door():
            async with self.scope.transaction() as tx:
                row = await tx.one(sql.insert_wallet, values)
                if row is None:
                    raise WalletExists(
                        f"there is a wallet {shown(address)} on {chain.name} already"
                    )
                wallet_id, created_at = row
                said = {"network": chain.name, "address": address, "custody": str(custody)}
                note(tx, "CREATE", wallet_id, said | {k: _plain(v) for k, v in labels.items()})
        return Wallet(
            id=wallet_id,
            network=chain,
            address=address,
            custody=custody,
            public_key=public_key,
            key_id=key_id,
            created_at=created_at,
            **labels,
        )

    def _binding(self, chain: Network, address: str) -> dict[str, str]:
        return binding(self.scope.tenant, chain.id, address)


@contextmanager
def _owner_at_the_door() -> Generator[None]:
    """The database's word for a user who is not there, in ours."""
    try:
        yield
    except ForeignKeyViolation as exc:
        if exc.diag.constraint_name != "wallets_user_fkey":
            raise
        raise OwnerNotFound from None


def _matching(public_key: str | None, address: str, kind: str) -> str | None:
    """The public key's stored form. Raises InvalidInput where it is another address's."""
    if public_key is None:
        return None
    point = canonical_public_key(public_key, kind)
    if address_of(point, kind) != address:
        raise InvalidInput("the public key is not that of the address")
    return point.hex()


def _require_evm(chain: Network, what: str) -> None:
    if chain.kind != EVM:
        raise NotSupported("wallets", f"{what} is for EVM networks, and {chain.name} is none")


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, UUID) else value
