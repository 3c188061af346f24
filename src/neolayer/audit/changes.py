"""What may stand in an entry: plain JSON, no secret, nothing that the database cannot hold.

An entry cannot be changed afterwards, so a secret that gets into one stays for ever. A field whose
name says that it is one is refused, and the transaction with it: `{"password": True}` tells that it
was changed, `{"password": "..."}` what it is. Unmistakable values are refused under any name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from functools import lru_cache
from ipaddress import ip_address
from math import isfinite
from typing import Any, Final
from uuid import UUID

import orjson

from neolayer.errors import InvalidInput, visible

MOST_BYTES: Final = 64 * 1024
_MOST_DEPTH: Final = 16
_SHORT: Final = 64

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_SECRETS: Final = frozenset(
    (
        *("password", "passwd", "pwd", "passphrase", "passcode", "secret", "token", "jwt"),
        *("mnemonic", "seed", "otp", "totp", "hotp", "credential", "cookie", "authorization"),
        *("bearer", "plaintext", "keystore"),
    )
)
_SECRET_PAIRS: Final = frozenset(
    f"{kind} {noun}"
    for noun, kinds in {
        "key": "api private secret signing encryption session data master access wrapped",
        "code": "recovery backup verification reset otp totp mfa",
        "phrase": "pass seed recovery",
    }.items()
    for kind in kinds.split()
)
# Words that leave a secret one: its hash can be tried against, its ciphertext kept for later.
_FORMS: Final = frozenset(
    (
        *("hash", "digest", "value", "text", "plain", "clear", "raw", "old", "new", "encrypted"),
        *("sealed", "ciphertext", "envelope", "hex"),
    )
)
_SECRET_VALUE = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY"
    r"|\$argon2(id|i|d)\$"
    r"|\beyJ[\w-]{8,}\.eyJ[\w-]{8,}\."
    r"|\b[xyz]prv[1-9A-HJ-NP-Za-km-z]{50,}"
    r"|\bnl[srk]1\.[\w-]{64}"
    r"|://[^/\s:@]+:[^/\s@]+@"
)
# What every such value holds.
_SECRET_MARK = re.compile(r"-----B|\$arg|eyJ|prv|nl[srk]1|://")


class NotAuditable(InvalidInput):
    """An entry holds what the audit trail may not."""


def as_json(changes: Mapping[str, Any]) -> bytes:
    """The changes as JSON. Raises NotAuditable on a secret, and on what JSON cannot say."""
    text = orjson.dumps(checked(changes))
    if len(text) > MOST_BYTES:
        raise NotAuditable(f"an entry's changes are longer than {MOST_BYTES // 1024} KiB")
    return text


def checked(changes: Mapping[str, Any]) -> dict[str, Any]:
    """The same as plain JSON, whatever its length. Raises NotAuditable."""
    return _object(changes, (), secret=False)


@lru_cache(maxsize=4096)  # the same few names, in every entry
def looks_secret(name: str) -> bool:
    """Whether a field of that name would hold a secret: `mfa_secret`, `apiKey`, `token_hash`.

    `secret_key_id`, `token_family` and `public_key` do not.
    """
    words = [word.lower().removesuffix("s") for word in _WORD.findall(name)]
    while len(words) > 1 and (words[-1] in _FORMS or words[-1].isdigit()):
        words.pop()
    return bool(words) and (words[-1] in _SECRETS or " ".join(words[-2:]) in _SECRET_PAIRS)


def text(value: str | None, *, longest: int) -> str | None:
    """What a stranger may have written, with controls as escapes, cut to `longest` characters."""
    return None if value is None else visible(value)[:longest]


@lru_cache(maxsize=4096)
def address(value: str | None) -> str | None:
    """An IP address as the database takes it, without a zone. Raises NotAuditable."""
    if not value:
        return None
    try:
        return str(ip_address(value.partition("%")[0]))
    except ValueError:
        raise NotAuditable(f"no IP address: {visible(value)[:80]!r}") from None


def _object(value: Mapping[Any, Any], path: tuple[str, ...], *, secret: bool) -> dict[str, Any]:
    plain: dict[str, Any] = {}
    for key, item in value.items():
        name = str(key)
        hidden = secret or looks_secret(name)
        plain[name] = _value(item, (*path, name), secret=hidden)
    return plain


def _value(value: Any, path: tuple[str, ...], *, secret: bool) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if secret:
        raise NotAuditable(
            f"{'.'.join(path)!r} would put a secret into the audit trail",
            hint="name the field that changed, never its value",
        )
    if len(path) > _MOST_DEPTH:
        raise NotAuditable("an entry's changes are nested too deep")
    if type(value) is str:  # nearly all are, alone or in a list: an Enum may be one too
        return _string(value, path)
    if type(value) is list:
        return [_value(item, path, secret=False) for item in value]  # pyright: ignore[reportUnknownVariableType]
    match value:
        case Enum():
            return _value(value.value, path, secret=False)
        case Mapping():
            return _object(value, path, secret=False)  # pyright: ignore[reportUnknownArgumentType]
        case list() | tuple():
            return [_value(item, path, secret=False) for item in value]  # pyright: ignore[reportUnknownVariableType]
        case set() | frozenset():
            return sorted(_value(item, path, secret=False) for item in value)  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
        case _:
            return _scalar(value, path)


def _string(value: str, path: tuple[str, ...]) -> str:
    if len(value) <= _SHORT and _is_harmless(value):
        return value
    # The first look costs a tenth of the second, and finds nothing nearly always.
    if _SECRET_MARK.search(value) and _SECRET_VALUE.search(value):
        raise NotAuditable(f"{'.'.join(path)!r} holds a secret")
    return visible(value)


@lru_cache(maxsize=4096)  # names of fields and states, in every entry
def _is_harmless(value: str) -> bool:
    return value.isprintable() and not _SECRET_MARK.search(value)


def _scalar(value: Any, path: tuple[str, ...]) -> Any:
    match value:
        case str():
            return _string(value, path)
        case int():
            return value if -(2**63) <= value < 2**63 else str(value)
        case float() if isfinite(value):
            return value
        case UUID() | Decimal():
            return str(value)
        case datetime() | date():
            return value.isoformat()
        case timedelta():
            return value.total_seconds()
        case _:
            kind = type(value).__name__
            raise NotAuditable(f"{'.'.join(path)!r} is {kind}, which no entry can hold")
