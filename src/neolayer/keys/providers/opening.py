"""From settings to a keyring."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path

from pydantic import SecretStr

from neolayer.engines.endpoints import Endpoints
from neolayer.errors import SettingsError
from neolayer.keys.keyring import Keyring
from neolayer.keys.provider import KeyProvider
from neolayer.keys.providers.environment import EnvironmentKeys
from neolayer.keys.providers.file import FileKeys
from neolayer.keys.providers.master import MasterKey
from neolayer.keys.providers.successive import SuccessiveKeys
from neolayer.settings import SERVICES, KeySettings


@asynccontextmanager
async def open_keyring(
    settings: KeySettings, data_dir: Path, endpoints: Endpoints | None = None
) -> AsyncGenerator[Keyring]:
    """The keyring that the settings ask for, for the length of the block.

    `endpoints` say where the database is in which AWS KMS's and Vault's providers keep locked keys.
    Raises SettingsError, EngineUnavailable, KeyringError.
    """
    wanted = [settings.provider]
    if settings.earlier not in (None, settings.provider):
        wanted.append(settings.earlier)
    async with AsyncExitStack() as stack:
        guarded = await _guarded(settings, [k for k in wanted if k in SERVICES], endpoints, stack)
        found = [_local(settings, kind, data_dir) or guarded for kind in wanted]
        providers = [provider for provider in dict.fromkeys(found) if provider is not None]
        match providers:
            case [provider]:
                yield Keyring(provider)
            case [provider, earlier, *_]:
                yield Keyring(SuccessiveKeys(provider, earlier))
            case _:
                raise SettingsError(f"keys.provider {settings.provider!r} cannot be opened")


def _local(settings: KeySettings, kind: str, data_dir: Path) -> KeyProvider | None:
    if kind == "file":
        return FileKeys(data_dir / "keys")
    if kind == "environment":
        key = _required(settings.key, "keys.key", kind, hint="openssl rand -base64 32 makes one")
        return EnvironmentKeys(key, [each.get_secret_value() for each in settings.previous])
    return None


async def _guarded(
    settings: KeySettings,
    kinds: Iterable[str],
    endpoints: Endpoints | None,
    stack: AsyncExitStack,
) -> KeyProvider | None:
    """Both services, where a layer moves from one to the other, unlock keys of one table."""
    kinds = list(kinds)
    if not kinds:
        return None
    if endpoints is None:
        raise SettingsError(f"keys.provider {kinds[0]!r} keeps locked keys in the database")
    # Loaded where it is used: an HTTP client takes a tenth of a second.
    from neolayer.keys.providers.guarded import Bounds, GuardedKeys
    from neolayer.keys.store import open_key_store

    masters = {kind: await stack.enter_async_context(_master(settings, kind)) for kind in kinds}
    store = await stack.enter_async_context(open_key_store(endpoints))
    bounds = Bounds(settings.cache_keys, settings.cache_seconds)
    return GuardedKeys(masters, kinds[0], store, bounds=bounds)


def _master(settings: KeySettings, kind: str) -> AbstractAsyncContextManager[MasterKey]:
    if kind == "aws-kms":
        from neolayer.keys.providers.aws_kms import open_aws_kms
        from neolayer.keys.providers.sigv4 import Credentials

        kms = settings.kms
        secret = _required(kms.secret_access_key, "keys.kms.secret_access_key", kind)
        token = kms.session_token
        return open_aws_kms(
            url=kms.url,
            key=_required(kms.key, "keys.kms.key", kind),
            credentials=Credentials(
                _required(kms.access_key_id, "keys.kms.access_key_id", kind),
                secret,
                _required(kms.region, "keys.kms.region", kind),
                None if token is None else token.get_secret_value(),
            ),
            timeout_s=settings.timeout_seconds,
        )
    from neolayer.keys.providers.vault_transit import open_vault_transit

    vault = settings.vault
    return open_vault_transit(
        url=_required(vault.url, "keys.vault.url", kind),
        mount=vault.mount,
        key=vault.key,
        token=_required(vault.token, "keys.vault.token", kind),
        namespace=vault.namespace,
        ca_file=vault.ca_file,
        timeout_s=settings.timeout_seconds,
    )


def _required(value: SecretStr | str | None, name: str, kind: str, *, hint: str = "") -> str:
    """The text of a setting. Raises SettingsError, with its variable, where it is unset."""
    if not value:
        variable = f"NEOLAYER_{name.replace('.', '__').upper()}"
        raise SettingsError(
            f"keys.provider {kind!r} needs {name}",
            hint=f"set {variable}" + (f" ({hint})" if hint else ""),
        )
    return value.get_secret_value() if isinstance(value, SecretStr) else value
