"""The values of the room and the rules for what people may write into them. No I/O."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

from neolayer.enclave.reasons import Reason, hint_of
from neolayer.enclave.verifying import Status
from neolayer.errors import Conflict, InvalidInput, NotFound

MAX_PAGE = 1000
_EARLIEST, _LATEST = datetime(1970, 1, 1, tzinfo=UTC), datetime(2262, 1, 1, tzinfo=UTC)


class AttestationNotFound(NotFound):
    """There is no such attestation."""


class SealedDataNotFound(NotFound):
    """There is no such sealed data."""


class ComputationNotFound(NotFound):
    """There is no such computation."""


class VersionConflict(Conflict):
    """Somebody else has stored another version."""


class LeaseLost(Conflict):
    """The computation is no longer this worker's."""


class NotAttested(Conflict):
    """The enclave has no attestation that holds at this time."""


class ComputationEnded(Conflict):
    """The computation has ended already."""


@dataclass(frozen=True, slots=True)
class Attestation:
    """Our record of one quote. `holds` says whether it counts at a time."""

    id: UUID
    enclave_id: str
    status: Status
    reason: Reason
    tee: str
    attestation_type: str
    quote_version: int
    mr_enclave: str
    mr_signer: str | None
    isv_prod_id: int | None
    isv_svn: int | None
    cpu_svn: str | None
    is_debug: bool
    report_data: str
    tcb_status: str | None
    advisories: list[str]
    fmspc: str | None
    ca: str | None
    platform_id: str | None
    collateral_id: str | None
    policy_version: int | None
    verifier: str | None
    attested_at: datetime | None
    verified_at: datetime | None
    expires_at: datetime
    expires_because: str | None
    created_at: datetime

    def holds(self, at: datetime) -> bool:
        """Whether it was accepted, and is not stale, at that time."""
        if self.status is not Status.VERIFIED or self.attested_at is None:
            return False
        return self.attested_at <= at < self.expires_at


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a quote that was handed in. Nothing of it could be read: no attestation id."""

    status: Status
    reason: Reason
    detail: str | None
    attestation_id: UUID | None
    tcb_status: str | None = None
    advisories: tuple[str, ...] = ()
    collateral_id: str | None = None
    policy_version: int | None = None
    expires_at: datetime | None = None
    expires_because: str | None = None

    @property
    def is_accepted(self) -> bool:
        """Whether the enclave is attested by this quote."""
        return self.reason is Reason.ACCEPTED

    @property
    def hint(self) -> str | None:
        """What whoever was refused can do."""
        return hint_of(self.reason)


@dataclass(frozen=True, slots=True)
class Verification:
    """One judgement as it was stored."""

    id: UUID
    attestation_id: UUID | None
    enclave_id: str
    quote_digest: str
    quote_size: int
    occasion: str
    status: Status
    reason: Reason
    detail: str | None
    tcb_status: str | None
    advisories: list[str]
    collateral_id: str | None
    policy_version: int | None
    verified_at: datetime
    verified_by: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Nonce:
    """A challenge: the first 32 bytes of the report data of the quote that answers it."""

    value: bytes
    enclave_id: str
    expires_at: datetime


def checked_name(field: str, text: str, *, longest: int = 255) -> str:
    """A name people gave, composed; raises InvalidInput where it is empty, long or unprintable."""
    composed = unicodedata.normalize("NFC", text)
    if not 0 < len(composed) <= longest or not composed.isprintable():
        raise InvalidInput(f"{field} is 1 to {longest} printable characters")
    return composed


def checked_time(field: str, at: datetime) -> datetime:
    """An instant with a time zone between 1970 and 2262. Raises InvalidInput."""
    if at.tzinfo is None or not _EARLIEST <= at < _LATEST:
        raise InvalidInput(f"{field} is a time with a zone, from 1970 to 2261")
    return at.astimezone(UTC)


def checked_limit(limit: int) -> int:
    """How many rows a page may hold. Raises InvalidInput."""
    if not 1 <= limit <= MAX_PAGE:
        raise InvalidInput(f"limit is from 1 to {MAX_PAGE}")
    return limit


def page_of(
    tenant: UUID | None, enclave_id: str | None, status: str | None, after: UUID | None, limit: int
) -> dict[str, object]:
    """The parameters of a page of what concerns an enclave. Raises InvalidInput."""
    return {
        "tenant_id": tenant,
        "enclave_id": enclave_id,
        "status": status,
        "after": after,
        "limit": checked_limit(limit),
    }
