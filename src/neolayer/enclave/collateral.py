"""Collateral: what Intel publishes about a kind of platform, checked on entry, kept by digest.

dcap-qvl checks all of it again at every verification; the check here keeps out of the table what
could never vouch for anything, and reads the dates after which each part is stale.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import cast

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509.oid import NameOID

from neolayer.enclave.quotes import Tee
from neolayer.errors import InvalidInput

MAX_DOCUMENT_BYTES = 1_048_576
# The Intel SGX Root CA, by which all of it is signed in the end.
_ROOT = bytes.fromhex("44a0196b2b99f889b8e149e95b807a350e7424964399e885a7cbb8ccfab674d3")
_AUTHORITIES = {
    "Intel SGX PCK Processor CA": "processor",
    "Intel SGX PCK Platform CA": "platform",
}
_QE_IDENTITIES = {"QE": Tee.SGX, "TD_QE": Tee.TDX}


class BadCollateral(InvalidInput):
    """This is no collateral."""


class Document(msgspec.Struct, frozen=True):
    """The nine parts, as Intel's service and the tools around it name them."""

    pck_crl_issuer_chain: str
    root_ca_crl: str
    pck_crl: str
    tcb_info_issuer_chain: str
    tcb_info: str
    tcb_info_signature: str
    qe_identity_issuer_chain: str
    qe_identity: str
    qe_identity_signature: str


class _Signed(msgspec.Struct, frozen=True):
    """The head of a signed part."""

    id: str
    issued_at: datetime = msgspec.field(name="issueDate")
    next_update: datetime = msgspec.field(name="nextUpdate")
    evaluation_number: int = msgspec.field(name="tcbEvaluationDataNumber")
    fmspc: str = ""


@dataclass(frozen=True, slots=True)
class Collateral:
    """One version for one kind of platform: `fmspc` names it, `ca` who certified its keys.

    `issued_at` is when its newest part was made, `oldest_part_at` when the oldest of the parts that
    are renewed monthly was.
    """

    id: str
    tee: Tee
    fmspc: str
    ca: str
    tcb_evaluation_number: int
    issued_at: datetime
    oldest_part_at: datetime
    tcb_info_until: datetime
    qe_identity_until: datetime
    root_ca_crl_until: datetime
    pck_crl_until: datetime
    certificates_until: datetime
    document: bytes

    @property
    def parts_until(self) -> dict[str, datetime]:
        """When each part goes stale."""
        return {
            "tcb_info": self.tcb_info_until,
            "qe_identity": self.qe_identity_until,
            "root_ca_crl": self.root_ca_crl_until,
            "pck_crl": self.pck_crl_until,
            "certificates": self.certificates_until,
        }


def read_collateral(document: bytes) -> Collateral:
    """Collateral from its JSON document, every signature in it checked. Raises BadCollateral."""
    if len(document) > MAX_DOCUMENT_BYTES:
        raise BadCollateral(f"collateral of {len(document)} bytes is no collateral")
    try:
        return _read(msgspec.json.decode(document, type=Document))
    except (msgspec.MsgspecError, ValueError, UnsupportedAlgorithm, RecursionError) as exc:
        raise BadCollateral(f"no collateral: {exc}") from exc


def _read(parts: Document) -> Collateral:
    tcb = _signed("TCB info", parts.tcb_info, parts.tcb_info_signature, parts.tcb_info_issuer_chain)
    qe = _signed(
        "QE identity",
        parts.qe_identity,
        parts.qe_identity_signature,
        parts.qe_identity_issuer_chain,
    )
    tee = _tee(tcb, qe)
    issuers = _chain("PCK CRL issuer", parts.pck_crl_issuer_chain)
    root_crl = _revocations("root CA CRL", parts.root_ca_crl, issuers[-1])
    pck_crl = _revocations("PCK CRL", parts.pck_crl, issuers[0])
    certificates = [
        *issuers,
        *_chain("TCB info issuer", parts.tcb_info_issuer_chain),
        *_chain("QE identity issuer", parts.qe_identity_issuer_chain),
    ]
    _refuse_revoked(certificates, root_crl)
    renewed = (tcb.issued_at, qe.issued_at, pck_crl.last_update_utc)
    document = msgspec.json.encode(_canonical(parts))
    return Collateral(
        id=hashlib.sha256(document).hexdigest(),
        tee=tee,
        fmspc=tcb.fmspc.lower(),
        ca=_authority(issuers[0]),
        tcb_evaluation_number=min(tcb.evaluation_number, qe.evaluation_number),
        issued_at=max(*renewed, root_crl.last_update_utc),
        oldest_part_at=min(renewed),
        tcb_info_until=tcb.next_update,
        qe_identity_until=qe.next_update,
        root_ca_crl_until=_until(root_crl),
        pck_crl_until=_until(pck_crl),
        certificates_until=min(one.not_valid_after_utc for one in certificates),
        document=document,
    )


def _canonical(parts: Document) -> Document:
    """The same with hex in lower case and chains without blanks around, so that twins are one."""
    return Document(
        pck_crl_issuer_chain=parts.pck_crl_issuer_chain.strip(),
        root_ca_crl=parts.root_ca_crl.lower(),
        pck_crl=parts.pck_crl.lower(),
        tcb_info_issuer_chain=parts.tcb_info_issuer_chain.strip(),
        tcb_info=parts.tcb_info,
        tcb_info_signature=parts.tcb_info_signature.lower(),
        qe_identity_issuer_chain=parts.qe_identity_issuer_chain.strip(),
        qe_identity=parts.qe_identity,
        qe_identity_signature=parts.qe_identity_signature.lower(),
    )


def _tee(tcb: _Signed, qe: _Signed) -> Tee:
    if tcb.id not in set(Tee) or _QE_IDENTITIES.get(qe.id) != tcb.id:
        raise BadCollateral(f"TCB info of {tcb.id} beside a QE identity of {qe.id}")
    return Tee(tcb.id)


def _signed(name: str, text: str, signature: str, chain: str) -> _Signed:
    """The head of a part whose signature holds."""
    key = _chain(f"{name} issuer", chain)[0].public_key()
    raw = bytes.fromhex(signature)
    if not isinstance(key, ec.EllipticCurvePublicKey) or len(raw) != 64:
        raise BadCollateral(f"the {name}'s signature is no ECDSA signature of 64 bytes")
    r, s = (int.from_bytes(half, "big") for half in (raw[:32], raw[32:]))
    try:
        key.verify(encode_dss_signature(r, s), text.encode(), ec.ECDSA(SHA256()))
    except InvalidSignature:
        raise BadCollateral(f"the {name}'s signature is invalid") from None
    return msgspec.json.decode(text, type=_Signed)


def _chain(name: str, text: str) -> Sequence[x509.Certificate]:
    """Certificates, each issued by the next, the last Intel's root."""
    chain = x509.load_pem_x509_certificates(text.encode())
    if chain[-1].fingerprint(SHA256()) != _ROOT:
        raise BadCollateral(f"the {name} chain does not end at the Intel SGX Root CA")
    for certificate, issuer in _links(chain):
        try:
            certificate.verify_directly_issued_by(issuer)
        except (InvalidSignature, TypeError):
            raise BadCollateral(f"the {name} chain is broken") from None
    return chain


def _links(
    chain: Sequence[x509.Certificate],
) -> Iterator[tuple[x509.Certificate, x509.Certificate]]:
    yield from zip(chain, (*chain[1:], chain[-1]), strict=True)


def _revocations(name: str, text: str, issuer: x509.Certificate) -> x509.CertificateRevocationList:
    """A revocation list that its issuer signed, in DER as hex."""
    found = x509.load_der_x509_crl(bytes.fromhex(text))
    key = cast("ec.EllipticCurvePublicKey", issuer.public_key())
    if found.issuer != issuer.subject or not found.is_signature_valid(key):
        raise BadCollateral(f"the {name} is not signed by its issuer")
    return found


def _until(revocations: x509.CertificateRevocationList) -> datetime:
    if revocations.next_update_utc is None:
        raise BadCollateral("a revocation list does not say until when it holds")
    return revocations.next_update_utc


def _refuse_revoked(
    certificates: Sequence[x509.Certificate], revocations: x509.CertificateRevocationList
) -> None:
    for one in certificates:
        number = one.serial_number
        if revocations.get_revoked_certificate_by_serial_number(number) is not None:
            raise BadCollateral(f"a certificate in it is revoked: {number:x}")


def _authority(issuer: x509.Certificate) -> str:
    (name, *_) = (
        str(attribute.value)
        for attribute in issuer.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    )
    if name not in _AUTHORITIES:
        raise BadCollateral(f"the PCK CRL is of {name!r}, which certifies no platforms")
    return _AUTHORITIES[name]
