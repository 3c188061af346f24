"""Keys given by variables: `NEOLAYER_KEYS__KEY`, and earlier ones in `NEOLAYER_KEYS__PREVIOUS`.

A key is named after its own fingerprint, so that the order of the earlier ones does not matter and
a wrong one is never taken for another.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence

from neolayer.errors import NotSupported, SettingsError
from neolayer.keys.keyset import KeySet, key_of_text, try_out
from neolayer.keys.names import KeyName
from neolayer.keys.provider import WrappedKey


class EnvironmentKeys:
    """The current key and earlier ones, each 32 bytes in base64. Raises SettingsError."""

    def __init__(self, key: str, previous: Sequence[str] = ()) -> None:
        current = _read(key, "NEOLAYER_KEYS__KEY")
        others = [_read(text, "NEOLAYER_KEYS__PREVIOUS") for text in previous]
        self._set = KeySet(
            {_named(each): each for each in (*others, current)},
            _named(current),
            place="NEOLAYER_KEYS__KEY and NEOLAYER_KEYS__PREVIOUS",
            hint="add the key that was used before to NEOLAYER_KEYS__PREVIOUS, a JSON list",
        )

    async def wrap(self, data_key: bytes) -> WrappedKey:
        return self._set.wrap(data_key)

    async def unwrap(self, wrapped: WrappedKey) -> bytes:
        return self._set.unwrap(wrapped)

    async def current(self) -> KeyName:
        return self._set.current

    async def versions(self) -> tuple[KeyName, ...]:
        return self._set.names()

    async def rotate(self) -> KeyName:
        raise NotSupported(
            "keys",
            "a key from the environment is made by whoever sets it",
            hint="put a new key into NEOLAYER_KEYS__KEY and this one into NEOLAYER_KEYS__PREVIOUS,"
            " restart, then: neolayer keys rewrap",
        )

    async def relock(self) -> int:
        return 0

    async def health(self) -> None:
        await try_out(self)


def _read(text: str, variable: str) -> bytes:
    key = key_of_text(text)
    if key is None:
        raise SettingsError(
            f"{variable} holds a key that is not 32 bytes in base64",
            hint="make one with: openssl rand -base64 32",
        )
    return key


def _named(key: bytes) -> KeyName:
    """A fingerprint of 64 bits of a random key tells nothing about it."""
    digest = hmac.new(key, b"neolayer key-encryption key", hashlib.sha256).hexdigest()
    return KeyName(f"env-{digest[:16]}", 1)
