"""Signatures of AWS requests, against the examples that AWS publishes."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from neolayer.keys.providers.sigv4 import Credentials, signed

SECRET = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"  # AWS's own example
AT = datetime(2015, 8, 30, 12, 36, tzinfo=UTC)


@pytest.mark.parametrize(
    ("method", "signature"),
    [
        ("GET", "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"),
        ("POST", "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"),
    ],
)
def test_signatures_are_those_of_the_published_suite(method: str, signature: str) -> None:
    """`get-vanilla` and `post-vanilla` of the Signature Version 4 test suite."""
    headers = signed(
        Credentials("AKIDEXAMPLE", SECRET, "us-east-1"),
        service="service",
        host="example.amazonaws.com",
        headers={},
        content=b"",
        at=AT,
        method=method,
    )
    assert headers["authorization"] == (
        "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, "
        f"SignedHeaders=host;x-amz-date, Signature={signature}"
    )


def test_the_sessions_token_is_signed_too() -> None:
    """Temporary credentials bring a token, which nobody can take off."""
    headers = signed(
        Credentials("AKIDEXAMPLE", SECRET, "us-east-1", "token"),
        service="kms",
        host="kms.us-east-1.amazonaws.com",
        headers={"X-Amz-Target": "TrentService.Decrypt"},
        content=b"{}",
        at=AT,
    )
    assert headers["x-amz-security-token"] == "token"
    assert "host;x-amz-date;x-amz-security-token;x-amz-target" in headers["authorization"]
    assert SECRET not in str(headers)


def test_E12_credentials_do_not_show() -> None:
    """repr has the id, which is no secret, and neither secret nor token."""
    assert repr(Credentials("AKIDEXAMPLE", SECRET, "r", "token")) == (
        "Credentials(access_key_id='AKIDEXAMPLE', region='r')"
    )
