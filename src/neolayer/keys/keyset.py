"""Several versions of a key-encryption key in memory, and wrapping with them (RFC 3394).

AES key wrap checks its own integrity, so a wrong key is told from a row that was moved.
"""

from __future__ import annotations

import base64
import binascii
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap, aes_key_wrap

from neolayer.keys.errors import MissingKey, WrongKey
from neolayer.keys.names import KeyName
from neolayer.keys.provider import KeyProvider, WrappedKey

KEY_BYTES = 32


@dataclass(frozen=True, slots=True)
class KeySet:
    """Keys by name. `place` says to people where they are kept, `hint` what to do if one lacks."""

    keys: Mapping[KeyName, bytes] = field(repr=False)
    current: KeyName
    place: str
    hint: str

    def wrap(self, data_key: bytes) -> WrappedKey:
        """Under the current key."""
        return WrappedKey(self.current, aes_key_wrap(self.keys[self.current], data_key))

    def unwrap(self, wrapped: WrappedKey) -> bytes:
        """Under whichever key it names. Raises MissingKey, WrongKey."""
        key = self.keys.get(wrapped.key)
        if key is None:
            raise MissingKey(str(wrapped.key), place=self.place, hint=self.hint)
        return unwrap_under(key, wrapped, place=self.place)

    def names(self) -> tuple[KeyName, ...]:
        """Every key, the current one last."""
        others = sorted(
            (name for name in self.keys if name != self.current), key=lambda n: (n.id, n.version)
        )
        return (*others, self.current)


def unwrap_under(key: bytes, wrapped: WrappedKey, *, place: str) -> bytes:
    """The data key that this key wraps. Raises WrongKey."""
    try:
        return aes_key_unwrap(key, wrapped.blob)
    except (InvalidUnwrap, ValueError):
        raise WrongKey(str(wrapped.key), place=place) from None


def new_key() -> bytes:
    """A fresh 256-bit key."""
    return secrets.token_bytes(KEY_BYTES)


def key_as_text(key: bytes) -> str:
    """The key in base64, for a file or a variable."""
    return base64.b64encode(key).decode("ascii")


def key_of_text(text: str) -> bytes | None:
    """The key that `key_as_text` wrote; None where it is not 32 bytes in base64."""
    try:
        key = base64.b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError):
        return None
    return key if len(key) == KEY_BYTES else None


async def try_out(provider: KeyProvider) -> None:
    """Wrap and unwrap a throw-away key; raises whatever stands in the way."""
    data_key = new_key()
    wrapped = await provider.wrap(data_key)
    if not secrets.compare_digest(await provider.unwrap(wrapped), data_key):
        raise WrongKey(str(wrapped.key), place="this provider")
