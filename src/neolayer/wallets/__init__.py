"""Wallets: addresses of a tenant, the keys it entrusts to us, and what they did on chain."""

from __future__ import annotations

from neolayer.wallets.held_keys import binding
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
from neolayer.wallets.store import UNCHANGED, Unchanged, Wallets

__all__ = [
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
