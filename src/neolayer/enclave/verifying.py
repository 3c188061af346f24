"""One quote judged at one time: dcap-qvl says whether it is genuine, the policy whether it may.

Nothing here looks at a clock, a network or a store. Calls take about a millisecond of processor
time; `attestations.py` runs them in a thread.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Any, TypeVar

import dcap_qvl  # pyright: ignore[reportMissingTypeStubs]
import msgspec

from neolayer.enclave.collateral import Collateral
from neolayer.enclave.policies import Policy, judge_enclave
from neolayer.enclave.quotes import Quote, Unreadable, read_quote
from neolayer.enclave.reasons import Reason, reason_of

VERIFIER = f"dcap-qvl {dcap_qvl.__version__}"
_LONGEST_DETAIL = 500
_T = TypeVar("_T")


class Status(StrEnum):
    """What an attestation can be."""

    VERIFIED = "verified"
    REJECTED = "rejected"
    UNVERIFIABLE = "unverifiable"
    EXPIRED = "expired"
    REVOKED = "revoked"


@dataclass(frozen=True, slots=True)
class Platform:
    """Which machine a quote says it is from; what its collateral is found by."""

    fmspc: str
    ca: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """A judgement, with what dcap-qvl found where it got that far."""

    reason: Reason
    detail: str | None = None
    tcb_status: str | None = None
    advisories: tuple[str, ...] = ()
    platform_id: str | None = None
    claims: dict[str, Any] | None = None
    expires_at: datetime | None = None
    expires_because: str | None = None

    @property
    def status(self) -> Status:
        """Verified, rejected, or of a kind that nobody can verify."""
        if self.reason is Reason.ACCEPTED:
            return Status.VERIFIED
        return Status.UNVERIFIABLE if self.reason is Reason.EPID else Status.REJECTED

    def but(self, reason: Reason, detail: str | None = None) -> Verdict:
        """The same findings, judged otherwise."""
        return replace(self, reason=reason, detail=detail, expires_at=None, expires_because=None)


class _Refused(Exception):
    def __init__(self, text: str, reason: Reason) -> None:
        super().__init__(text)
        self.verdict = Verdict(reason, " ".join(text.split())[:_LONGEST_DETAIL])


def identify(raw: bytes) -> tuple[Quote, Platform | None, Verdict | None]:
    """The quote, its platform, and the verdict where it can be told without collateral.

    Raises Unreadable where the bytes are no quote.
    """
    quote = read_quote(raw)
    if quote.is_epid:
        return quote, None, Verdict(Reason.EPID, "EPID quotes cannot be verified any more")
    try:
        parsed = _asked(lambda: dcap_qvl.parse_quote(raw))
        platform = _asked(lambda: Platform(parsed.fmspc().lower(), parsed.ca()))
    except _Refused as exc:
        if exc.verdict.reason is Reason.UNDECODABLE:
            raise Unreadable(Reason.UNDECODABLE, exc.verdict.detail or "") from None
        return quote, None, exc.verdict.but(Reason.BAD_CERTIFICATE, exc.verdict.detail)
    return quote, platform, None


def judge(
    quote: Quote,
    collateral: Collateral,
    policy: Policy | None,
    *,
    at: datetime,
    attested_at: datetime | None = None,
) -> Verdict:
    """The verdict at a time. `attested_at` is when it was first accepted, where it was before."""
    try:
        found = _find(quote, collateral, at)
    except _Refused as exc:
        return exc.verdict
    if policy is None:
        return found.but(Reason.NO_POLICY)
    try:
        _ask_policy(quote, collateral, policy, at)
    except _Refused as exc:
        return found.but(exc.verdict.reason, exc.verdict.detail)
    refused = Reason.DEBUG if quote.is_debug else judge_enclave(quote, policy.enclaves)
    if refused is not None:
        return found.but(refused)
    return _bounded(found, collateral, policy, at=at, attested_at=attested_at or at)


def _find(quote: Quote, collateral: Collateral, at: datetime) -> Verdict:
    """What dcap-qvl finds, if the quote is genuine at that time."""
    seconds = int(at.timestamp())
    parts = _collateral(collateral)
    every = dcap_qvl.QuotePolicy.claims_only(seconds)
    verified = _asked(
        lambda: dcap_qvl.QuoteVerifier().verify_with_policy(quote.raw, parts, seconds, every)
    )
    claims: dict[str, Any] = msgspec.json.decode(verified.to_json())
    tcb, pck = claims["tcb"], claims["platform"]["pck"]
    until = min(claims["earliest_expiration_date"], claims["qe_iden_earliest_expiration_date"])
    return Verdict(
        Reason.ACCEPTED,
        tcb_status=tcb["status"],
        advisories=tuple(tcb["advisory_ids"]),
        platform_id=bytes(pck["ppid"]).hex() or None,
        claims=claims,
        expires_at=datetime.fromtimestamp(until, at.tzinfo),
    )


def _ask_policy(quote: Quote, collateral: Collateral, policy: Policy, at: datetime) -> None:
    """Let dcap-qvl apply what it knows of policies: status, advisories, platform."""
    seconds = int(at.timestamp())
    asked = (
        dcap_qvl.QuotePolicy.strict(seconds)
        .reject_advisories(list(policy.rejected_advisories))
        .min_tcb_eval_data_number(policy.min_tcb_evaluation)
        .allow_smt(policy.allow_smt)
        .allow_dynamic_platform(policy.allow_dynamic_platform)
        .allow_cached_keys(policy.allow_cached_keys)
    )
    for status in policy.tcb_statuses:
        asked = asked.allow_status(status)
    parts = _collateral(collateral)
    _asked(lambda: dcap_qvl.QuoteVerifier().verify_with_policy(quote.raw, parts, seconds, asked))


def _bounded(
    found: Verdict, collateral: Collateral, policy: Policy, *, at: datetime, attested_at: datetime
) -> Verdict:
    """The acceptance until the first of its parts goes stale, or why it is stale already."""
    ends = {
        **collateral.parts_until,
        "collateral_age": collateral.oldest_part_at + policy.max_collateral_age,
        "lifetime": attested_at + policy.max_lifetime,
    }
    # The machine's own certificates are in the quote: dcap-qvl's earliest end is theirs where it is
    # none of the parts'.
    if found.expires_at is not None and found.expires_at not in collateral.parts_until.values():
        ends["certificates"] = min(ends["certificates"], found.expires_at)
    because, until = min(ends.items(), key=lambda end: end[1])
    if until > at:
        return replace(found, expires_at=until, expires_because=because)
    stale = {
        "collateral_age": Reason.COLLATERAL_TOO_OLD,
        "lifetime": Reason.LIFETIME_OVER,
    }
    return found.but(stale.get(because, Reason.COLLATERAL_EXPIRED), f"{because} held until {until}")


def _collateral(collateral: Collateral) -> dcap_qvl.QuoteCollateralV3:
    return _asked(lambda: dcap_qvl.QuoteCollateralV3.from_json(collateral.document.decode()))


def _asked(call: Callable[[], _T]) -> _T:
    """The answer of dcap-qvl, whose refusals and failures all become reasons."""
    try:
        return call()
    except ValueError as exc:
        raise _Refused(str(exc), reason_of(str(exc))) from None
    except BaseException as exc:
        # A panic in Rust is no Exception; whatever else is, is not ours to swallow.
        if type(exc).__name__ != "PanicException" and not isinstance(exc, Exception):
            raise
        raise _Refused(f"{type(exc).__name__}: {exc}", Reason.VERIFIER_FAILED) from None
