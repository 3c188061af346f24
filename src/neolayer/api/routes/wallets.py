"""Wallets: holding keys, watching addresses, signing. Amounts are decimal strings."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from litestar import Router, delete, get, patch, post
from litestar.params import FromQuery, JSONBody, QueryParameter
from msgspec import UNSET, Meta, Struct, UnsetType

from neolayer.api.fields import Body, Hex, Id, Line, Secret
from neolayer.api.layer import DEPENDENCIES, Acme, Asking, requires
from neolayer.api.leaving import while_connected
from neolayer.api.pages import After, PageSize
from neolayer.wallets import (
    MAX_KEYSTORE_BYTES,
    MAX_MESSAGE_BYTES,
    UNCHANGED,
    Balance,
    Movement,
    Page,
    Wallet,
)


class _Labels(Body, kw_only=True):
    network: Line
    name: Line | None = None
    wallet_type: Line | None = None
    user_id: UUID | None = None


class NewWallet(_Labels, kw_only=True):
    """A wallet with a new key, held here."""


class WatchedWallet(_Labels, kw_only=True):
    """An address to look at."""

    address: Line
    public_key: Hex | None = None


class HardwareWallet(_Labels, kw_only=True):
    """A key in a device."""

    public_key: Hex
    address: Line | None = None


class ImportedWallet(_Labels, kw_only=True):
    """A key that is given: hex, or WIF on Neo N3."""

    private_key: Secret


class ImportedKeystore(_Labels, kw_only=True):
    keystore: Annotated[str, Meta(max_length=MAX_KEYSTORE_BYTES)]
    password: Secret


class WalletPatch(Body, kw_only=True):
    name: Line | UnsetType | None = UNSET
    wallet_type: Line | UnsetType = UNSET
    user_id: UUID | UnsetType | None = UNSET


class TransactionBody(Body, kw_only=True):
    """A transaction as a node's JSON-RPC writes it."""

    transaction: dict[str, Any]


class MessageBody(Body, kw_only=True):
    message: Annotated[str, Meta(max_length=MAX_MESSAGE_BYTES)]


class ExportBody(Body, kw_only=True):
    password: Secret


class WalletAnswer(Struct):
    """A wallet; the address as people write it."""

    id: UUID
    network: str
    address: str
    script_hash: str | None
    name: str | None
    wallet_type: str
    custody: str
    public_key: str | None
    user_id: UUID | None
    created_at: datetime


class Wallets(Struct):
    items: list[WalletAnswer]
    after: str | None


class MovementAnswer(Struct):
    direction: str
    transaction_hash: str
    from_address: str
    to_address: str | None
    value: str
    fee: str | None
    status: str
    block_number: int | None
    block_timestamp: datetime
    confirmation_count: int


class Movements(Struct):
    items: list[MovementAnswer]
    after: str | None


class BalanceAnswer(Struct):
    """What the stored transactions moved, in the smallest unit."""

    as_of_block: int | None
    amount: str
    received: str
    sent: str
    fees: str
    transactions_in: int
    transactions_out: int
    fees_unknown: int
    missing_blocks: int


class SignedAnswer(Struct):
    transaction_hash: str
    raw: str | None
    witness: dict[str, str] | None


class SignatureAnswer(Struct):
    message_hash: str
    signature: str


class KeystoreAnswer(Struct):
    keystore: str


@get("/", **requires("wallets:read"))
async def list_wallets(
    acme: Acme, network: FromQuery[str | None] = None, after: After = None, limit: PageSize = 100
) -> Wallets:
    """Wallets, oldest first."""
    page = await acme.wallets.list(network=network, after=after, limit=limit)
    return Wallets([_told(wallet) for wallet in page.items], page.after)


@post("/", **requires("wallets:create"))
async def create(acme: Acme, data: JSONBody[NewWallet]) -> WalletAnswer:
    """A wallet with a new key that never leaves."""
    return _told(await acme.wallets.create(**_labels(data)))


@post("/watched", **requires("wallets:create"))
async def watch(acme: Acme, data: JSONBody[WatchedWallet]) -> WalletAnswer:
    """A wallet that is only looked at."""
    return _told(
        await acme.wallets.watch(address=data.address, public_key=data.public_key, **_labels(data))
    )


@post("/hardware", **requires("wallets:create"))
async def add_hardware(acme: Acme, data: JSONBody[HardwareWallet]) -> WalletAnswer:
    """A wallet whose key is in a device."""
    return _told(
        await acme.wallets.add_hardware(
            public_key=data.public_key, address=data.address, **_labels(data)
        )
    )


@post("/imported", **requires("wallets:create"))
async def import_key(acme: Acme, data: JSONBody[ImportedWallet]) -> WalletAnswer:
    """A wallet whose key is given."""
    return _told(await acme.wallets.import_key(private_key=data.private_key, **_labels(data)))


@post("/keystores", **requires("wallets:create"))
async def import_keystore(
    request: Asking, acme: Acme, data: JSONBody[ImportedKeystore]
) -> WalletAnswer:
    """A wallet whose key is in a keystore v3."""
    importing = acme.wallets.import_keystore(
        keystore=data.keystore, password=data.password, **_labels(data)
    )
    return _told(await while_connected(request, importing))


@get("/{wallet_id:uuid}", **requires("wallets:read"))
async def show(acme: Acme, wallet_id: Id) -> WalletAnswer:
    """One wallet."""
    return _told(await acme.wallets.get(wallet_id))


@patch("/{wallet_id:uuid}", **requires("wallets:update"))
async def change(acme: Acme, wallet_id: Id, data: JSONBody[WalletPatch]) -> WalletAnswer:
    """Another name, type or owner (null: nobody)."""
    changed = await acme.wallets.update(
        wallet_id,
        name=UNCHANGED if isinstance(data.name, UnsetType) else data.name,
        wallet_type=UNCHANGED if isinstance(data.wallet_type, UnsetType) else data.wallet_type,
        user_id=UNCHANGED if isinstance(data.user_id, UnsetType) else data.user_id,
    )
    return _told(changed)


@delete("/{wallet_id:uuid}", **requires("wallets:delete"))
async def remove(acme: Acme, wallet_id: Id, destroy_key: FromQuery[bool] = False) -> None:
    """Take a wallet away; one whose key is held here only where its key may be destroyed."""
    await acme.wallets.delete(wallet_id, destroy_key=destroy_key)


@get("/{wallet_id:uuid}/transactions", **requires("wallets:read"))
async def transactions(
    acme: Acme, wallet_id: Id, after: After = None, limit: PageSize = 50
) -> Movements:
    """What came in and went out, newest first."""
    page: Page[Movement] = await acme.wallets.transactions(wallet_id, after=after, limit=limit)
    return Movements([_moved(movement) for movement in page.items], page.after)


@get("/{wallet_id:uuid}/balance", **requires("wallets:read"))
async def balance(
    acme: Acme,
    wallet_id: Id,
    as_of_block: Annotated[int | None, QueryParameter(ge=0, le=2**62)] = None,
) -> BalanceAnswer:
    """What the stored transactions moved, up to a block."""
    return _balance(await acme.wallets.balance(wallet_id, as_of_block=as_of_block))


@post("/{wallet_id:uuid}/transactions", **requires("wallets:sign"))
async def sign(acme: Acme, wallet_id: Id, data: JSONBody[TransactionBody]) -> SignedAnswer:
    """Sign a transaction; nothing is sent anywhere."""
    signed = await acme.wallets.sign_transaction(wallet_id, data.transaction)
    return SignedAnswer(signed.transaction_hash, signed.raw, signed.witness)


@post("/{wallet_id:uuid}/messages", **requires("wallets:sign"))
async def sign_message(acme: Acme, wallet_id: Id, data: JSONBody[MessageBody]) -> SignatureAnswer:
    """Sign a message as EIP-191 says."""
    signed = await acme.wallets.sign_message(wallet_id, data.message)
    return SignatureAnswer(signed.message_hash, signed.signature)


@post("/{wallet_id:uuid}/keystore", **requires("wallets:export"))
async def export(
    request: Asking, acme: Acme, wallet_id: Id, data: JSONBody[ExportBody]
) -> KeystoreAnswer:
    """The key as a keystore v3 under a password."""
    exporting = acme.wallets.export_keystore(wallet_id, password=data.password)
    return KeystoreAnswer(await while_connected(request, exporting))


def _labels(data: _Labels) -> dict[str, Any]:
    return {
        "network": data.network,
        "name": data.name,
        "wallet_type": data.wallet_type,
        "user_id": data.user_id,
    }


def _told(wallet: Wallet) -> WalletAnswer:
    return WalletAnswer(
        id=wallet.id,
        network=wallet.network.name,
        address=wallet.shown_address,
        script_hash=wallet.script_hash,
        name=wallet.name,
        wallet_type=wallet.wallet_type,
        custody=str(wallet.custody),
        public_key=wallet.public_key,
        user_id=wallet.user_id,
        created_at=wallet.created_at,
    )


def _moved(movement: Movement) -> MovementAnswer:
    return MovementAnswer(
        direction=movement.direction,
        transaction_hash=movement.transaction_hash,
        from_address=movement.from_address,
        to_address=movement.to_address,
        value=str(movement.value),
        fee=None if movement.fee is None else str(movement.fee),
        status=movement.status,
        block_number=movement.block_number,
        block_timestamp=movement.block_timestamp,
        confirmation_count=movement.confirmation_count,
    )


def _balance(found: Balance) -> BalanceAnswer:
    return BalanceAnswer(
        as_of_block=found.as_of_block,
        amount=str(found.amount),
        received=str(found.received),
        sent=str(found.sent),
        fees=str(found.fees),
        transactions_in=found.transactions_in,
        transactions_out=found.transactions_out,
        fees_unknown=found.fees_unknown,
        missing_blocks=found.missing_blocks,
    )


router = Router(
    "/v1/wallets",
    route_handlers=[
        list_wallets,
        create,
        watch,
        add_hardware,
        import_key,
        import_keystore,
        show,
        change,
        remove,
        transactions,
        balance,
        sign,
        sign_message,
        export,
    ],
    dependencies=DEPENDENCIES,
    tags=["wallets"],
)
