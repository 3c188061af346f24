"""AWS Signature Version 4, for a POST of JSON without a query.

https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

_ALGORITHM = "AWS4-HMAC-SHA256"


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who asks, in which region."""

    access_key_id: str
    secret_access_key: str = field(repr=False)
    region: str
    session_token: str | None = field(default=None, repr=False)


def signed(
    credentials: Credentials,
    *,
    service: str,
    host: str,
    headers: Mapping[str, str],
    content: bytes,
    at: datetime,
    method: str = "POST",
    path: str = "/",
) -> dict[str, str]:
    """The headers with a date, the session's token and the signature. `at` is in UTC."""
    stamp = f"{at:%Y%m%dT%H%M%SZ}"
    token = credentials.session_token
    given = {
        **{name.lower(): value for name, value in headers.items()},
        "host": host,
        "x-amz-date": stamp,
        **({} if token is None else {"x-amz-security-token": token}),
    }
    names = ";".join(sorted(given))
    lines = "".join(f"{name}:{' '.join(given[name].split())}\n" for name in sorted(given))
    digest = hashlib.sha256(content).hexdigest()
    request = "\n".join([method, path, "", lines, names, digest])
    scope = f"{stamp[:8]}/{credentials.region}/{service}/aws4_request"
    hashed = hashlib.sha256(request.encode()).hexdigest()
    signature = hmac.new(
        _signing_key(credentials.secret_access_key, scope),
        "\n".join([_ALGORITHM, stamp, scope, hashed]).encode(),
        hashlib.sha256,
    ).hexdigest()
    credential = f"Credential={credentials.access_key_id}/{scope}"
    given["authorization"] = (
        f"{_ALGORITHM} {credential}, SignedHeaders={names}, Signature={signature}"
    )
    return given


def _signing_key(secret: str, scope: str) -> bytes:
    key = f"AWS4{secret}".encode()
    for part in scope.split("/"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return key
