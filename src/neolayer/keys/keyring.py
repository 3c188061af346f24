"""Seal, open and re-wrap: what the rooms call.

sealed = await keyring.seal(seed, bound_to={"tenant": str(tenant), "user": str(user)})
seed = await keyring.open(sealed, bound_to={"tenant": str(tenant), "user": str(user)})
"""

from __future__ import annotations

from collections.abc import Mapping

from neolayer.keys import seal as seals
from neolayer.keys.keyset import new_key
from neolayer.keys.names import KeyName
from neolayer.keys.provider import KeyProvider


class Keyring:
    """Secrets under the keys of one provider."""

    def __init__(self, provider: KeyProvider) -> None:
        self._provider = provider

    def __repr__(self) -> str:
        return f"Keyring({type(self._provider).__name__})"

    @property
    def provider(self) -> KeyProvider:
        """Whoever keeps the keys: to show, check and rotate them."""
        return self._provider

    async def seal(self, plaintext: bytes, *, bound_to: Mapping[str, str]) -> str:
        """The secret as ASCII text, at most 255 characters for up to 64 bytes.

        `bound_to` says which row it belongs to, and `open` wants the same. Raises InvalidInput,
        KeysUnavailable.
        """
        data_key = new_key()
        wrapped = await self._provider.wrap(data_key)
        return str(seals.close(plaintext, data_key, wrapped, bound_to=bound_to))

    async def open(self, sealed: str, *, bound_to: Mapping[str, str]) -> bytes:
        """The secret again. Raises a KeyringError that names the key, and the way out.

        UnreadableSeal, MissingKey, WrongKey, BrokenSeal (another row's, or altered) and
        KeysUnavailable.
        """
        seal = seals.parse(sealed)
        data_key = await self._provider.unwrap(seal.wrapped)
        return seal.open(data_key, bound_to=bound_to)

    async def rewrap(self, sealed: str, *, bound_to: Mapping[str, str]) -> str:
        """The same ciphertext, its data key under the current key; unchanged if that is so already.

        It is opened on the way, so that a row that was tampered with keeps its old key. Raises as
        `open` does.
        """
        seal = seals.parse(sealed)
        data_key = await self._provider.unwrap(seal.wrapped)
        seal.open(data_key, bound_to=bound_to)
        if seal.wrapped.key == await self._provider.current():
            return sealed
        return str(seal.under(await self._provider.wrap(data_key)))

    async def current(self) -> KeyName:
        """The key that seals from now on."""
        return await self._provider.current()
