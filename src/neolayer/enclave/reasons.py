"""Why a quote was accepted or refused: one code for each cause, and the words for people.

dcap-qvl tells its reasons as text only. This is the one place that reads those texts; what is not
known here becomes `verifier_failed`, with the text kept beside it.
"""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """The cause of a verdict. The value is what is stored."""

    ACCEPTED = "accepted"

    # The bytes
    EMPTY = "empty"
    TOO_LARGE = "too_large"
    UNDECODABLE = "undecodable"
    UNSUPPORTED_VERSION = "unsupported_version"
    EPID = "epid"

    # The signatures
    BAD_SIGNATURE = "bad_signature"
    BAD_ATTESTATION_KEY = "bad_attestation_key"
    BAD_QUOTING_ENCLAVE = "bad_quoting_enclave"
    BAD_CERTIFICATE = "bad_certificate"
    CERTIFICATE_REVOKED = "certificate_revoked"

    # The collateral
    NO_COLLATERAL = "no_collateral"
    WRONG_COLLATERAL = "wrong_collateral"
    BAD_COLLATERAL = "bad_collateral"
    COLLATERAL_EXPIRED = "collateral_expired"
    COLLATERAL_OF_THE_FUTURE = "collateral_of_the_future"
    COLLATERAL_TOO_OLD = "collateral_too_old"

    # What runs, on what
    DEBUG = "debug"
    TCB_REVOKED = "tcb_revoked"
    TCB_UNKNOWN = "tcb_unknown"
    TCB_NOT_ACCEPTED = "tcb_not_accepted"
    TCB_EVALUATION_TOO_OLD = "tcb_evaluation_too_old"
    ADVISORY_REJECTED = "advisory_rejected"
    PLATFORM_NOT_ACCEPTED = "platform_not_accepted"
    ENCLAVE_NOT_ALLOWED = "enclave_not_allowed"
    SVN_TOO_LOW = "svn_too_low"

    # When, and for whom
    NO_POLICY = "no_policy"
    NONCE_UNKNOWN = "nonce_unknown"
    NONCE_EXPIRED = "nonce_expired"
    NONCE_USED = "nonce_used"
    REPLAYED = "replayed"
    LIFETIME_OVER = "lifetime_over"
    REVOKED = "revoked"
    OTHER_ENCLAVE = "other_enclave"

    VERIFIER_FAILED = "verifier_failed"


# The beginnings of dcap-qvl 0.7's texts, the first that fits. Order matters only where one begins
# another.
_TEXTS: tuple[tuple[str, Reason], ...] = (
    ("Failed to decode quote", Reason.UNDECODABLE),
    ("Failed to parse quote", Reason.UNDECODABLE),
    ("Invalid QE auth data", Reason.UNDECODABLE),
    ("Unsupported DCAP quote version", Reason.UNSUPPORTED_VERSION),
    ("SGX TEE quote must have version", Reason.UNSUPPORTED_VERSION),
    ("TDX TEE quote must have version", Reason.UNSUPPORTED_VERSION),
    ("Unsupported DCAP", Reason.UNDECODABLE),
    ("Unsupported certification data", Reason.UNDECODABLE),
    ("Unknown QE vendor ID", Reason.UNDECODABLE),
    ("ISV enclave report signature is invalid", Reason.BAD_SIGNATURE),
    ("QE report hash mismatch", Reason.BAD_ATTESTATION_KEY),
    ("Signature is invalid for qe_report", Reason.BAD_QUOTING_ENCLAVE),
    ("Failed to extract PCK certificates", Reason.BAD_CERTIFICATE),
    ("Failed to parse PCK", Reason.BAD_CERTIFICATE),
    ("Failed to verify certificate chain", Reason.BAD_CERTIFICATE),
    ("Certificate chain is too short in quote", Reason.BAD_CERTIFICATE),
    ("Too many intermediate certificates", Reason.BAD_CERTIFICATE),
    ("UnknownIssuer", Reason.BAD_CERTIFICATE),
    ("CertRevoked", Reason.CERTIFICATE_REVOKED),
    ("CrlExpired", Reason.COLLATERAL_EXPIRED),
    ("CertExpired", Reason.COLLATERAL_EXPIRED),
    ("TCBInfo expired", Reason.COLLATERAL_EXPIRED),
    ("QE Identity expired", Reason.COLLATERAL_EXPIRED),
    ("Collateral expired", Reason.COLLATERAL_EXPIRED),
    ("TCBInfo issue date is in the future", Reason.COLLATERAL_OF_THE_FUTURE),
    ("QE Identity issue date is in the future", Reason.COLLATERAL_OF_THE_FUTURE),
    ("CertNotValidYet", Reason.COLLATERAL_OF_THE_FUTURE),
    ("Fmspc mismatch", Reason.WRONG_COLLATERAL),
    ("UnknownRevocationStatus", Reason.WRONG_COLLATERAL),
    ("Unsupported QE Identity", Reason.WRONG_COLLATERAL),
    ("SGX quote with non-SGX TCB info", Reason.WRONG_COLLATERAL),
    ("TDX quote with non-TDX TCB info", Reason.WRONG_COLLATERAL),
    ("Signature is invalid for", Reason.BAD_COLLATERAL),
    ("Failed to decode TcbInfo", Reason.BAD_COLLATERAL),
    ("Failed to decode QeIdentity", Reason.BAD_COLLATERAL),
    ("Failed to parse TCB", Reason.BAD_COLLATERAL),
    ("Failed to parse QE Identity", Reason.BAD_COLLATERAL),
    ("Certificate chain is too short for", Reason.BAD_COLLATERAL),
    ("QE ", Reason.BAD_QUOTING_ENCLAVE),
    ("Debug mode is enabled", Reason.DEBUG),
    ("TCB status is invalid: Revoked", Reason.TCB_REVOKED),
    ("TCB status Revoked", Reason.TCB_REVOKED),
    ("TCB status", Reason.TCB_NOT_ACCEPTED),
    ("No matching TCB level", Reason.TCB_UNKNOWN),
    ("No TDX module identity", Reason.TCB_UNKNOWN),
    ("TDX module", Reason.PLATFORM_NOT_ACCEPTED),
    ("TCB eval data number", Reason.TCB_EVALUATION_TOO_OLD),
    ("Advisory ID", Reason.ADVISORY_REJECTED),
    ("Dynamic platform", Reason.PLATFORM_NOT_ACCEPTED),
    ("Cached keys", Reason.PLATFORM_NOT_ACCEPTED),
    ("SMT", Reason.PLATFORM_NOT_ACCEPTED),
    ("SGX type", Reason.PLATFORM_NOT_ACCEPTED),
)

# What may stand behind "Failed to verify certificate chain".
_CAUSES: tuple[tuple[str, Reason], ...] = (
    ("CertRevoked", Reason.CERTIFICATE_REVOKED),
    ("CertExpired", Reason.COLLATERAL_EXPIRED),
    ("CrlExpired", Reason.COLLATERAL_EXPIRED),
    ("CertNotValidYet", Reason.COLLATERAL_OF_THE_FUTURE),
    ("UnknownRevocationStatus", Reason.WRONG_COLLATERAL),
)

_HINTS = {
    Reason.EPID: "Intel has ended the service that vouched for EPID quotes: attest with DCAP",
    Reason.NO_COLLATERAL: "add it: neolayer attestations collateral add FILE",
    Reason.COLLATERAL_EXPIRED: "add newer collateral: neolayer attestations collateral add FILE",
    Reason.COLLATERAL_TOO_OLD: "add newer collateral: neolayer attestations collateral add FILE",
    Reason.NO_POLICY: "say what is accepted: neolayer attestations policy set FILE",
    Reason.ENCLAVE_NOT_ALLOWED: "allow its mr_enclave or mr_signer in the policy",
    Reason.NONCE_UNKNOWN: "issue a nonce and put it first in the report data",
    Reason.NONCE_EXPIRED: "issue a new nonce and quote anew",
    Reason.NONCE_USED: "issue a new nonce and quote anew",
    Reason.REPLAYED: "this quote was accepted before: quote anew over a new nonce",
}


def reason_of(text: str) -> Reason:
    """The code for what dcap-qvl says."""
    told = text.removeprefix("Verification failed: ")
    known = (reason for beginning, reason in _TEXTS if told.startswith(beginning))
    reason = next(known, Reason.VERIFIER_FAILED)
    if reason is Reason.BAD_CERTIFICATE:
        return next((cause for word, cause in _CAUSES if word in told), reason)
    return reason


def hint_of(reason: Reason) -> str | None:
    """What whoever is refused can do about it."""
    return _HINTS.get(reason)
