"""The face of a service that keeps a master key: AWS KMS, Vault's Transit engine.

A master key never leaves its service. It locks the keys that seal our secrets, and those lie
locked in a table of ours. `context` says which key is locked; the service wants the same again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

Context = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class LockedKey:
    """A key as the service gave it back, and the master key that locks it."""

    locked_by: str
    text: str = field(repr=False)


class MasterKey(Protocol):
    """One service. Every verb raises KeysUnavailable where it does not answer, or refuses us."""

    async def generate(self, context: Context) -> tuple[bytes, LockedKey]:
        """A fresh 256-bit key, and the same locked."""
        ...

    async def encrypt(self, key: bytes, context: Context) -> LockedKey:
        """The key, locked by the newest version of the master key."""
        ...

    async def decrypt(self, locked: LockedKey, context: Context) -> bytes:
        """The key again. Raises LockRefused where it was locked otherwise."""
        ...

    async def reencrypt(self, locked: LockedKey, context: Context) -> LockedKey:
        """The same key under the newest master key, unseen by us. Raises LockRefused."""
        ...
