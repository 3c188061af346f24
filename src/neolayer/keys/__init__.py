"""Secrets at rest: sealed under a data key each, which a versioned key wraps."""

from __future__ import annotations

from neolayer.keys.errors import (
    BrokenSeal,
    KeyringError,
    KeysUnavailable,
    MissingKey,
    UnreadableSeal,
    WrongKey,
)
from neolayer.keys.keyring import Keyring
from neolayer.keys.seal import key_id_of

__all__ = [
    "BrokenSeal",
    "Keyring",
    "KeyringError",
    "KeysUnavailable",
    "MissingKey",
    "UnreadableSeal",
    "WrongKey",
    "key_id_of",
]
