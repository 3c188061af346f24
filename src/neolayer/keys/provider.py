"""The face of whoever keeps the key-encryption keys.

A provider wraps data keys and never hands its own keys out. Every implementation is one file of
`providers/`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from neolayer.keys.names import KeyName


@dataclass(frozen=True, slots=True)
class WrappedKey:
    """A data key under the key of that name; worthless without it."""

    key: KeyName
    blob: bytes = field(repr=False)


class KeyProvider(Protocol):
    """Whoever keeps the keys. Every verb raises KeysUnavailable where it cannot be reached."""

    async def wrap(self, data_key: bytes) -> WrappedKey:
        """The data key under the current key."""
        ...

    async def unwrap(self, wrapped: WrappedKey) -> bytes:
        """The data key again. Raises MissingKey, WrongKey."""
        ...

    async def current(self) -> KeyName:
        """The key that seals from now on."""
        ...

    async def versions(self) -> tuple[KeyName, ...]:
        """Every key that can open, the current one last."""
        ...

    async def rotate(self) -> KeyName:
        """Make a new version and seal with it from now on; the earlier ones still open.

        Raises NotSupported where keys are made elsewhere.
        """
        ...

    async def relock(self) -> int:
        """Lock the keys themselves with the newest master key; how many, 0 where none locks them.

        After it, older versions of the master key and other services are no longer needed.
        """
        ...

    async def health(self) -> None:
        """Wrap and unwrap a throw-away key; raises whatever stands in the way."""
        ...
