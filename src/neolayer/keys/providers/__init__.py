"""Who keeps the keys: one file each, chosen by the setting `keys.provider`."""

from __future__ import annotations

from neolayer.keys.providers.opening import open_keyring

__all__ = ["open_keyring"]
