"""E12: what an audit entry may say, and what never gets into one."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Any, LiteralString
from uuid import UUID

import orjson
import pytest

from neolayer import audit
from neolayer.audit.changes import MOST_BYTES, checked, looks_secret
from neolayer.engines.postgres.parameters import Encoded
from neolayer.tenancy import Principal

CANARY = "canary-9f31"


class Recorder:
    """A transaction that keeps what was deferred."""

    tenant = UUID(int=7)
    by = Principal.user(UUID(int=8))

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}

    def defer(self, query: LiteralString, params: Encoded) -> None:
        names = re.findall(r"%\((\w+)\)s", query)
        texts = (None if value is None else value.decode() for value in params)
        self.values = dict(zip(names, texts, strict=True))


def append(**entry: Any) -> dict[str, Any]:
    recorder = Recorder()
    audit.append(recorder, audit.Entry(**{"action": "UPDATE", "resource": "user", **entry}))
    return recorder.values


@pytest.mark.parametrize(
    "name",
    [
        *("password", "new_password", "passwordHash", "PASSWORD", "mfa_secret", "totpSecret"),
        *("token", "access_token", "refreshTokens", "token_hash", "api_key", "apiKey"),
        *("apiKeys", "privateKey", "encrypted_private_key", "secret_key", "mnemonic", "seed"),
        *("recovery_codes", "recoveryCode", "otp", "sessionCookie", "authorization"),
        *("wrapped_key", "credentials", "keystore", "seed_phrase"),
    ],
)
def test_E12_a_secret_is_refused_by_its_name(name: str) -> None:
    """At any depth, as any kind of value, and the refusal does not tell it."""
    for changes in (
        {name: CANARY},
        {"a": {name: CANARY}},
        {"a": [{name: 123456}]},
        {name: {"from": CANARY, "to": None}},
        {name: [CANARY]},
        {name: CANARY.encode()},
    ):
        with pytest.raises(audit.NotAuditable) as refused:
            append(changes=changes)
        assert CANARY not in str(refused.value) + str(refused.value.hint)


@pytest.mark.parametrize(
    "value",
    [
        "-----BEGIN EC PRIVATE KEY-----\nMHcC",
        "$argon2id$v=19$m=65536",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0xx.sig",
        "xprv9s21ZrQH143K3QTDL4LXw2F7HEK3wJUD2nW2nRk4stbPy6cq3jPPqjiChkVvvNKmPGJxWUtg6LnF5",
        "postgresql://ann:canary@host/db",
        "nlk1." + "A" * 64,
    ],
)
def test_E12_an_unmistakable_secret_is_refused_under_any_name(value: str) -> None:
    """A private key, a password hash, a JSON web token, an extended key, a URL with a password, a
    bearer token of ours."""
    with pytest.raises(audit.NotAuditable):
        append(changes={"note": value})


def test_that_a_secret_changed_may_be_said() -> None:
    """A flag is not the secret, and neither are names that only sound like one."""
    said = {"password": True, "mfa_secret": None, "api_key_id": "7", "public_key": "02ab"}
    assert orjson.loads(append(changes=said)["changes"]) == said
    for name in ("secret_key_id", "token_family", "key_id", "status", "description", "passport"):
        assert not looks_secret(name), name


def test_values_become_plain_json() -> None:
    """Whatever a room has at hand is written as JSON says it."""

    class Tier(StrEnum):
        PRO = "pro"

    plain = checked(
        {
            "id": UUID(int=1),
            "at": datetime(2026, 1, 2, tzinfo=UTC),
            "for": timedelta(minutes=1),
            "amount": Decimal("1.10"),
            "big": 2**200,
            "tier": Tier.PRO,
            "roles": {"b", "a"},
            "pair": (1, None),
            "text": "a\x00b\ud800",
        }
    )
    assert plain == {
        "id": "00000000-0000-0000-0000-000000000001",
        "at": "2026-01-02T00:00:00+00:00",
        "for": 60.0,
        "amount": "1.10",
        "big": str(2**200),
        "tier": "pro",
        "roles": ["a", "b"],
        "pair": [1, None],
        "text": "a\\x00b\\ud800",
    }


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object(), b"bytes"])
def test_what_json_cannot_say_is_refused(value: object) -> None:
    """In one sentence, at append, rather than by the driver at COMMIT."""
    with pytest.raises(audit.NotAuditable, match="'field'"):
        append(changes={"field": value})


def test_no_entry_grows_without_bound() -> None:
    """Long and deep changes are refused; what strangers write is cut."""
    with pytest.raises(audit.NotAuditable, match="KiB"):
        append(changes={"text": "x" * MOST_BYTES})
    deep: dict[str, Any] = {}
    for _ in range(100):
        deep = {"a": deep}
    with pytest.raises(audit.NotAuditable, match="deep"):
        append(changes=deep)
    values = append(user_agent="x\x00" * 10_000, error_message="password=canary " * 10_000)
    assert len(values["user_agent"]) == 512 and "\x00" not in values["user_agent"]
    assert len(values["error_message"]) <= 2_000 and "canary" not in values["error_message"]


def test_addresses_are_made_fit_or_refused() -> None:
    """A zone is dropped, no address is none, and nonsense is told at once."""
    assert append(ip_address="fe80::1%eth0")["ip_address"] == "fe80::1"
    assert append(ip_address="")["ip_address"] is None
    with pytest.raises(audit.NotAuditable, match="no IP address"):
        append(ip_address="10.0.0.1, 10.0.0.2")


def test_who_acts_comes_from_the_transaction() -> None:
    """Tenant, principal and user are never the caller's to say."""
    values = append(changes={"name": "x"})
    assert (values["tenant_id"], values["principal"], values["user_id"]) == (
        str(Recorder.tenant),
        str(Recorder.by),
        str(Recorder.by.user_id),
    )
    assert (values["changes"], values["success"]) == ('{"name":"x"}', "t")


def test_no_value_ends_early() -> None:
    """What is sent is text without NUL, where a room's own words or a principal's name bear one
    too: the driver takes what is encoded as it is, and libpq would cut it there."""
    values = append(
        action="UPDATE\0", resource="user\0x", resource_id="7\0", changes={"a\0": "b\0"}
    )
    assert not any("\0" in value for value in values.values() if value is not None)
    assert (values["action"], values["resource"]) == ("UPDATE\\x00", "user\\x00x")
