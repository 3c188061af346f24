"""The sealed text, and the envelope in it.

    nl1.<key id>.<key version>.<wrapped data key>.<nonce>.<ciphertext>

The value is encrypted with AES-256-GCM under a data key of its own, and the data key is wrapped by
the key named. What the text belongs to (tenant, user, address ...) is authenticated with it and not
stored in it: moved to another row, it does not open. The key's name is not authenticated, so that
re-wrapping leaves the ciphertext as it is; another name opens nothing.

Bytes of Python cannot be wiped, so plaintexts and keys stay in memory until it is used again.
"""

from __future__ import annotations

import base64
import binascii
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from neolayer.errors import InvalidInput
from neolayer.keys.errors import BrokenSeal, UnreadableSeal
from neolayer.keys.names import KeyName
from neolayer.keys.provider import WrappedKey

FORMAT = "nl1"
MOST_BYTES = 65_536
_NONCE_BYTES, _TAG_BYTES = 12, 16
_MOST_CHARACTERS = 2 * MOST_BYTES
_PART = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True, slots=True)
class Seal:
    """A sealed text, taken apart."""

    wrapped: WrappedKey
    nonce: bytes = field(repr=False)
    ciphertext: bytes = field(repr=False)

    def __str__(self) -> str:
        key = self.wrapped.key
        parts = (self.wrapped.blob, self.nonce, self.ciphertext)
        return ".".join([FORMAT, key.id, str(key.version), *map(_encode, parts)])

    def under(self, wrapped: WrappedKey) -> Seal:
        """The same ciphertext with its data key under another key."""
        return Seal(wrapped, self.nonce, self.ciphertext)

    def open(self, data_key: bytes, *, bound_to: Mapping[str, str]) -> bytes:
        """The plaintext. Raises BrokenSeal."""
        try:
            return AESGCM(data_key).decrypt(self.nonce, self.ciphertext, binding(bound_to))
        except (InvalidTag, ValueError):
            raise BrokenSeal(
                f"a secret under the key {self.wrapped.key} does not belong to"
                f" {', '.join(f'{name} {bound_to[name]}' for name in sorted(bound_to))},"
                " or was altered",
                hint="it was copied from another row, or the row was renamed: restore the row",
            ) from None


def close(
    plaintext: bytes, data_key: bytes, wrapped: WrappedKey, *, bound_to: Mapping[str, str]
) -> Seal:
    """Encrypt under a data key that is used for nothing else. Raises InvalidInput."""
    if len(plaintext) > MOST_BYTES:
        raise InvalidInput(f"a secret of {len(plaintext)} bytes is too long (most {MOST_BYTES})")
    nonce = secrets.token_bytes(_NONCE_BYTES)
    return Seal(wrapped, nonce, AESGCM(data_key).encrypt(nonce, plaintext, binding(bound_to)))


def binding(bound_to: Mapping[str, str]) -> bytes:
    """What a text belongs to, in one spelling: sorted by name, each part with its length.

    Without lengths `{"a": "bc"}` and `{"ab": "c"}` would be one binding. Raises InvalidInput.
    """
    if not bound_to or not all(bound_to) or not all(bound_to.values()):
        raise InvalidInput("a secret is bound to something that has a name and a value")
    parts = [FORMAT, *(part for pair in sorted(bound_to.items()) for part in pair)]
    encoded = [part.encode("utf-8") for part in parts]
    return b"".join(len(part).to_bytes(4, "big") + part for part in encoded)


def parse(sealed: str) -> Seal:
    """The text taken apart; one spelling only is accepted. Raises UnreadableSeal."""
    parts = sealed.split(".") if len(sealed) <= _MOST_CHARACTERS else []
    if len(parts) != 6 or parts[0] != FORMAT:
        raise UnreadableSeal(f"a sealed text has six parts and begins with {FORMAT}")
    key = KeyName.of(parts[1], parts[2])
    blob, nonce, ciphertext = map(_decode, parts[3:])
    if len(nonce) != _NONCE_BYTES or len(ciphertext) < _TAG_BYTES:
        raise UnreadableSeal("a part of a sealed text has been cut")
    return Seal(WrappedKey(key, blob), nonce, ciphertext)


def key_id_of(sealed: str) -> str:
    """Which key wraps the data key of a sealed text, as `id/version`. Raises UnreadableSeal."""
    return str(parse(sealed).wrapped.key)


def _encode(part: bytes) -> str:
    return base64.urlsafe_b64encode(part).rstrip(b"=").decode("ascii")


def _decode(part: str) -> bytes:
    if not _PART.fullmatch(part):
        raise UnreadableSeal("a part of a sealed text is not base64")
    try:
        decoded = base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
    except (binascii.Error, ValueError):
        raise UnreadableSeal("a part of a sealed text is not base64") from None
    if _encode(decoded) != part:
        raise UnreadableSeal("a part of a sealed text has another spelling than ours")
    return decoded
