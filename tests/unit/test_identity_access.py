"""Tokens and permissions as values."""

from __future__ import annotations

import base64
from uuid import uuid4

import pytest

from neolayer.errors import AccessDenied, InvalidInput, Unauthenticated
from neolayer.identity.access import Access
from neolayer.identity.permissions import require_permission_name
from neolayer.identity.session_tokens import Kind, new_salt, new_token, parse_token
from neolayer.telemetry import mask
from neolayer.tenancy import Principal

TENANT = uuid4()


@pytest.mark.parametrize("kind", list(Kind))
def test_a_token_says_its_tenant_and_is_read_back(kind: Kind) -> None:
    """256 random bits behind the tenant, and one spelling of it."""
    token = new_token(kind, TENANT)
    assert parse_token(token.text, kind) == token
    assert len(token.secret) * 8 == 256
    assert new_token(kind, TENANT).text != token.text


def test_E5_a_token_never_shows_in_repr_logs_and_errors() -> None:
    """Neither the value nor what the logger and the command line print holds the secret."""
    token = new_token(Kind.ACCESS, TENANT)
    assert token.text not in repr(token) + str(token)
    assert repr(token.secret) not in repr(token)
    secret = token.text.removeprefix("nls1.")
    for line in (f"GET /x?t={token.text}", f"Bearer {token.text} refused", repr(token.text)):
        assert secret not in mask(line)
    with pytest.raises(Unauthenticated) as refused:
        parse_token(token.text, Kind.REFRESH)
    assert token.text not in refused.value.message


def _jwt(header: bytes) -> str:
    parts = (header, b'{"sub":"admin","tenant":"%s"}' % str(TENANT).encode(), b"")
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nls1.",
        "nls1." + "A" * 63,
        "nls1." + "A" * 65,
        "nls1." + "=" * 64,
        "nls1." + "A" * 62 + "==",
        "nls1." + "+" * 64,
        "nls1." + "A" * 63 + "\n",
        "nls1." + "\u0661" * 64,
        "nls1." + "\ud800" * 64,
        "NLS1." + "A" * 64,
        "nls2." + "A" * 64,
        "nlr1." + "A" * 64,
        _jwt(b'{"alg":"none","typ":"JWT"}'),
        _jwt(b'{"alg":"HS256","kid":"../../dev/null"}'),
        _jwt(b'{"alg":"RS256","jku":"http://169.254.169.254/"}'),
        "A" * 1_000_000,
    ],
)
def test_E10_what_is_no_access_token_of_ours_is_refused(text: str) -> None:
    """Wrong lengths, alphabets and kinds, and JWTs of every sort: there is nothing to confuse."""
    with pytest.raises(Unauthenticated):
        parse_token(text, Kind.ACCESS, Kind.API_KEY)


def test_E6_a_child_is_the_same_for_the_same_salt_and_unlike_its_parent() -> None:
    """Derived from parent and salt together; access and refresh tokens differ."""
    parent, salt = new_token(Kind.REFRESH, TENANT), new_salt()
    child = parent.child(salt, Kind.REFRESH)
    assert child == parent.child(salt, Kind.REFRESH)
    others = {
        parent.secret,
        parent.child(new_salt(), Kind.REFRESH).secret,
        parent.child(salt, Kind.ACCESS).secret,
        new_token(Kind.REFRESH, TENANT).child(salt, Kind.REFRESH).secret,
    }
    assert len(others | {child.secret}) == 5


@pytest.mark.parametrize(
    ("held", "allowed", "refused"),
    [
        ({"wallets:sign"}, ["wallets:sign"], ["wallets:read", "users:sign", "*"]),
        ({"wallets:*"}, ["wallets:sign", "wallets:read"], ["wallet:sign", "users:read"]),
        ({"*:read"}, ["wallets:read", "users:read"], ["users:readx", "users:update"]),
        ({"*"}, ["wallets:sign", "anything:else"], []),
        (set(), [], ["wallets:read", ""]),
    ],
)
def test_access_allows_what_is_held(held: set[str], allowed: list[str], refused: list[str]) -> None:
    """A permission by itself, by its resource, by its action, or by everything."""
    access = Access(Principal.user(uuid4()), TENANT, frozenset(held))
    for permission in allowed:
        access.require(permission)
    for permission in refused:
        with pytest.raises(AccessDenied, match=f"permission {permission.replace('*', '.')}"):
            access.require(permission)


@pytest.mark.parametrize(
    "name", ["*", "wallets:*", "Wallets:sign", "wallets", "a:b:c", "a:b\n", ""]
)
def test_only_single_permissions_are_explained(name: str) -> None:
    """A wildcard is held, never asked for."""
    with pytest.raises(InvalidInput):
        require_permission_name(name)
