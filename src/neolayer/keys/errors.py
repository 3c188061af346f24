"""What can go wrong with keys. No message holds a key, a plaintext or a sealed text."""

from __future__ import annotations

from neolayer.errors import NeolayerError


class KeyringError(NeolayerError):
    """A secret cannot be sealed or opened."""


class UnreadableSeal(KeyringError):
    """This is no sealed text."""


class BrokenSeal(KeyringError):
    """A sealed text belongs to another row, or was altered."""


class MissingKey(KeyringError):
    """A secret is sealed under a key that we do not have."""

    def __init__(self, key_id: str, *, place: str, hint: str) -> None:
        super().__init__(f"the key {key_id} is not in {place}", hint=hint)
        self.key_id = key_id


class WrongKey(KeyringError):
    """A key bears the right name and does not open what was sealed under it."""

    def __init__(self, key_id: str, *, place: str) -> None:
        super().__init__(
            f"the key {key_id} in {place} is not the one that secrets were sealed under",
            hint=f"put the right {key_id} back; a secret sealed under a lost key is lost with it",
        )
        self.key_id = key_id


class KeysUnavailable(KeyringError):
    """Whoever keeps the keys does not answer, or refuses us."""


class LockRefused(KeyringError):
    """The service that keeps the master key says that it did not lock this."""
