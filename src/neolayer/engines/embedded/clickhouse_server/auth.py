"""Who may talk to this server: two users with passwords, and nobody from another host.

The password file is JSON (`{"neolayer": "...", "neolayer_read": "..."}`) or lines of
`user:password`; a single line without a colon is the password of the user named at start.
Any user but that one is a reader.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from neolayer.engines.embedded.clickhouse_server.faults import (
    AUTHENTICATION_FAILED,
    ClickHouseFault,
)
from neolayer.errors import SettingsError

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


@dataclass(frozen=True, slots=True)
class User:
    name: str
    may_write: bool


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a client presented; `name` is empty where it presented nothing."""

    name: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Users:
    owner: str
    passwords: Mapping[str, str] = field(repr=False)

    def authenticate(self, credentials: Credentials) -> User:
        """The user, or a fault that does not tell an unknown name from a wrong password."""
        if not credentials.name:
            raise _refused("no user given", status=401)
        known = self.passwords.get(credentials.name)
        expected = known if known is not None else credentials.password + "x"
        if not hmac.compare_digest(_bytes(expected), _bytes(credentials.password)):
            raise _refused(
                f"{credentials.name}: password is incorrect, or there is no user with such name"
            )
        return User(credentials.name, may_write=credentials.name == self.owner)


def load_users(file: Path, *, owner: str) -> Users:
    """Read the password file. Raises SettingsError, which never quotes the file's content."""
    try:
        text = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as exc:
        raise SettingsError(f"password file {file} cannot be read ({type(exc).__name__})") from exc
    passwords = _parse(text, owner)
    if owner not in passwords:
        raise SettingsError(f"password file {file} has no password for user {owner}")
    if not all(passwords.values()):
        raise SettingsError(f"password file {file} has an empty password")
    return Users(owner, passwords)


def read_credentials(headers: Mapping[str, str], params: Mapping[str, str]) -> Credentials:
    """From the X-ClickHouse headers, HTTP Basic or the URL, in that order."""
    if "X-ClickHouse-User" in headers or "X-ClickHouse-Key" in headers:
        name = headers.get("X-ClickHouse-User", "")
        return Credentials(name, headers.get("X-ClickHouse-Key", ""))
    if authorization := headers.get("Authorization"):
        return _basic(authorization)
    return Credentials(params.get("user", ""), params.get("password", ""))


def is_loopback(host_header: str | None) -> bool:
    """Whether a Host header names this machine's loopback: the guard against DNS rebinding."""
    if not host_header:
        return False
    host, _, port = host_header.rpartition(":")
    if not port.isdigit() or host.endswith(":"):
        host = host_header
    return host.strip("[]").lower() in LOOPBACK


def _bytes(text: str) -> bytes:
    return text.encode(errors="surrogateescape")


def _basic(authorization: str) -> Credentials:
    scheme, _, encoded = authorization.partition(" ")
    if scheme.lower() != "basic":
        raise _refused(f"the scheme {scheme[:20]!r} is not supported", status=401)
    try:
        name, _, password = base64.b64decode(encoded, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError) as exc:
        raise _refused("the Authorization header is malformed", status=401) from exc
    return Credentials(name, password)


def _refused(reason: str, *, status: int = 403) -> ClickHouseFault:
    return ClickHouseFault.of(
        AUTHENTICATION_FAILED, f"Authentication failed: {reason}", status=status
    )


def _parse(text: str, owner: str) -> dict[str, str]:
    if text.startswith("{"):
        try:
            loaded = json.loads(text)
        except json.JSONDecodeError:
            raise SettingsError("the password file is not valid JSON") from None
        return {str(name): str(value) for name, value in cast(dict[str, str], loaded).items()}
    lines = [line for line in text.splitlines() if line.strip()]
    if len(lines) == 1 and ":" not in lines[0]:
        return {owner: lines[0].strip()}
    pairs = (line.strip().partition(":") for line in lines)
    return {name: password for name, _, password in pairs}
