"""What a webhook may be, what it is told, and how a delivery is signed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from neolayer.errors import InvalidInput
from neolayer.outbox import Announcement, announce
from neolayer.settings import WebhookSettings
from neolayer.webhooks.model import checked_types, checked_url, matches
from neolayer.webhooks.sending import _retry_after, policy_of
from neolayer.webhooks.signing import BadSignature, NoSecret, new_secret, read, shown, sign, verify

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
BODY = b'{"id":"e1"}'


class Transaction:
    """Takes what is announced."""

    tenant = UUID(int=7)

    def __init__(self) -> None:
        self.deferred: list[Any] = []

    def defer(self, query: str, params: Any) -> None:
        self.deferred.append(params)


@pytest.mark.parametrize(
    "told",
    [
        Announcement("Wal lets", key="k", type="t", data={}),
        Announcement("wallets", key="", type="t", data={}),
        Announcement("wallets", key="k" * 256, type="t", data={}),
        Announcement("wallets", key="a\nb", type="t", data={}),
        Announcement("wallets", key="k", type="a b", data={}),
        Announcement("wallets", key="k", type="t", data={"x": object()}),
        Announcement("wallets", key="k", type="t", data={"x": "y" * 300_000}),
    ],
)
def test_what_no_stream_would_take_is_refused(told: Announcement) -> None:
    """Before it is written: names, a key, JSON, and a size that every broker accepts."""
    tx = Transaction()
    with pytest.raises(InvalidInput):
        announce(tx, told)
    assert tx.deferred == []


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "ftp://acme.example/",
        "https://user:pass@acme.example/",
        "https://acme.example/#x",
        "https:///hooks",
        "https://xn--/",
        "https://acme.example:22/",
        "https://acme.example:65536/",
        "https://ac\nme.example/",
        "https://acme.example/\u202e",
        "https://" + "a" * 2050,
    ],
)
def test_E11_an_address_of_another_kind_is_refused(url: str) -> None:
    """Scheme, port and form are looked at where it is written."""
    with pytest.raises(InvalidInput):
        checked_url(url)


@pytest.mark.parametrize("types", [[], ["a b"], ["*.x"], ["wallet*"], ["x"] * 101])
def test_a_filter_is_types_and_their_beginnings(types: list[str]) -> None:
    """Nothing that could be read in two ways."""
    with pytest.raises(InvalidInput):
        checked_types(types)


@pytest.mark.parametrize(
    ("types", "event_type", "taken"),
    [
        (["*"], "wallet.created", True),
        (["wallet.*"], "wallet.created", True),
        (["wallet.*"], "wallets.created", False),
        (["wallet.*"], "wallet", False),
        (["wallet.created"], "wallet.created", True),
        (["wallet.created"], "wallet.created2", False),
    ],
)
def test_a_filter_takes_what_it_names(types: list[str], event_type: str, taken: bool) -> None:
    """A type, its beginning up to a dot, or all."""
    assert matches(types, event_type) is taken


def test_a_signature_is_that_of_standard_webhooks() -> None:
    """The vector of its specification: other people's libraries verify ours."""
    secret = read("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    body = b'{"test": 2432232314}'
    headers = sign(
        "msg_p5jXN8AQM9LWM0D4loKWxJek", body, datetime.fromtimestamp(1614265330, UTC), secret
    )
    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_a_delivery_is_proved_and_a_forged_one_refused() -> None:
    """Another body, id, time, secret or no signature at all; and one from ten minutes ago."""
    secret, other = new_secret(), new_secret()
    headers = sign("e1", BODY, NOW, secret)
    assert verify(headers, BODY, [shown(secret)], now=NOW) == "e1"
    assert verify(sign("e1", BODY, NOW, secret, other), BODY, [shown(other)], now=NOW) == "e1"
    late = NOW + timedelta(minutes=10)
    forged = [
        (headers, BODY + b" ", secret, NOW),
        (headers | {"webhook-id": "e2"}, BODY, secret, NOW),
        (headers | {"webhook-timestamp": str(int(late.timestamp()))}, BODY, secret, late),
        (headers | {"webhook-timestamp": "x"}, BODY, secret, NOW),
        (headers, BODY, other, NOW),
        (headers, BODY, secret, late),
        (headers, BODY, secret, NOW - timedelta(minutes=10)),
        (headers | {"webhook-signature": ""}, BODY, secret, NOW),
        ({}, BODY, secret, NOW),
    ]
    for given, body, key, now in forged:
        with pytest.raises(BadSignature):
            verify(given, body, [shown(key)], now=now)


def test_what_has_no_secret_is_not_signed() -> None:
    """An empty signature would be one that nobody can check."""
    with pytest.raises(NoSecret):
        sign("e1", BODY, NOW)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (None, None),
        ("120", 120),
        ("-5", 0),
        ("999999999999999999999", None),
        ("86400", 3600),
        ("Sun, 01 Mar 2026 12:01:00 GMT", 60),
        ("Sun, 01 Mar 2026 11:00:00 GMT", 0),
        ("soon", None),
        ("Mon, 01 Jan 99999999999999 00:00:00 GMT", None),
        ("Mon, 01 Jan 2026 00:00:00 +99999999999999", None),
    ],
)
def test_C7_how_long_an_answer_asks_us_to_wait(text: str | None, seconds: int | None) -> None:
    """Seconds or a date, an hour at most; what is neither is not obeyed."""
    wait = _retry_after(text, now=NOW)
    assert wait == (None if seconds is None else timedelta(seconds=seconds))


def test_networks_of_ones_own_are_named_in_the_settings() -> None:
    """And one that is none is refused in a sentence."""
    policy = policy_of(WebhookSettings(private_networks=("10.1.0.0/16",)))
    assert str(policy.private_networks[0]) == "10.1.0.0/16"
    with pytest.raises(Exception, match="private_networks"):
        policy_of(WebhookSettings(private_networks=("office",)))
