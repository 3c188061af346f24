"""Attestations: real quotes, judged, stored, repeated and judged again."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import psycopg
import pytest
from tests.fixtures import quotes
from tests.fixtures.fix_enclave import Attesting, EnclaveTenant, stand_in
from tests.fixtures.owners import new_owner
from tests.fixtures.quotes import DEBUG, SGX, TDX, TDX_FOREIGN, THEN, TOLERANT, quote

from neolayer.enclave import (
    AllowedEnclave,
    AttestationNotFound,
    Attestations,
    BadCollateral,
    CollateralStore,
    Reason,
    Status,
)
from neolayer.errors import AccessDenied, InvalidInput
from neolayer.tenancy import CoreDatabase, Principal, Scope


async def test_a_real_sgx_quote_is_accepted(attesting: Attesting) -> None:
    """Verified at the given time, with what dcap-qvl found, until its first part goes stale."""
    attestations = await attesting()
    outcome = await attestations.verify(quote(SGX), enclave_id="vault", at=THEN)
    assert outcome.is_accepted and outcome.attestation_id
    stored = await attestations.attestation(outcome.attestation_id)
    assert (stored.status, stored.reason) == (Status.VERIFIED, Reason.ACCEPTED)
    assert (stored.tee, stored.attestation_type, stored.quote_version) == ("SGX", "DCAP", 3)
    assert (stored.mr_enclave, stored.mr_signer) == (quotes.SGX_ENCLAVE, quotes.SGX_SIGNER)
    assert (stored.isv_prod_id, stored.isv_svn, stored.is_debug) == (0, 0, False)
    assert (stored.fmspc, stored.ca) == ("00a067110000", "processor")
    assert stored.tcb_status == "ConfigurationAndSWHardeningNeeded"
    assert stored.advisories == ["INTEL-SA-00289", "INTEL-SA-00615"]
    assert stored.collateral_id == outcome.collateral_id and stored.policy_version == 1
    assert stored.verified_at == stored.attested_at == THEN
    assert stored.expires_at == datetime(2025, 7, 19, 10, 1, 18, tzinfo=UTC)
    assert stored.expires_because == "qe_identity"
    assert stored.verifier is not None and stored.verifier.startswith("dcap-qvl")
    assert stored.holds(THEN) and not stored.holds(stored.expires_at)
    assert not stored.holds(THEN - timedelta(seconds=1))


async def test_a_real_tdx_quote_is_accepted(attesting: Attesting) -> None:
    """Version 4; its measurement is the longer mr_td, and nobody signs a TD's code."""
    attestations = await attesting()
    outcome = await attestations.verify(quote(TDX), enclave_id="td", at=THEN)
    assert outcome.is_accepted and outcome.attestation_id
    stored = await attestations.attestation(outcome.attestation_id)
    assert (stored.tee, stored.quote_version, stored.mr_enclave) == ("TDX", 4, quotes.TD)
    assert (stored.mr_signer, stored.isv_prod_id, stored.tcb_status) == (None, None, "UpToDate")
    assert stored.expires_because == "pck_crl"


REFUSALS = {
    "debug": (DEBUG, TOLERANT, THEN, Reason.DEBUG),
    "weak TCB": (
        SGX,
        replace(TOLERANT, tcb_statuses=("UpToDate",)),
        THEN,
        Reason.TCB_NOT_ACCEPTED,
    ),
    "advisory": (
        SGX,
        replace(TOLERANT, rejected_advisories=("INTEL-SA-00615",)),
        THEN,
        Reason.ADVISORY_REJECTED,
    ),
    "old evaluation": (
        SGX,
        replace(TOLERANT, min_tcb_evaluation=18),
        THEN,
        Reason.TCB_EVALUATION_TOO_OLD,
    ),
    "hyperthreading": (TDX, replace(TOLERANT, allow_smt=False), THEN, Reason.PLATFORM_NOT_ACCEPTED),
    "expired": (SGX, TOLERANT, datetime(2026, 11, 27, tzinfo=UTC), Reason.COLLATERAL_EXPIRED),
    "year 2000": (SGX, TOLERANT, datetime(2000, 1, 1, tzinfo=UTC), Reason.COLLATERAL_OF_THE_FUTURE),
    "collateral too old": (
        SGX,
        replace(TOLERANT, max_collateral_age=timedelta(days=1)),
        THEN,
        Reason.COLLATERAL_TOO_OLD,
    ),
    "foreign platform": (TDX_FOREIGN, TOLERANT, THEN, Reason.NO_COLLATERAL),
    "another enclave": (SGX, replace(TOLERANT, enclaves=()), THEN, Reason.ENCLAVE_NOT_ALLOWED),
    "svn": (
        SGX,
        replace(TOLERANT, enclaves=(AllowedEnclave(None, quotes.SGX_SIGNER, 0, 1),)),
        THEN,
        Reason.SVN_TOO_LOW,
    ),
    "another product": (
        SGX,
        replace(TOLERANT, enclaves=(AllowedEnclave(None, quotes.SGX_SIGNER, 1),)),
        THEN,
        Reason.ENCLAVE_NOT_ALLOWED,
    ),
    "no policy": (SGX, None, THEN, Reason.NO_POLICY),
    "no nonce": (SGX, replace(TOLERANT, nonce_required=True), THEN, Reason.NONCE_UNKNOWN),
}


@pytest.mark.parametrize("case", REFUSALS)
async def test_refusals_are_stored_with_their_reason(attesting: Attesting, case: str) -> None:
    """Each cause has its code, in the outcome, in the record and in the history."""
    name, policy, at, reason = REFUSALS[case]
    attestations = await attesting(policy)
    outcome = await attestations.verify(quote(name), enclave_id="vault", at=at)
    assert (outcome.reason, outcome.status) == (reason, Status.REJECTED)
    assert outcome.attestation_id
    stored = await attestations.attestation(outcome.attestation_id)
    assert (stored.status, stored.reason, stored.attested_at) == (Status.REJECTED, reason, None)
    assert not stored.holds(at)
    (logged,) = await attestations.verifications(outcome.attestation_id)
    assert (logged.reason, logged.verified_at, logged.quote_size) == (reason, at, len(quote(name)))
    assert logged.verified_by == "operator:tests"


async def test_signer_and_version_are_enough(attesting: Attesting) -> None:
    """Allowed by signer, product and least svn, with the signer's other builds alike."""
    allowed = AllowedEnclave(mr_signer=quotes.SGX_SIGNER, isv_prod_id=0, min_isv_svn=0)
    attestations = await attesting(replace(TOLERANT, enclaves=(allowed,)))
    assert (await attestations.verify(quote(SGX), enclave_id="vault", at=THEN)).is_accepted


async def test_the_expiry_is_the_first_of_its_parts(attesting: Attesting) -> None:
    """A policy's ages count like the collateral's own dates; whichever ends first decides."""
    day, week = timedelta(days=1), timedelta(days=7)
    oldest = datetime(2025, 6, 19, 10, 1, 18, tzinfo=UTC)
    for policy, expected, because in (
        (replace(TOLERANT, max_lifetime=day), THEN + day, "lifetime"),
        (replace(TOLERANT, max_collateral_age=week), oldest + week, "collateral_age"),
    ):
        outcome = await (await attesting(policy)).verify(quote(SGX), enclave_id="v", at=THEN)
        assert (outcome.expires_at, outcome.expires_because) == (expected, because)


async def test_epid_is_kept_and_never_verified(attesting: Attesting) -> None:
    """Errata 29: the early scheme can be read, and nobody can vouch for it."""
    attestations = await attesting()
    epid = b"\x02\x00" + quote(SGX)[2:]
    outcome = await attestations.verify(epid, enclave_id="old", at=THEN)
    assert (outcome.status, outcome.reason) == (Status.UNVERIFIABLE, Reason.EPID)
    assert outcome.attestation_id
    stored = await attestations.attestation(outcome.attestation_id)
    assert (stored.attestation_type, stored.mr_enclave) == ("EPID", quotes.SGX_ENCLAVE)


async def issued(scope: Scope, value: bytes, at: datetime, lifetime: timedelta) -> None:
    """A nonce that the sample happens to answer."""
    await scope.fetch(
        "INSERT INTO enclave.nonces (tenant_id, nonce, enclave_id, issued_at, expires_at)"
        " VALUES (%s, %s, 'vault', %s, %s) RETURNING 1",
        (scope.tenant, value, at, at + lifetime),
    )


async def test_a_nonce_is_answered_once(attesting: Attesting) -> None:
    """Unknown, of another enclave, too late: refused; in time: accepted; again: a replay."""
    policy = replace(TOLERANT, nonce_required=True)
    value, minute = quote(SGX)[368:400], timedelta(minutes=1)
    attestations = await attesting(policy)
    await issued(attestations.scope, value, THEN - 2 * minute, minute)
    late = await attestations.verify(quote(SGX), enclave_id="vault", at=THEN)
    assert late.reason is Reason.NONCE_EXPIRED
    other = await attestations.verify(quote(SGX), enclave_id="other", at=THEN)
    assert other.reason is Reason.OTHER_ENCLAVE
    attestations = await attesting(policy)
    await issued(attestations.scope, value, THEN - minute, 5 * minute)
    first = await attestations.verify(quote(SGX), enclave_id="vault", at=THEN)
    assert first.is_accepted
    again = await attestations.verify(quote(SGX) + b"\0", enclave_id="vault", at=THEN)
    assert (again.reason, again.attestation_id) == (Reason.REPLAYED, first.attestation_id)
    assert first.attestation_id
    assert (await attestations.attestation(first.attestation_id)).holds(THEN)


async def test_one_nonce_vouches_once_under_a_race(attesting: Attesting) -> None:
    """Ten at once hand in the same quote: one is accepted."""
    attestations = await attesting(replace(TOLERANT, nonce_required=True))
    await issued(attestations.scope, quote(SGX)[368:400], THEN, timedelta(minutes=1))
    outcomes = await asyncio.gather(
        *(attestations.verify(quote(SGX), enclave_id="vault", at=THEN) for _ in range(10))
    )
    assert sorted(o.reason for o in outcomes if o.is_accepted) == [Reason.ACCEPTED]
    assert {o.reason for o in outcomes} <= {Reason.ACCEPTED, Reason.NONCE_USED, Reason.REPLAYED}
    (stored,) = await attestations.list()
    assert stored.status is Status.VERIFIED
    assert len(await attestations.verifications()) == 10


async def test_issued_nonces_differ_and_are_forgotten(attesting: Attesting) -> None:
    """Random, bound to an enclave, gone once nobody can answer them."""
    attestations = await attesting()
    made = [await attestations.issue_nonce(enclave_id="vault", at=THEN) for _ in range(3)]
    assert len({nonce.value for nonce in made}) == 3
    assert await attestations.forget_nonces(at=THEN) == 0
    assert await attestations.forget_nonces(at=made[0].expires_at) == 3
    with pytest.raises(InvalidInput):
        await attestations.issue_nonce(enclave_id="vault", at=THEN, lifetime=timedelta(days=1))


def twins(raw: bytes) -> dict[str, bytes]:
    """The quote with other bytes, which verify as well."""
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    s = int.from_bytes(raw[468:500], "big")
    return {
        "appended": raw + b"more",
        "last byte": raw[:-1] + bytes([raw[-1] ^ 1]),
        "mirrored": raw[:468] + (order - s).to_bytes(32, "big") + raw[500:],
    }


@pytest.mark.parametrize("twin", ["appended", "last byte", "mirrored"])
async def test_a_quote_is_known_by_what_was_signed(attesting: Attesting, twin: str) -> None:
    """Trailing bytes, a changed last byte, a mirrored signature: the same evidence, not new."""
    attestations = await attesting()
    first = await attestations.verify(quote(SGX), enclave_id="vault", at=THEN)
    second = await attestations.verify(twins(quote(SGX))[twin], enclave_id="vault", at=THEN)
    assert first.is_accepted and second.is_accepted
    assert second.attestation_id == first.attestation_id
    assert len(await attestations.list()) == 1


async def test_a_damaged_copy_harms_nothing(attesting: Attesting) -> None:
    """The same signed bytes under a broken signature are refused, and the record stays verified."""
    attestations = await attesting()
    raw = quote(SGX)
    damaged = quotes.flipped(raw, 440 * 8)
    early = await attestations.verify(damaged, enclave_id="vault", at=THEN)
    assert early.reason is Reason.BAD_SIGNATURE
    good = await attestations.verify(raw, enclave_id="vault", at=THEN)
    assert good.is_accepted and good.attestation_id == early.attestation_id
    late = await attestations.verify(damaged, enclave_id="vault", at=THEN)
    assert late.reason is Reason.BAD_SIGNATURE
    assert good.attestation_id
    assert (await attestations.attestation(good.attestation_id)).holds(THEN)
    row = await attestations.scope.one("SELECT quote FROM enclave.attestations")
    assert row == (raw,)
    assert len(await attestations.verifications(good.attestation_id)) == 3


async def test_newer_collateral_and_policies_reach_live_attestations(
    attesting: Attesting,
) -> None:
    """A stricter policy rejects what was accepted; time alone makes it expired; both are logged."""
    strict = replace(TOLERANT, tcb_statuses=("UpToDate",))
    attestations = await attesting()
    outcome = await attestations.verify(quote(SGX), enclave_id="vault", at=THEN)
    assert outcome.attestation_id
    assert await attestations.reverify(at=THEN) == 0
    await attestations.set_policy(replace(TOLERANT, max_lifetime=timedelta(days=20)))
    assert await attestations.reverify(at=THEN + timedelta(days=1)) == 1
    stored = await attestations.attestation(outcome.attestation_id)
    assert (stored.policy_version, stored.expires_because) == (2, "lifetime")
    assert stored.expires_at == THEN + timedelta(days=20)
    await attestations.set_policy(strict)
    assert await attestations.reverify(at=THEN + timedelta(days=2)) == 1
    stored = await attestations.attestation(outcome.attestation_id)
    assert (stored.status, stored.reason) == (Status.REJECTED, Reason.TCB_NOT_ACCEPTED)
    assert not stored.holds(THEN + timedelta(days=2))
    again = await attesting()
    kept = await again.verify(quote(SGX), enclave_id="vault", at=THEN)
    assert kept.attestation_id and kept.expires_at
    assert await again.reverify(at=kept.expires_at) == 1
    assert await again.reverify(at=kept.expires_at) == 0
    assert (await again.attestation(kept.attestation_id)).status is Status.EXPIRED


async def test_newer_collateral_makes_live_attestations_due(
    attesting: Attesting, enclave_core: CoreDatabase
) -> None:
    """What was judged by an older version is judged by the newest that was out at that time."""
    attestations = await attesting()
    outcome = await attestations.verify(quote(SGX), enclave_id="vault", at=THEN)
    assert outcome.attestation_id
    # No second real version is to be had: the same document stands in, one byte longer, later.
    later = THEN + timedelta(days=3)
    operator = enclave_core.platform(by=Principal.operator("tests"))
    await operator.fetch(
        "INSERT INTO enclave.collateral (id, tee, fmspc, ca, tcb_evaluation_number, issued_at,"
        " oldest_part_at, tcb_info_until, qe_identity_until, root_ca_crl_until, pck_crl_until,"
        " certificates_until, document) SELECT encode(sha256(document || ' '), 'hex'), tee, fmspc,"
        " ca, 18, %s, %s, %s, qe_identity_until, root_ca_crl_until, pck_crl_until,"
        " certificates_until, document || ' ' FROM enclave.collateral WHERE tee = 'SGX'"
        " RETURNING id",
        (later, later, later + timedelta(days=2)),
    )
    assert await attestations.reverify(at=later - timedelta(days=1)) == 0
    assert await attestations.reverify(at=later) == 1
    stored = await attestations.attestation(outcome.attestation_id)
    assert stored.status is Status.VERIFIED and stored.collateral_id != outcome.collateral_id
    assert (stored.expires_at, stored.expires_because) == (later + timedelta(days=2), "tcb_info")


async def test_C9_a_record_is_not_judged_backwards(attesting: Attesting) -> None:
    """A repetition for an earlier time is answered and logged; the newest judgement stands."""
    attestations = await attesting()
    day = timedelta(days=1)
    outcome = await attestations.verify(quote(SGX), enclave_id="vault", at=THEN + 2 * day)
    assert outcome.attestation_id
    for at in (THEN, THEN + day):
        earlier = await attestations.verify(quote(SGX), enclave_id="vault", at=at)
        assert (earlier.attestation_id, earlier.is_accepted) == (outcome.attestation_id, True)
    await attestations.set_policy(replace(TOLERANT, tcb_statuses=("UpToDate",)))
    await attestations.reverify(at=THEN + 3 * day)
    await attestations.set_policy(TOLERANT)
    await attestations.verify(quote(SGX), enclave_id="vault", at=THEN + 2 * day)
    stored = await attestations.attestation(outcome.attestation_id)
    assert (stored.status, stored.attested_at) == (Status.REJECTED, THEN + 2 * day)
    await attestations.revoke(outcome.attestation_id, at=THEN, because="late news")
    stored = await attestations.attestation(outcome.attestation_id)
    assert (stored.status, stored.verified_at) == (Status.REVOKED, THEN + 3 * day)


async def test_revoked_is_for_good(attesting: Attesting) -> None:
    """Neither a repetition nor raw SQL brings a revoked attestation back."""
    attestations = await attesting()
    outcome = await attestations.verify(quote(SGX), enclave_id="vault", at=THEN)
    assert outcome.attestation_id
    await attestations.revoke(outcome.attestation_id, at=THEN, because="key leaked")
    again = await attestations.verify(quote(SGX), enclave_id="vault", at=THEN)
    assert again.reason is Reason.REVOKED
    assert (await attestations.attestation(outcome.attestation_id)).status is Status.REVOKED
    with pytest.raises(psycopg.errors.CheckViolation):
        await attestations.scope.one("UPDATE enclave.attestations SET status = 'rejected'")


async def test_E1_attestations_are_the_tenants_own(attesting: Attesting) -> None:
    """Neither id nor list shows another tenant's; the same quote attests each of them anew."""
    ann, bob = await attesting(), await attesting()
    outcome = await ann.verify(quote(SGX), enclave_id="vault", at=THEN)
    assert outcome.attestation_id
    for absent in (outcome.attestation_id, uuid4()):
        with pytest.raises(AttestationNotFound):
            await bob.attestation(absent)
        with pytest.raises(AttestationNotFound):
            await bob.revoke(absent, at=THEN, because="x")
    assert await bob.list() == []
    assert (await bob.verify(quote(SGX), enclave_id="vault", at=THEN)).is_accepted


async def test_lists_are_read_page_by_page(attesting: Attesting) -> None:
    """The newest first, each once, filtered by enclave and status."""
    attestations = await attesting()
    for name in (SGX, TDX, DEBUG):
        await attestations.verify(quote(name), enclave_id=name, at=THEN)
    first = await attestations.list(limit=2)
    rest = await attestations.list(limit=2, after=first[-1].id)
    assert [one.enclave_id for one in (*first, *rest)] == [DEBUG, TDX, SGX]
    assert [one.enclave_id for one in await attestations.list(status=Status.VERIFIED)] == [TDX, SGX]
    assert [one.enclave_id for one in await attestations.list(enclave_id=TDX)] == [TDX]
    with pytest.raises(InvalidInput):
        await attestations.list(limit=10**9)


FORGERIES = {
    "verified": (
        "UPDATE enclave.attestations SET status = 'verified', attested_at = verified_at",
        psycopg.errors.CheckViolation,
    ),
    "another quote": (
        "UPDATE enclave.attestations SET quote = quote || 'x' WHERE status = 'verified'",
        psycopg.errors.InsufficientPrivilege,
    ),
    "measurement": (
        "UPDATE enclave.attestations SET mr_enclave = mr_signer",
        psycopg.errors.InsufficientPrivilege,
    ),
    "backwards": (
        "UPDATE enclave.attestations SET verified_at = verified_at - interval '1 day'"
        " WHERE status = 'verified'",
        psycopg.errors.CheckViolation,
    ),
    "first time": (
        "UPDATE enclave.attestations SET attested_at = now() WHERE status = 'verified'",
        psycopg.errors.InsufficientPrivilege,
    ),
    "removed": ("DELETE FROM enclave.attestations", psycopg.errors.InsufficientPrivilege),
    "history": ("DELETE FROM enclave.verifications", psycopg.errors.InsufficientPrivilege),
    "policy": (
        "UPDATE enclave.attestation_policies SET tcb_statuses = '{UpToDate}'",
        psycopg.errors.InsufficientPrivilege,
    ),
    "nonce": ("UPDATE enclave.nonces SET used_at = NULL", psycopg.errors.InsufficientPrivilege),
    "collateral": (
        "UPDATE enclave.collateral SET document = 'x'",
        psycopg.errors.InsufficientPrivilege,
    ),
}


@pytest.mark.parametrize("forgery", FORGERIES)
async def test_E14_evidence_cannot_be_forged_with_sql(attesting: Attesting, forgery: str) -> None:
    """The application's role itself can neither verify without a verifier nor change evidence."""
    attestations = await attesting(replace(TOLERANT, nonce_required=True))
    await issued(attestations.scope, quote(SGX)[368:400], THEN, timedelta(minutes=1))
    await attestations.verify(quote(SGX), enclave_id="vault", at=THEN)
    await attestations.verify(quote(DEBUG), enclave_id="vault", at=THEN)
    statement, refusal = FORGERIES[forgery]
    with pytest.raises(refusal):
        await attestations.scope.one(statement)


async def test_E14_an_owner_makes_no_evidence_with_sql(attesting: Attesting) -> None:
    """What a verifier did not judge is not on record, whoever writes it: an attestation of nothing
    would have computations claimed by it. A policy is for who may change it."""
    attestations = await attesting()
    owner = await new_owner(attestations.scope)
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match=r"INSERT of .* is refused"):
        await stand_in(owner, enclave_id="forged", at=THEN)
    await stand_in(attestations.scope, enclave_id="vault", at=THEN)
    again = "UPDATE enclave.attestations SET expires_at = expires_at + interval '1 year'"
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match=r"UPDATE of .* is refused"):
        await owner.fetch(f"{again} RETURNING id")
    assert await Attestations(owner).set_policy(TOLERANT) == 2
    nobody = owner.acting_as(Principal.user(uuid4()))
    with pytest.raises(AccessDenied, match="permission"):
        await Attestations(nobody).set_policy(TOLERANT)
    with pytest.raises(AccessDenied, match="permission"):
        await Attestations(nobody).verify(quote(SGX), enclave_id="vault", at=THEN)
    judged = await Attestations(owner).verify(quote(SGX), enclave_id="vault", at=THEN)
    assert judged.status is Status.VERIFIED
    assert judged.attestation_id is not None
    (verification,) = await attestations.verifications(judged.attestation_id)
    assert verification.verified_by == str(owner.by)


async def test_collateral_is_checked_on_entry(enclave_core: CoreDatabase) -> None:
    """Rubbish, a changed level, a broken chain, parts of another TEE: none gets in."""
    store = CollateralStore(enclave_core.platform(by=Principal.operator("tests")))
    good, other = quotes.collateral(SGX), quotes.collateral(TDX)
    bad = {
        "rubbish": b"\xff",
        "no object": b"[]",
        "deep": b"[" * 100_000,
        "a level": good.replace(b"SWHardeningNeeded", b"UpToDate"),
        "a signature": good.replace(b"9ad0e9be2e64", b"9ad0e9be2e65"),
        "a root": good.replace(b"-----END CERTIFICATE-----", b"-----END CERTIFICATE----", 1),
        "half": good[: len(good) // 2],
        "large": good + b" " * 2**20,
    }
    for name, document in bad.items():
        assert document not in (good, other), name
        before = await store.list()
        with pytest.raises(BadCollateral):
            await store.add(document)
        assert await store.list() == before


async def test_collateral_is_kept_by_what_it_says(enclave_core: CoreDatabase) -> None:
    """Added twice, or written with other blanks, it is one; and it tells until when it holds."""
    store = CollateralStore(enclave_core.platform(by=Principal.operator("tests")))
    first = await store.add(quotes.collateral(SGX))
    second = await store.add(quotes.collateral(SGX) + b"\n ")
    assert first == second
    (kept,) = (one for one in await store.list(fmspc="00A067110000") if one.id == first.id)
    assert kept == replace(first, document=b"")
    assert min(kept.parts_until, key=lambda part: kept.parts_until[part]) == "qe_identity"


async def test_E9_only_operators_add_collateral(
    enclave_core: CoreDatabase, enclave_tenant: EnclaveTenant
) -> None:
    """It speaks for everybody, so no tenant's user or service may put it in."""
    tenant = await enclave_tenant()
    for who in (Principal.user(uuid4()), Principal.service(uuid4()), Principal.anonymous()):
        for scope in (tenant.acting_as(who), enclave_core.platform(by=who)):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                await CollateralStore(scope).add(quotes.collateral(SGX))


@pytest.mark.parametrize("name", ["", "x" * 256, "a\0b", "a\u202eb", "a\nb", "\ud800"])
async def test_D_names_of_enclaves(attesting: Attesting, name: str) -> None:
    """Empty, long, with control characters or halves of one: refused before SQL."""
    attestations = await attesting()
    with pytest.raises(InvalidInput):
        await attestations.verify(quote(SGX), enclave_id=name, at=THEN)


async def test_D_times_have_a_zone_and_a_range(attesting: Attesting) -> None:
    """No zone, before 1970 and after 2261: refused."""
    attestations = await attesting()
    for at in (datetime(2025, 6, 20), datetime(1969, 1, 1, tzinfo=UTC), datetime.max):
        with pytest.raises(InvalidInput):
            await attestations.verify(quote(SGX), enclave_id="vault", at=at)


async def test_audit_entries_go_with_the_outcome(attesting: Attesting) -> None:
    """Accepted and refused alike, and the change of the policy."""
    attestations = await attesting()
    await attestations.verify(quote(SGX), enclave_id="vault", at=THEN)
    await attestations.verify(b"rubbish", enclave_id="vault", at=THEN)
    found = await attestations.scope.fetch(
        "SELECT resource, success, error_message FROM audit.entries ORDER BY occurred_at"
    )
    assert found[-3:] == [
        ("attestation_policy", True, None),
        ("attestation", True, None),
        ("attestation", False, "undecodable"),
    ]
