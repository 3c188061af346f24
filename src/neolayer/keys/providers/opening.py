"""From settings to a keyring."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from neolayer.errors import SettingsError
from neolayer.keys.keyring import Keyring
from neolayer.keys.providers.environment import EnvironmentKeys
from neolayer.keys.providers.file import FileKeys
from neolayer.settings import KeySettings


@asynccontextmanager
async def open_keyring(settings: KeySettings, data_dir: Path) -> AsyncGenerator[Keyring]:
    """The keyring that the settings ask for. Raises SettingsError, KeyringError."""
    match settings.provider:
        case "file":
            yield Keyring(FileKeys(data_dir / "keys"))
        case "environment":
            if settings.key is None:
                raise SettingsError(
                    "keys.provider is 'environment' and there is no key",
                    hint="set NEOLAYER_KEYS__KEY to the output of: openssl rand -base64 32",
                )
            key = settings.key.get_secret_value()
            yield Keyring(EnvironmentKeys(key, [k.get_secret_value() for k in settings.previous]))
