"""Hostile quotes: whatever the bytes are, there is one verdict with a reason, and no crash."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neolayer.enclave.collateral import Collateral, read_collateral
from neolayer.enclave.quotes import MAX_QUOTE_BYTES, Unreadable, read_quote
from neolayer.enclave.reasons import Reason, reason_of
from neolayer.enclave.verifying import identify, judge
from tests.fixtures import quotes
from tests.fixtures.quotes import DEBUG, SGX, TDX, TDX_FOREIGN, TDX_V5, THEN, TOLERANT, quote


def judged(raw: bytes, collateral: Collateral, at: datetime = THEN) -> Reason:
    """What an attestation of these bytes would say, given collateral for them."""
    try:
        read, _, verdict = identify(raw)
    except Unreadable as exc:
        return exc.reason
    return (verdict or judge(read, collateral, TOLERANT, at=at)).reason


@pytest.fixture(scope="module")
def sgx() -> Collateral:
    return read_collateral(quotes.collateral(SGX))


@pytest.fixture(scope="module")
def tdx() -> Collateral:
    return read_collateral(quotes.collateral(TDX))


def test_D_each_part_that_is_touched_has_its_reason(sgx: Collateral) -> None:
    """One bit in report, key, the quoting enclave's report, its signature, a certificate."""
    raw = quote(SGX)
    for byte, reason in {
        0: Reason.EPID,  # version 3 becomes 2
        1: Reason.UNSUPPORTED_VERSION,
        2: Reason.UNDECODABLE,
        112: Reason.BAD_SIGNATURE,  # mr_enclave
        176: Reason.BAD_SIGNATURE,  # mr_signer
        306: Reason.BAD_SIGNATURE,  # isv_svn
        368: Reason.BAD_SIGNATURE,  # report data
        436: Reason.BAD_SIGNATURE,  # the signature
        500: Reason.BAD_ATTESTATION_KEY,
        564: Reason.BAD_QUOTING_ENCLAVE,  # its report
        948: Reason.BAD_QUOTING_ENCLAVE,  # its signature
        1500: Reason.BAD_CERTIFICATE,
    }.items():
        assert judged(quotes.flipped(raw, byte * 8), sgx) is reason, byte


@pytest.mark.parametrize("name", [SGX, TDX])
def test_D_single_bits_never_crash_and_never_change_what_is_attested(
    name: str, sgx: Collateral, tdx: Collateral
) -> None:
    """What is signed is refused with any bit changed; what is accepted is the same evidence."""
    raw, collateral = quote(name), sgx if name == SGX else tdx
    good = read_quote(raw)
    reasons: Counter[Reason] = Counter()
    for bit in [*range(0, good.signed_size * 8, 3), *range(good.signed_size * 8, len(raw) * 8, 23)]:
        changed = quotes.flipped(raw, bit)
        reason = judged(changed, collateral)
        reasons[reason] += 1
        if reason is Reason.ACCEPTED:
            assert read_quote(changed).signed_digest == good.signed_digest, bit
    assert Reason.VERIFIER_FAILED not in reasons
    assert len(reasons) >= 6


@pytest.mark.security
@pytest.mark.parametrize("name", [SGX, TDX])
def test_D_every_single_bit(name: str, sgx: Collateral, tdx: Collateral) -> None:
    """All forty thousand of a sample, each on its own."""
    raw, collateral = quote(name), sgx if name == SGX else tdx
    digest = read_quote(raw).signed_digest
    for bit in range(len(raw) * 8):
        changed = quotes.flipped(raw, bit)
        reason = judged(changed, collateral)
        assert reason is not Reason.VERIFIER_FAILED, bit
        assert reason is not Reason.ACCEPTED or read_quote(changed).signed_digest == digest, bit


def test_D_every_length_of_a_cut_quote_is_refused(sgx: Collateral) -> None:
    """Cut anywhere before the end of its certificates: refused with a reason."""
    raw = quote(SGX)
    for size in [*range(0, 700), *range(700, 4500, 37)]:
        assert judged(raw[:size], sgx) in {
            Reason.EMPTY,
            Reason.UNDECODABLE,
            Reason.BAD_CERTIFICATE,
        }, size


def test_D_large_quotes_are_refused_unread(sgx: Collateral) -> None:
    """Up to 64 KiB a quote may carry what it likes after its end; one byte more is too large."""
    raw = quote(SGX)
    assert judged(raw.ljust(MAX_QUOTE_BYTES, b"x"), sgx) is Reason.ACCEPTED
    assert judged(raw.ljust(MAX_QUOTE_BYTES + 1, b"x"), sgx) is Reason.TOO_LARGE
    assert judged(bytes(10_000_000), sgx) is Reason.TOO_LARGE


@settings(max_examples=300, deadline=None)
@given(raw=st.binary(max_size=6000), version=st.integers(0, 6), tee=st.sampled_from([0, 1, 0x81]))
def test_D_rubbish_has_a_reason(raw: bytes, version: int, tee: int) -> None:
    """Also under a header that looks right."""
    collateral = read_collateral(quotes.collateral(SGX))
    head = version.to_bytes(2, "little") + b"\x02\x00" + tee.to_bytes(4, "little")
    for bad in (raw, head + raw):
        assert judged(bad, collateral) not in (Reason.ACCEPTED, Reason.VERIFIER_FAILED)


def test_D_lengths_within_a_quote_are_not_believed(sgx: Collateral) -> None:
    """Sizes of signature, authentication data and certificates set to all sorts of numbers."""
    raw = quote(SGX)
    for at, width in ((432, 4), (1012, 2), (1048, 4)):
        for number in (0, 1, 0x7F, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF):
            field = (number & (256**width - 1)).to_bytes(width, "little")
            changed = raw[:at] + field + raw[at + width :]
            assert judged(changed, sgx) is not Reason.VERIFIER_FAILED, (at, number)


def test_collateral_of_another_platform_or_kind_vouches_for_nothing(
    sgx: Collateral, tdx: Collateral
) -> None:
    """Foreign FMSPC, SGX beside TDX, and version 5, whose collateral nobody has."""
    assert judged(quote(SGX), tdx) is Reason.WRONG_COLLATERAL
    assert judged(quote(TDX), sgx) is Reason.WRONG_COLLATERAL
    assert judged(quote(TDX_FOREIGN), tdx) is Reason.WRONG_COLLATERAL
    assert judged(quote(TDX_V5), tdx) is Reason.WRONG_COLLATERAL
    assert judged(quote(DEBUG), sgx) is Reason.DEBUG


def test_version_5_is_read_behind_its_descriptor() -> None:
    """Its report lies six bytes further in and may be longer."""
    read, platform, verdict = identify(quote(TDX_V5))
    assert (read.version, read.tee, read.signed_size) == (5, "TDX", 48 + 6 + 648)
    assert platform is not None and platform.fmspc == "90c06f000000" and verdict is None


def test_tampered_collateral_vouches_for_nothing(sgx: Collateral) -> None:
    """dcap-qvl checks it again at each verification, whatever the table holds."""
    forged = sgx.document.replace(b"SWHardeningNeeded", b"UpToDate")
    assert forged != sgx.document
    assert judged(quote(SGX), replace(sgx, document=forged)) is Reason.BAD_COLLATERAL
    assert judged(quote(SGX), replace(sgx, document=b"{}")) is Reason.VERIFIER_FAILED


@pytest.mark.parametrize(
    ("at", "reason"),
    [
        (datetime(2000, 1, 1, tzinfo=UTC), Reason.COLLATERAL_OF_THE_FUTURE),
        (datetime(2025, 7, 19, 10, 1, 18, tzinfo=UTC), Reason.COLLATERAL_EXPIRED),
        (datetime(2025, 7, 19, 10, 1, 17, tzinfo=UTC), Reason.ACCEPTED),
        (datetime(2026, 11, 27, tzinfo=UTC), Reason.COLLATERAL_EXPIRED),
        (datetime(2025, 6, 19, 10, 56, 10, tzinfo=UTC), Reason.COLLATERAL_OF_THE_FUTURE),
        (THEN + timedelta(days=1), Reason.ACCEPTED),
    ],
)
def test_C9_the_time_given_decides(sgx: Collateral, at: datetime, reason: Reason) -> None:
    """To the second at both ends, and never the clock of the machine."""
    assert judged(quote(SGX), sgx, at) is reason


def test_unknown_words_of_the_verifier_are_a_failure() -> None:
    """A text nobody foresaw is never an acceptance."""
    assert reason_of("Verification failed: something new") is Reason.VERIFIER_FAILED
    assert reason_of("") is Reason.VERIFIER_FAILED


def test_the_cause_behind_a_broken_chain_is_told() -> None:
    """Revoked and expired certificates are not just bad ones."""
    broken = "Verification failed: Failed to verify certificate chain\n\nCaused by:\n    "
    assert reason_of(broken + "CertRevoked") is Reason.CERTIFICATE_REVOKED
    assert reason_of(broken + "CertExpired { time: 1 }") is Reason.COLLATERAL_EXPIRED
    assert reason_of(broken + "UnknownIssuer") is Reason.BAD_CERTIFICATE


def test_D_a_quote_stuffed_with_certificates_costs_no_time(sgx: Collateral) -> None:
    """64 KiB of certificates are refused for their number, not tried in every order."""
    raw = quote(SGX)
    start = raw.index(b"-----BEGIN")
    end = b"-----END CERTIFICATE-----\n"
    leaf, issuer, root = (part + end for part in raw[start:].split(end)[:3])
    for chain in (leaf * 38, leaf + issuer * 60, leaf + root * 60, leaf + (issuer + root) * 30):
        signed = raw[436 : start - 4] + len(chain).to_bytes(4, "little") + chain
        stuffed = raw[:432] + len(signed).to_bytes(4, "little") + signed
        assert len(stuffed) <= MAX_QUOTE_BYTES
        assert judged(stuffed, sgx) is Reason.BAD_CERTIFICATE
