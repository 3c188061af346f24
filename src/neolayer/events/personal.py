"""Personal fields, and the sealed text that stands in their place wherever they are stored.

    class Opened(msgspec.Struct, frozen=True):
        customer_id: UUID        # the data subject
        owner: Personal          # text of that person

A personal field is text, encrypted under the key of one data subject:

    ps1.<subject>.<key's fingerprint>.<nonce and ciphertext>

The text says by itself whose it is, so it can be copied as it is into snapshots, read models and
streams; nobody but a reader who opens it ever has the plain text. With the subject's key gone every
copy, wherever it was carried, reads as `Erased`.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import TypeAlias, cast
from uuid import UUID

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from msgspec import inspect

from neolayer.keys import BrokenSeal

FORMAT = "ps1"
_NONCE_BYTES = 12


class Erased(msgspec.Struct, frozen=True):
    """What stands where a personal value was whose key has been deleted."""


Personal: TypeAlias = str | Erased

Keys = Mapping[UUID, bytes]


def personal_fields(kind: type[msgspec.Struct]) -> tuple[str, ...]:
    """The fields of a type that are `Personal` (or `Personal | None`), by whatever name."""
    return tuple(one.name for one in _fields_of(kind) if _is_personal(one.type))


def misplaced_personal(kind: type[msgspec.Struct]) -> str | None:
    """The first field that holds `Personal` where nothing would seal it: within a list, a mapping,
    another Struct or another event of its own type, or beside other types."""
    return next(
        (
            one.name
            for one in _fields_of(kind)
            if not _is_personal(one.type) and _holds_personal(one.type, set())
        ),
        None,
    )


@lru_cache(maxsize=1_000)
def _fields_of(kind: type[msgspec.Struct]) -> tuple[inspect.Field, ...]:
    """As msgspec reads them: NewTypes, type variables and forward references resolved."""
    return cast("inspect.StructType", inspect.type_info(kind)).fields


def _is_personal(info: inspect.Type) -> bool:
    parts = [part for part in _alternatives(info) if not isinstance(part, inspect.NoneType)]
    return len(parts) == 2 and inspect.StrType() in parts and any(map(_is_erased, parts))


def _alternatives(info: inspect.Type) -> Iterator[inspect.Type]:
    if isinstance(info, inspect.Metadata):  # a title, a description
        yield from _alternatives(info.type)
    elif isinstance(info, inspect.UnionType):
        for part in info.types:
            yield from _alternatives(part)
    else:
        yield info


def _is_erased(info: object) -> bool:
    return isinstance(info, inspect.StructType) and info.cls is Erased


def _holds_personal(info: object, seen: set[int]) -> bool:
    """Whether there is personal text anywhere in what a type describes."""
    if _is_erased(info):
        return True
    if id(info) in seen:
        return False
    seen.add(id(info))
    return any(_holds_personal(part, seen) for part in _parts(info))


def _parts(info: object) -> Iterable[object]:
    if isinstance(info, tuple):
        return cast("tuple[object, ...]", info)
    if isinstance(info, inspect.Type | inspect.Field):
        return (getattr(info, name) for name in info.__struct_fields__)
    return ()


def seal_text(
    plain: str, key: bytes, *, tenant: UUID, subject: UUID, within: bytes | None = None
) -> str:
    """The sealed text of a value: another one each time, or always the same `within` one place.

    An event that is given twice under one id must be the same twice. Its nonce then follows from
    key, place and value, so that no two values share one.
    """
    nonce = secrets.token_bytes(_NONCE_BYTES) if within is None else _nonce(plain, key, within)
    sealed = nonce + AESGCM(key).encrypt(nonce, plain.encode(), _binding(tenant, subject))
    body = base64.urlsafe_b64encode(sealed).rstrip(b"=").decode("ascii")
    return f"{FORMAT}.{subject.hex}.{_fingerprint(key)}.{body}"


def subject_of(text: str) -> UUID | None:
    """Whose a sealed text is; None where it is no sealed text."""
    parts = text.split(".")
    if len(parts) != 4 or parts[0] != FORMAT:
        return None
    try:
        return UUID(hex=parts[1])
    except ValueError:
        return None


def open_text(text: str, keys: Keys, *, tenant: UUID) -> str | Erased:
    """The value, or `Erased` where its key is gone. What is not sealed is returned as it is.

    Raises BrokenSeal where the text was altered or belongs to another tenant.
    """
    subject = subject_of(text)
    if subject is None:
        return text
    _, _, fingerprint, body = text.split(".")
    key = keys.get(subject)
    if key is None or fingerprint != _fingerprint(key):
        return Erased()
    try:
        sealed = base64.urlsafe_b64decode(body + "=" * (-len(body) % 4))
        nonce, ciphertext = sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:]
        return AESGCM(key).decrypt(nonce, ciphertext, _binding(tenant, subject)).decode()
    except (InvalidTag, ValueError, binascii.Error):
        raise BrokenSeal(
            f"a personal value of subject {subject} does not belong to tenant {tenant},"
            " or was altered"
        ) from None


def _binding(tenant: UUID, subject: UUID) -> bytes:
    return tenant.bytes + subject.bytes


def _nonce(plain: str, key: bytes, within: bytes) -> bytes:
    own_key = hashlib.sha256(b"nonce" + key).digest()
    place = len(within).to_bytes(4, "big") + within
    return hmac.digest(own_key, place + plain.encode(), "sha256")[:_NONCE_BYTES]


def _fingerprint(key: bytes) -> str:
    """Tells a subject's new key from the one before it, and gives nothing of either away."""
    return hashlib.sha256(b"fingerprint" + key).hexdigest()[:8]
