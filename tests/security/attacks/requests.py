"""What there is to ask of the HTTP API, read from its own document: nothing is listed by hand."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

PASSWORD = "correct horse battery staple, thrice"
# Of a key of 43s, for the password above, derived by one round so that it opens at once.
KEYSTORE: dict[str, Any] = {
    "version": 3,
    "crypto": {
        "cipher": "aes-128-ctr",
        "cipherparams": {"iv": "00" * 16},
        "ciphertext": "f7acbe5ffc88f81941742b4dbf443dca3387e899c7fe7bbb16a137338549941d",
        "kdf": "pbkdf2",
        "kdfparams": {"c": 1, "dklen": 32, "prf": "hmac-sha256", "salt": "73616c74"},
        "mac": "b606ea97b8360725953914ff89a32a1ff0b2d145c254f0c421297d8ae82cc2af",
    },
}
# Values that get as far as the room; whatever else is required is made up from its type.
VALUES: dict[str, Any] = {
    "address": "0x" + "11" * 20,
    "because": "attack",
    "email": "attack@example.com",
    "enclaves": [],
    "keystore": json.dumps(KEYSTORE),
    "message": "attack",
    "name": "attack",
    "network": "ethereum",
    "password": PASSWORD,
    "permissions": ["users:read"],
    "private_key": "0x" + "42" * 32,
    "public_key": "0279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798",
    "tenant": "attack",
    "tier": "free",
    "transaction": {"nonce": "0x0"},
    "username": "attack",
}
NAMES = {"name": "member", "permission": "users:read"}
OWN, OPERATORS = "one's own", "operators"


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path: which ids it takes, and who may ask it."""

    method: str
    path: str
    permission: str | None  # None: whoever comes
    ids: tuple[str, ...]
    names: tuple[str, ...]
    queries: tuple[str, ...]
    body: dict[str, Any] | None
    body_ids: tuple[str, ...]

    @property
    def label(self) -> str:
        return f"{self.method} {self.path}"

    @property
    def reads(self) -> bool:
        return self.method == "GET"

    def url(self, values: dict[str, str]) -> str:
        """The path with values in the place of its parameters."""
        filled = NAMES | values
        return re.sub(r"\{(\w+)\}", lambda found: filled[found[1]], self.path)


def operations(document: dict[str, Any]) -> list[Operation]:
    """Everything below /v1."""
    found = [
        _operation(document, method.upper(), path, told)
        for path, item in document["paths"].items()
        if path.startswith("/v1/")
        for method, told in item.items()
        if isinstance(told, dict) and "responses" in told
    ]
    return sorted(found, key=lambda operation: operation.label)


def _operation(document: dict[str, Any], method: str, path: str, told: dict[str, Any]) -> Operation:
    parameters = told.get("parameters", [])
    in_path = [p for p in parameters if p["in"] == "path"]
    properties = _properties(document, told)
    return Operation(
        method=method,
        path=path,
        permission=told.get("x-permission"),
        ids=tuple(p["name"] for p in in_path if _is_id(p["schema"])),
        names=tuple(p["name"] for p in in_path if not _is_id(p["schema"])),
        queries=tuple(p["name"] for p in parameters if p["in"] == "query"),
        body=None if properties is None else dict(_sample(document, properties)),
        body_ids=tuple(name for name, told in (properties or {}).items() if _is_id(told[0])),
    )


def _properties(
    document: dict[str, Any], told: dict[str, Any]
) -> dict[str, tuple[dict[str, Any], bool]] | None:
    if "requestBody" not in told:
        return None
    schema = _resolve(document, told["requestBody"]["content"]["application/json"]["schema"])
    required = schema.get("required", [])
    return {name: (p, name in required) for name, p in schema["properties"].items()}


def _resolve(document: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    while (reference := schema.get("$ref")) is not None:
        schema = document["components"]["schemas"][reference.rsplit("/", 1)[1]]
    return schema


def _sample(
    document: dict[str, Any], properties: dict[str, tuple[dict[str, Any], bool]]
) -> Iterator[tuple[str, Any]]:
    made_up = {"string": "00", "integer": 1, "array": [], "object": {}, "boolean": False}
    for name, (schema, is_required) in properties.items():
        if is_required:
            yield name, VALUES.get(name, made_up[_resolve(document, schema)["type"]])


def _is_id(schema: dict[str, Any]) -> bool:
    return any(s.get("format") == "uuid" for s in (schema, *schema.get("oneOf", [])))
