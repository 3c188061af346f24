"""Wallets: addresses of a tenant, the keys it entrusts to us, and what they did on chain."""

from __future__ import annotations

from neolayer.wallets.held_keys import binding
from neolayer.wallets.keystores import MAX_KEYSTORE_BYTES
from neolayer.wallets.model import (
    Balance,
    Custody,
    KeyNotHeld,
    KeystoreError,
    KeyWouldBeLost,
    Movement,
    NetworkNotFound,
    OwnerNotFound,
    Page,
    Signed,
    SignedMessage,
    TransactionRefused,
    Wallet,
    WalletExists,
    WalletNotFound,
)
from neolayer.wallets.store import MAX_MESSAGE_BYTES, UNCHANGED, Unchanged, Wallets

__all__ = [
    "MAX_KEYSTORE_BYTES",
    "MAX_MESSAGE_BYTES",
    "UNCHANGED",
    "Balance",
    "Custody",
    "KeyNotHeld",
    "KeyWouldBeLost",
    "KeystoreError",
    "Movement",
    "NetworkNotFound",
    "OwnerNotFound",
    "Page",
    "Signed",
    "SignedMessage",
    "TransactionRefused",
    "Unchanged",
    "Wallet",
    "WalletExists",
    "WalletNotFound",
    "Wallets",
    "binding",
]
