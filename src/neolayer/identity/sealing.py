"""What this room asks of whoever keeps the keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol
from uuid import UUID


class Sealer(Protocol):
    """Encrypts small secrets, each bound to where it belongs, so that none can stand elsewhere."""

    async def seal(self, plaintext: bytes, *, bound_to: Mapping[str, str]) -> str: ...
    async def open(self, sealed: str, *, bound_to: Mapping[str, str]) -> bytes: ...


def seed_binding(tenant: UUID | None, user_id: UUID) -> dict[str, str]:
    """Where the seed of a second factor belongs."""
    return {"purpose": "mfa-seed", "tenant": str(tenant), "user": str(user_id)}
