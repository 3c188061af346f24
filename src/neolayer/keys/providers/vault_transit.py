"""A master key in Vault's Transit engine, or in whatever speaks its HTTP protocol (OpenBao).

`context` counts for keys made with derived=true: each of our keys is then locked by a key of its
own, derived from the master key.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

import msgspec

from neolayer.keys.errors import KeyringError, LockRefused
from neolayer.keys.keyset import KEY_BYTES
from neolayer.keys.providers.http import Answer, KeyService, open_service
from neolayer.keys.providers.master import Context, LockedKey

KIND = "vault-transit"
# Vault's words -> what it means; anything else it says is not repeated.
_TOO_OLD = "disallowed by policy (too old)"
_NOT_LOCKED_SO = ("message authentication failed", "invalid ciphertext", "cipher: ")
_NO_KEY = "encryption key not found"


@dataclass(frozen=True, slots=True)
class VaultTransit:
    """One key of a Transit engine."""

    service: KeyService
    mount: str
    key: str
    token: str = field(repr=False)
    namespace: str | None = None

    async def generate(self, context: Context) -> tuple[bytes, LockedKey]:
        data = await self._ask("datakey/plaintext", self._place, context, bits=8 * KEY_BYTES)
        return self._plaintext(data), self._locked(data)

    async def encrypt(self, key: bytes, context: Context) -> LockedKey:
        text = base64.b64encode(key).decode()
        return self._locked(await self._ask("encrypt", self._place, context, plaintext=text))

    async def decrypt(self, locked: LockedKey, context: Context) -> bytes:
        place = locked.locked_by.removeprefix(f"{KIND}:")
        data = await self._ask("decrypt", place, context, ciphertext=locked.text)
        return self._plaintext(data)

    async def reencrypt(self, locked: LockedKey, context: Context) -> LockedKey:
        if locked.locked_by != f"{KIND}:{self._place}":  # Vault re-wraps within one key only
            return await self.encrypt(await self.decrypt(locked, context), context)
        data = await self._ask("rewrap", self._place, context, ciphertext=locked.text)
        return self._locked(data)

    @property
    def _place(self) -> str:
        return f"{self.mount}/{self.key}"

    async def _ask(
        self, verb: str, place: str, context: Context, **body: object
    ) -> Mapping[str, Any]:
        mount, _, key = place.rpartition("/")
        path = f"/v1/{quote(mount)}/{verb}/{quote(key, safe='')}"
        spelled = msgspec.json.encode(dict(context), order="sorted")
        content = {**body, "context": base64.b64encode(spelled).decode()}
        answer = await self.service.ask(path, content, headers=self._headers)
        data = answer.body.get("data")
        if answer.status != 200 or not isinstance(data, dict):
            raise self._error(answer, mount, key)
        return cast("Mapping[str, Any]", data)

    def _headers(self, _: str, __: bytes) -> Mapping[str, str]:
        namespace = {} if self.namespace is None else {"x-vault-namespace": self.namespace}
        return {"x-vault-token": self.token, "x-vault-request": "true", **namespace}

    def _error(self, answer: Answer, mount: str, key: str) -> KeyringError:
        said = str(answer.body.get("errors", ""))
        if answer.status == 400 and _TOO_OLD in said:
            return self.service.refused(
                f"no longer decrypts what an old version of its key {key} locked",
                hint=f"lower min_decryption_version of {key}, then: neolayer keys rewrap",
            )
        if answer.status == 400 and any(words in said for words in _NOT_LOCKED_SO):
            return LockRefused(f"{self.service.name} did not lock this key, or not in this place")
        if answer.status == 404 or _NO_KEY in said:
            return self.service.refused(
                f"has no key {key} at {mount}",
                hint=f"make it: vault write -f {mount}/keys/{key} derived=true",
            )
        if answer.status == 403:
            return self.service.refused(
                "refuses our token",
                hint=f"renew keys.vault.token; its policy must allow update on {mount}/encrypt,"
                f" decrypt, rewrap and datakey/plaintext of {key}",
            )
        return self.service.refused(f"refuses (status {answer.status})")

    def _plaintext(self, data: Mapping[str, Any]) -> bytes:
        try:
            key = base64.b64decode(data["plaintext"], validate=True)
        except (KeyError, TypeError, binascii.Error, ValueError):
            key = b""
        if len(key) != KEY_BYTES:
            raise self.service.refused("gave something back that is no key of ours")
        return key

    def _locked(self, data: Mapping[str, Any]) -> LockedKey:
        text = data.get("ciphertext")
        if not isinstance(text, str) or not text:
            raise self.service.refused("gave no locked key back")
        return LockedKey(f"{KIND}:{self._place}", text)


@asynccontextmanager
async def open_vault_transit(
    *,
    url: str,
    mount: str,
    key: str,
    token: str,
    namespace: str | None = None,
    ca_file: Path | None = None,
    timeout_s: float,
) -> AsyncGenerator[VaultTransit]:
    """The key of a Transit engine at `url`. Raises SettingsError."""
    async with open_service("Vault", url, timeout_s=timeout_s, ca_file=ca_file) as service:
        yield VaultTransit(service, mount, key, token, namespace)
