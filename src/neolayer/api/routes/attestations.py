"""Quotes and what became of them. Bytes are hex; the time of a verification is now."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any
from uuid import UUID

from litestar import Router, get, post, put
from litestar.params import JSONBody
from msgspec import Meta, Struct

from neolayer.api.fields import Body, Hex, Id, Line
from neolayer.api.layer import DEPENDENCIES, Acme, requires
from neolayer.api.pages import After, PageSize, begin, end
from neolayer.enclave import (
    LONGEST_POLICY,
    MAX_ADVISORIES,
    MAX_ENCLAVES,
    AllowedEnclave,
    Attestation,
    Policy,
    Verification,
)
from neolayer.errors import InvalidInput
from neolayer.tenancy.cursors import Pages

Seconds = Annotated[int, Meta(ge=1, le=int(LONGEST_POLICY.total_seconds()))]


class QuoteBody(Body):
    quote: Hex
    enclave_id: Line


class NonceBody(Body):
    enclave_id: Line
    lifetime_seconds: Annotated[int, Meta(ge=1, le=3600)] = 300


class NonceAnswer(Struct):
    nonce: str
    enclave_id: str
    expires_at: datetime


class RevokeBody(Body):
    because: Line


class AllowedBody(Body):
    """One build (mr_enclave), or a signer's product from a version on."""

    mr_enclave: Hex | None = None
    mr_signer: Hex | None = None
    isv_prod_id: Annotated[int, Meta(ge=0, le=65_535)] | None = None
    min_isv_svn: Annotated[int, Meta(ge=0, le=65_535)] = 0
    rt_mr: tuple[Hex, ...] = ()


class PolicyBody(Body):
    """Which quotes are accepted. A debug enclave never is."""

    enclaves: Annotated[tuple[AllowedBody, ...], Meta(max_length=MAX_ENCLAVES)]
    tcb_statuses: Annotated[tuple[Line, ...], Meta(max_length=20)] = ("UpToDate",)
    rejected_advisories: Annotated[tuple[Line, ...], Meta(max_length=MAX_ADVISORIES)] = ()
    nonce_required: bool = True
    max_collateral_age_seconds: Seconds = 30 * 86_400
    max_lifetime_seconds: Seconds = 86_400


class PolicyAnswer(Struct):
    version: int


class OutcomeAnswer(Struct):
    """What became of a quote, and why."""

    status: str
    reason: str
    detail: str | None
    attestation_id: UUID | None
    tcb_status: str | None
    advisories: tuple[str, ...]
    expires_at: datetime | None
    expires_because: str | None


class AttestationPage(Struct):
    items: list[Attestation]
    after: str | None


@post("/", **requires("attestations:create"))
async def verify(acme: Acme, data: JSONBody[QuoteBody]) -> OutcomeAnswer:
    """Verify a quote now. A refused one is an answer too, stored with its reason."""
    found = await acme.attestations.verify(
        _bytes(data.quote), enclave_id=data.enclave_id, at=datetime.now(UTC)
    )
    return OutcomeAnswer(
        status=str(found.status),
        reason=str(found.reason),
        detail=found.detail,
        attestation_id=found.attestation_id,
        tcb_status=found.tcb_status,
        advisories=found.advisories,
        expires_at=found.expires_at,
        expires_because=found.expires_because,
    )


@get("/", **requires("attestations:read"))
async def list_attestations(
    acme: Acme, after: After = None, limit: PageSize = 100
) -> AttestationPage:
    """Attestations, newest first; `after` is where the next page begins, null at the end."""
    pages = Pages(acme.scope, "attestations")
    last = begin(pages, after)
    found = await acme.attestations.list(after=UUID(last) if last else None, limit=limit)
    return AttestationPage(found, end(pages, [str(one.id) for one in found], limit))


@get("/{attestation_id:uuid}", **requires("attestations:read"))
async def show(acme: Acme, attestation_id: Id) -> Attestation:
    """One attestation."""
    return await acme.attestations.attestation(attestation_id)


@get("/{attestation_id:uuid}/verifications", **requires("attestations:read"))
async def verifications(acme: Acme, attestation_id: Id) -> Sequence[Verification]:
    """Every time it was looked at, newest first."""
    return await acme.attestations.verifications(attestation_id)


@post("/{attestation_id:uuid}/revoke", status_code=204, **requires("attestations:update"))
async def revoke(acme: Acme, attestation_id: Id, data: JSONBody[RevokeBody]) -> None:
    """Trust it no longer."""
    await acme.attestations.revoke(attestation_id, at=datetime.now(UTC), because=data.because)


@post("/nonces", **requires("attestations:create"))
async def issue_nonce(acme: Acme, data: JSONBody[NonceBody]) -> NonceAnswer:
    """Bytes for a quote's report data, good once and not for long."""
    nonce = await acme.attestations.issue_nonce(
        enclave_id=data.enclave_id,
        at=datetime.now(UTC),
        lifetime=timedelta(seconds=data.lifetime_seconds),
    )
    return NonceAnswer(nonce.value.hex(), nonce.enclave_id, nonce.expires_at)


@put("/policy", **requires("attestations:update"))
async def set_policy(acme: Acme, data: JSONBody[PolicyBody]) -> PolicyAnswer:
    """Replace what is accepted; what was verified is judged again."""
    return PolicyAnswer(await acme.attestations.set_policy(_policy(data)))


@get("/policy", **requires("attestations:read"))
async def show_policy(acme: Acme) -> dict[str, Any] | None:
    """What is accepted; null where nothing is."""
    found = await acme.attestations.policy()
    return None if found is None else {"version": found[0], "policy": found[1]}


def _policy(data: PolicyBody) -> Policy:
    return Policy(
        enclaves=tuple(
            AllowedEnclave(
                mr_enclave=allowed.mr_enclave,
                mr_signer=allowed.mr_signer,
                isv_prod_id=allowed.isv_prod_id,
                min_isv_svn=allowed.min_isv_svn,
                rt_mr=allowed.rt_mr,
            )
            for allowed in data.enclaves
        ),
        tcb_statuses=data.tcb_statuses,
        rejected_advisories=data.rejected_advisories,
        nonce_required=data.nonce_required,
        max_collateral_age=timedelta(seconds=data.max_collateral_age_seconds),
        max_lifetime=timedelta(seconds=data.max_lifetime_seconds),
    )


def _bytes(text: str) -> bytes:
    try:
        return bytes.fromhex(text.removeprefix("0x"))
    except ValueError:
        raise InvalidInput("a quote is an even number of hex digits") from None


router = Router(
    "/v1/attestations",
    route_handlers=[
        verify,
        list_attestations,
        show,
        verifications,
        revoke,
        issue_nonce,
        set_policy,
        show_policy,
    ],
    dependencies=DEPENDENCIES,
    tags=["attestations"],
)
