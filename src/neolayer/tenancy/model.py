"""Tenants as values, and the rules of their names; no I/O."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from neolayer.errors import Conflict, InvalidInput, LimitExceeded, NotFound, visible

_IDENTIFIER = re.compile(r"[a-z0-9]([a-z0-9-]{0,98}[a-z0-9])?")
_LARGEST_LIMIT = 10**12 - 1
SETTINGS_BYTES = 64 * 1024
# The id of no tenant: whoever asks for one that is not there is led here, and does the same work.
NOBODYS = UUID("00000000-0000-4000-8000-00000000ffff")


class Tier(StrEnum):
    """What a tenant pays for. The limits of each stand in the table core.tiers and nowhere else."""

    FREE = "free"
    BASIC = "basic"
    PRO = "pro"
    ENTERPRISE = "enterprise"


class Limit(StrEnum):
    """What is limited, by the name it bears in core.tiers and core.tenants.limits."""

    USERS = "users"
    WALLETS = "wallets"
    DOCUMENTS = "documents"
    WEBHOOKS = "webhooks"
    ANNOUNCEMENTS = "announcements"
    REQUESTS_PER_MINUTE = "requests_per_minute"


class TenantNotFound(NotFound):
    """There is no such tenant, or it is not yours to see."""


class IdentifierTaken(Conflict):
    """Another tenant bears this identifier, or bore it before it was deleted."""


# How a tenant makes room by itself where it cannot delete.
_ROOM: Mapping[str, str] = {Limit.ANNOUNCEMENTS: "the oldest go after 3 days"}


class TenantLimitExceeded(LimitExceeded):
    """A tenant has all of a resource that its tier allows. `limit` and `allowed` say which."""

    def __init__(self, limit: str, allowed: int) -> None:
        super().__init__(
            f"this tenant may have {allowed} {limit} and no more",
            hint=f"{_ROOM.get(limit, 'delete some')}, or have an operator run: "
            f"neolayer tenants limits TENANT {limit}=NUMBER (or tenants tier TENANT TIER)",
        )
        self.limit = limit
        self.allowed = allowed


@dataclass(frozen=True, slots=True)
class Tenant:
    """One tenant. `limits` holds what differs from its tier; None there means without a limit."""

    id: UUID
    name: str
    identifier: str
    tier: Tier
    settings: Mapping[str, Any]
    limits: Mapping[str, int | None]
    created_at: datetime
    updated_at: datetime
    deleted_at: datetime | None

    @property
    def is_deleted(self) -> bool:
        return self.deleted_at is not None


@dataclass(frozen=True, slots=True)
class Allowance:
    """What one limit allows (None: any number) and how much of it is used; rates have no use."""

    limit: str
    allowed: int | None
    used: int


def checked_name(name: str) -> str:
    """A name for people: 1 to 255 printable characters without blanks around. Raises InvalidInput.

    No line breaks and no marks that turn the direction of what stands beside it.
    """
    if not 0 < len(name) <= 255 or name != name.strip() or not name.isprintable():
        raise InvalidInput(
            f"no tenant can be named {visible(name)[:60]!r}",
            hint="1 to 255 printable characters, no blanks around",
        )
    return name


def checked_identifier(identifier: str) -> str:
    """The public name in addresses: a-z, 0-9 and dashes inside. Raises InvalidInput.

    It never looks like an id, so that a tenant can be named by either.
    """
    if not is_identifier(identifier) or as_id(identifier) is not None:
        raise InvalidInput(
            f"no tenant can have the identifier {visible(identifier)[:60]!r}",
            hint="1 to 100 of a-z, 0-9 and dashes, not first and not last, and no UUID",
        )
    return identifier


def is_identifier(text: str) -> bool:
    """Whether a tenant could bear this identifier."""
    return _IDENTIFIER.fullmatch(text) is not None


def checked_tier(tier: str) -> Tier:
    """The tier of that name. Raises InvalidInput."""
    try:
        return Tier(tier)
    except ValueError:
        raise InvalidInput(
            f"no tier is named {visible(tier)[:60]!r}", hint=f"one of {', '.join(Tier)}"
        ) from None


def checked_limits(limits: Mapping[str, int | None]) -> dict[str, int | None]:
    """Limits by name; None means without a limit. Raises InvalidInput."""
    for name, allowed in limits.items():
        if name not in list(Limit):
            raise InvalidInput(
                f"nothing is limited by {visible(name)[:60]!r}", hint=f"one of {', '.join(Limit)}"
            )
        if allowed is not None and (
            isinstance(allowed, bool) or not 0 <= allowed <= _LARGEST_LIMIT
        ):
            raise InvalidInput(
                f"{name} cannot be {allowed}", hint=f"0 to {_LARGEST_LIMIT}, or null: no limit"
            )
    return dict(limits)


def as_id(text: str) -> UUID | None:
    """The id that a text spells in the usual form, or None."""
    try:
        found = UUID(text)
    except ValueError:
        return None
    return found if str(found) == text.lower() else None
