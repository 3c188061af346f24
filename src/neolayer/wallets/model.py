"""What the wallets room passes around: wallets, their movements, and what can go wrong."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Generic, TypeVar
from uuid import UUID

from neolayer.errors import Conflict, InvalidInput, NotFound, NotSupported
from neolayer.wallets.addresses import script_hash, shown

Item = TypeVar("Item")
MAX_NAME = 255


class WalletNotFound(NotFound):
    """There is no such wallet."""


class NetworkNotFound(NotFound):
    """There is no such network."""


class OwnerNotFound(NotFound):
    """There is no such user."""


class WalletExists(Conflict):
    """The tenant has a wallet of this address on this network already."""


class KeyNotHeld(Conflict):
    """This wallet's private key is not held here."""


class KeyWouldBeLost(Conflict):
    """Deleting this wallet destroys its private key."""


class KeystoreError(InvalidInput):
    """The keystore cannot be opened: a wrong password, or the file was changed."""


class TransactionRefused(InvalidInput):
    """The transaction is not one that this wallet may sign."""


def extra_missing(what: str) -> NotSupported:
    """What an installation without the extra answers."""
    return NotSupported(
        "wallets", f"{what} needs packages that are not here", hint="pip install neolayer[wallets]"
    )


class Custody(StrEnum):
    """Who holds the private key: this layer, a device, or somebody we only watch."""

    CUSTODIAL = "custodial"
    HARDWARE = "hardware"
    WATCH_ONLY = "watch-only"


@dataclass(frozen=True, slots=True)
class Network:
    """A wallet's chain. `kind` is `evm` or `neo-n3`; `chain_id` is N3's network magic there."""

    id: UUID
    name: str
    kind: str
    chain_id: int


@dataclass(frozen=True, slots=True)
class Wallet:
    """A wallet as stored, without its key. `address` is canonical: EVM lower-case, N3 base58."""

    id: UUID
    network: Network
    address: str
    name: str | None
    wallet_type: str
    custody: Custody
    public_key: str | None
    user_id: UUID | None
    key_id: str | None
    created_at: datetime

    @property
    def shown_address(self) -> str:
        """The address as people should see it: EIP-55 on EVM networks."""
        return shown(self.address)

    @property
    def script_hash(self) -> str | None:
        """The account's script hash on Neo N3, as nodes write it; None elsewhere."""
        return script_hash(self.address) if self.network.kind == "neo-n3" else None

    def plain(self) -> dict[str, Any]:
        """The wallet as JSON values, the address as shown."""
        return {
            "id": str(self.id),
            "network": self.network.name,
            "address": self.shown_address,
            "script_hash": self.script_hash,
            "name": self.name,
            "wallet_type": self.wallet_type,
            "custody": str(self.custody),
            "public_key": self.public_key,
            "user_id": None if self.user_id is None else str(self.user_id),
            "key_id": self.key_id,
            "created_at": self.created_at.isoformat(),
        }


@dataclass(frozen=True, slots=True)
class Page(Generic[Item]):
    """Some items in order; `after` asks for the next page and is None on the last."""

    items: tuple[Item, ...]
    after: str | None


@dataclass(frozen=True, slots=True)
class Signed:
    """A signed transaction. `raw` is what a node takes: hex on EVM networks, base64 on Neo N3.

    On Neo N3 `witness` is the wallet's, as a node writes it; `raw` is None where other accounts
    have to sign too.
    """

    transaction_hash: str
    raw: str | None
    witness: dict[str, str] | None = None


@dataclass(frozen=True, slots=True)
class SignedMessage:
    """An EIP-191 signature: 65 bytes as hex, and the hash that was signed."""

    message_hash: str
    signature: str


@dataclass(frozen=True, slots=True)
class Movement:
    """A transaction seen from a wallet. `direction` is `in`, `out` or `self`.

    `value` and `fee` are in the chain's smallest unit (wei, or fractions of GAS); a failed
    transaction's value did not move. `fee` is None where it is not known, such as while pending.
    """

    direction: str
    transaction_hash: str
    from_address: str
    to_address: str | None
    value: int
    fee: int | None
    status: str
    nonce: int | None
    block_number: int | None
    block_timestamp: datetime
    transaction_index: int | None
    confirmation_count: int


@dataclass(frozen=True, slots=True)
class Balance:
    """What the stored transactions up to block `as_of_block` moved, in the smallest unit.

    It is the sum of movements, not the account's state: value that contracts, rewards or the first
    block moved is in no transaction. `fees_unknown` counts sent transactions whose fee is not known
    whole; `missing_blocks` counts blocks from 0 to `as_of_block` that are not stored.
    """

    wallet_id: UUID
    as_of_block: int | None
    received: int
    sent: int
    fees: int
    transactions_in: int
    transactions_out: int
    fees_unknown: int
    missing_blocks: int

    @property
    def amount(self) -> int:
        """What came in less what went out and what it cost."""
        return self.received - self.sent - self.fees
