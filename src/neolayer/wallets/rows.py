"""Rows as wallets, and audit entries about them."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from neolayer import audit
from neolayer.tenancy import Transaction
from neolayer.wallets.model import Custody, Network, Wallet, WalletNotFound


def wallet_of(row: tuple[Any, ...]) -> Wallet:
    """A wallet from the columns that this room's queries return."""
    wallet_id, network_id, network, kind, chain_id, address, name, wallet_type, *rest = row
    is_hardware, has_key, public_key, user_id, key_id, created_at = rest
    held = Custody.CUSTODIAL if has_key else Custody.WATCH_ONLY
    return Wallet(
        id=wallet_id,
        network=Network(network_id, network, kind, chain_id),
        address=address,
        name=name,
        wallet_type=wallet_type,
        custody=Custody.HARDWARE if is_hardware else held,
        public_key=public_key,
        user_id=user_id,
        key_id=key_id,
        created_at=created_at,
    )


def known_wallet(row: tuple[Any, ...] | None) -> Wallet:
    """The same. Raises WalletNotFound where there is no row."""
    if row is None:
        raise WalletNotFound
    return wallet_of(row)


def note(
    tx: Transaction,
    action: audit.Action,
    wallet_id: UUID,
    changes: dict[str, Any],
    *,
    error: str | None = None,
) -> None:
    """An audit entry about a wallet, in the transaction of what it tells."""
    entry = audit.Entry(
        action, "wallet", str(wallet_id), changes, success=error is None, error_message=error
    )
    audit.append(tx, entry)
