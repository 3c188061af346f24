"""A master key in AWS KMS, or in whatever speaks its JSON protocol."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from neolayer.keys.errors import KeyringError, LockRefused
from neolayer.keys.keyset import KEY_BYTES
from neolayer.keys.providers.http import Answer, KeyService, open_service
from neolayer.keys.providers.master import Context, LockedKey
from neolayer.keys.providers.sigv4 import Credentials, signed

KIND = "aws-kms"
_BUSY = frozenset(
    {
        "ThrottlingException",
        "LimitExceededException",
        "KeyUnavailableException",
        "DependencyTimeoutException",
        "KMSInternalException",
    }
)
_NOT_LOCKED_SO = frozenset({"InvalidCiphertextException", "IncorrectKeyException"})
_HINTS = {
    "AccessDeniedException": "its key policy must allow kms:Encrypt, kms:Decrypt,"
    " kms:GenerateDataKey, kms:ReEncryptFrom and kms:ReEncryptTo",
    "DisabledException": "the key is disabled: enable it",
    "KMSInvalidStateException": "the key is being deleted: cancel its deletion while there is time",
    "NotFoundException": "there is no such key: check keys.kms.key and keys.kms.region",
    "ExpiredTokenException": "renew keys.kms.session_token",
    "UnrecognizedClientException": "check keys.kms.access_key_id and its secret",
    "InvalidSignatureException": "check keys.kms.secret_access_key, and this machine's clock",
    "IncompleteSignatureException": "check keys.kms.secret_access_key, and this machine's clock",
}
_TYPE = re.compile(r"(?:.*#)?([A-Za-z]{1,64})")


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class AwsKms:
    """One key of KMS, by id, ARN or alias."""

    service: KeyService
    key: str
    credentials: Credentials
    now: Callable[[], datetime] = _now

    async def generate(self, context: Context) -> tuple[bytes, LockedKey]:
        body = await self._ask(
            "GenerateDataKey", KeyId=self.key, KeySpec="AES_256", EncryptionContext=dict(context)
        )
        return self._plaintext(body), self._locked(body)

    async def encrypt(self, key: bytes, context: Context) -> LockedKey:
        text = base64.b64encode(key).decode()
        body = await self._ask(
            "Encrypt", KeyId=self.key, Plaintext=text, EncryptionContext=dict(context)
        )
        return self._locked(body)

    async def decrypt(self, locked: LockedKey, context: Context) -> bytes:
        body = await self._ask(
            "Decrypt",
            KeyId=locked.locked_by.removeprefix(f"{KIND}:"),
            CiphertextBlob=locked.text,
            EncryptionContext=dict(context),
        )
        return self._plaintext(body)

    async def reencrypt(self, locked: LockedKey, context: Context) -> LockedKey:
        body = await self._ask(
            "ReEncrypt",
            SourceKeyId=locked.locked_by.removeprefix(f"{KIND}:"),
            CiphertextBlob=locked.text,
            SourceEncryptionContext=dict(context),
            DestinationKeyId=self.key,
            DestinationEncryptionContext=dict(context),
        )
        return self._locked(body)

    async def _ask(self, verb: str, **body: object) -> Mapping[str, Any]:
        def headers(_: str, content: bytes) -> Mapping[str, str]:
            given = {
                "content-type": "application/x-amz-json-1.1",
                "x-amz-target": f"TrentService.{verb}",
            }
            return signed(
                self.credentials,
                service="kms",
                host=self.service.client.base_url.netloc.decode(),
                headers=given,
                content=content,
                at=self.now(),
            )

        answer = await self.service.ask("/", body, headers=headers, is_busy=_is_busy)
        if answer.status != 200:
            raise self._error(answer)
        return answer.body

    def _error(self, answer: Answer) -> KeyringError:
        kind = _type(answer)
        if kind in _NOT_LOCKED_SO:
            return LockRefused(f"{self.service.name} did not lock this key, or not in this place")
        reason = f"refuses ({kind or f'status {answer.status}'})"
        return self.service.refused(reason, hint=_HINTS.get(kind))

    def _plaintext(self, body: Mapping[str, Any]) -> bytes:
        try:
            key = base64.b64decode(body["Plaintext"], validate=True)
        except (KeyError, TypeError, binascii.Error, ValueError):
            key = b""
        if len(key) != KEY_BYTES:
            raise self.service.refused("gave something back that is no key of ours")
        return key

    def _locked(self, body: Mapping[str, Any]) -> LockedKey:
        key, text = body.get("KeyId"), body.get("CiphertextBlob")
        if not isinstance(key, str) or not isinstance(text, str) or not text:
            raise self.service.refused("gave no locked key back")
        return LockedKey(f"{KIND}:{key}", text)


def _type(answer: Answer) -> str:
    found = _TYPE.fullmatch(str(answer.body.get("__type", "")))
    return found[1] if found else ""


def _is_busy(answer: Answer) -> bool:
    return answer.status == 400 and _type(answer) in _BUSY


@asynccontextmanager
async def open_aws_kms(
    *, url: str | None, key: str, credentials: Credentials, timeout_s: float
) -> AsyncGenerator[AwsKms]:
    """The key of KMS in a region, or at `url`. Raises SettingsError."""
    address = url or f"https://kms.{credentials.region}.amazonaws.com"
    async with open_service("AWS KMS", address, timeout_s=timeout_s) as service:
        yield AwsKms(service, key, credentials)
