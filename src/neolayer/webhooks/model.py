"""What a webhook is, and which addresses and filters it may have."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from neolayer.errors import Conflict, InvalidInput, NotFound

MOST_TYPES = 100
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,99}")
_TYPE = re.compile(r"\*|[A-Za-z0-9][A-Za-z0-9._-]{0,253}(\.\*)?")
_PORTS = frozenset((80, 443, *range(1024, 65_536)))


class WebhookNotFound(NotFound):
    """There is no such webhook."""


class WebhookExists(Conflict):
    """A webhook of this name is there already."""


class TooManyWaiting(Conflict):
    """So many deliveries wait for a webhook that a trial would say nothing."""

    def __init__(self) -> None:
        super().__init__(
            "1000 deliveries wait for this webhook, and a trial would wait behind them",
            hint="neolayer webhooks show --tenant TENANT says why they wait",
        )


@dataclass(frozen=True, slots=True)
class Webhook:
    """An endpoint of a tenant. `failing_since` is None while deliveries succeed."""

    id: UUID
    name: str
    url: str
    event_types: tuple[str, ...]
    status: str
    disabled_reason: str | None
    failing_since: datetime | None
    last_error: str | None
    last_delivered_at: datetime | None
    created_at: datetime
    pending: int = 0
    parked: int = 0


@dataclass(frozen=True, slots=True)
class NewWebhook:
    """A webhook that was just made, or got another secret; `secret` is shown this once."""

    id: UUID
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Delivery:
    """One event for one endpoint: pending, delivered, or parked with its cause."""

    number: int
    event_id: str
    event_type: str
    status: str
    attempts: int
    last_error: str | None
    created_at: datetime
    finished_at: datetime | None


def checked_name(name: str) -> str:
    """The name, if it is one. Raises InvalidInput."""
    if _NAME.fullmatch(name) is None:
        raise InvalidInput("a webhook's name is a-z, digits, - and _, up to 100 characters")
    return name


def checked_types(types: Sequence[str]) -> list[str]:
    """The filter without doubles. Raises InvalidInput."""
    if not 0 < len(types) <= MOST_TYPES:
        raise InvalidInput(f"a webhook names 1 to {MOST_TYPES} event types", hint="'*' is all")
    for one in types:
        if _TYPE.fullmatch(one) is None:
            raise InvalidInput(
                f"{one[:80]!r} is no event type", hint="wallet.created, wallet.* or *"
            )
    return list(dict.fromkeys(types))


def matches(types: Iterable[str], event_type: str) -> bool:
    """Whether a filter takes events of that type."""
    return any(
        one in ("*", event_type) or (one.endswith(".*") and event_type.startswith(one[:-1]))
        for one in types
    )


def checked_url(text: str) -> str:
    """The address in one form. Raises InvalidInput.

    Where it leads is looked at when it is called, because names resolve differently later.
    """
    if not text.isascii() or not text.isprintable() or len(text) > 2048:
        raise InvalidInput("a webhook's URL is printable ASCII, up to 2048 characters")
    import httpx  # slow to load, and needed only where an address is given

    try:
        url = httpx.URL(text)
        host = url.host
    except (httpx.InvalidURL, UnicodeError):
        raise InvalidInput("the URL cannot be read") from None
    if url.scheme not in ("https", "http") or not host:
        raise InvalidInput("a webhook's URL begins with https://")
    if url.userinfo or url.fragment:
        raise InvalidInput("a webhook's URL has no password and no fragment")
    if url.port is not None and url.port not in _PORTS:
        raise InvalidInput("a webhook's port is 80, 443 or one from 1024 on")
    return str(url)
