"""What a quote says about itself, read from its bytes without believing any of it.

A quote is a header (48 bytes), in version 5 a descriptor of the body (6), the report, and then the
signature with its certificates. Only what stands before the signature is signed. Bytes after the
end, unused bits and the signature's own mirror image (s and n-s) verify as well, so a quote is
known by the digest of its signed part, never by a digest of the whole.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import StrEnum

from neolayer.enclave.reasons import Reason

MAX_QUOTE_BYTES = 65_536
NONCE_BYTES = 32

_HEADER, _DESCRIPTOR, _SGX_REPORT, _TD_REPORT = 48, 6, 384, 584
_SGX_TEE, _TDX_TEE = 0, 0x81
_EPID_VERSIONS, _DCAP_VERSIONS = (1, 2), (3, 4, 5)
# What a version 5 body is: its type, and how long it must be.
_BODIES = {1: _SGX_REPORT, 2: _TD_REPORT, 3: 648, 4: 896}


class Tee(StrEnum):
    """The kind of trusted hardware."""

    SGX = "SGX"
    TDX = "TDX"


class Unreadable(Exception):
    """The bytes are no quote."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Quote:
    """A quote's claims. A TD has no signer of its code: `mr_enclave` is its mr_td."""

    raw: bytes
    version: int
    tee: Tee
    signed_size: int
    mr_enclave: str
    mr_signer: str | None
    isv_prod_id: int | None
    isv_svn: int | None
    report_data: bytes
    cpu_svn: str | None
    is_debug: bool
    rt_mr: tuple[str, ...] = ()

    @property
    def is_epid(self) -> bool:
        """Whether it is of the early scheme, which nobody can verify any more."""
        return self.version in _EPID_VERSIONS

    @property
    def signed_digest(self) -> str:
        """SHA-256 of header and report in hex: the identity of the evidence."""
        return hashlib.sha256(self.raw[: self.signed_size]).hexdigest()

    @property
    def nonce(self) -> bytes:
        """Where a nonce stands if there is one: the first half of the report data."""
        return self.report_data[:NONCE_BYTES]


def read_quote(raw: bytes) -> Quote:
    """The claims of a quote. Raises Unreadable with the reason."""
    if not raw:
        raise Unreadable(Reason.EMPTY, "no bytes")
    if len(raw) > MAX_QUOTE_BYTES:
        raise Unreadable(Reason.TOO_LARGE, f"{len(raw)} bytes, more than {MAX_QUOTE_BYTES}")
    if len(raw) < _HEADER + _SGX_REPORT:
        raise Unreadable(Reason.UNDECODABLE, f"{len(raw)} bytes are less than header and report")
    version = _u16(raw, 0)
    if version not in (*_EPID_VERSIONS, *_DCAP_VERSIONS):
        raise Unreadable(Reason.UNSUPPORTED_VERSION, f"version {version}")
    tee = Tee.SGX if version <= 3 else _tee(raw)
    start = _HEADER + _DESCRIPTOR if version == 5 else _HEADER
    size = _body_size(raw, tee) if version == 5 else _size_of(tee)
    if len(raw) < start + size:
        raise Unreadable(Reason.UNDECODABLE, f"cut within its report, at byte {len(raw)}")
    read = _read_sgx if tee is Tee.SGX else _read_tdx
    return read(raw, version, start, start + size)


def _tee(raw: bytes) -> Tee:
    number = int.from_bytes(raw[4:8], "little")
    if number == _TDX_TEE:
        return Tee.TDX
    if number == _SGX_TEE:
        return Tee.SGX
    raise Unreadable(Reason.UNDECODABLE, f"unknown kind of hardware {number:#x}")


def _size_of(tee: Tee) -> int:
    return _SGX_REPORT if tee is Tee.SGX else _TD_REPORT


def _body_size(raw: bytes, tee: Tee) -> int:
    kind, size = _u16(raw, _HEADER), int.from_bytes(raw[_HEADER + 2 : _HEADER + 6], "little")
    if _BODIES.get(kind) != size or (kind == 1) is not (tee is Tee.SGX):
        raise Unreadable(Reason.UNDECODABLE, f"a body of type {kind} with {size} bytes")
    return size


def _read_sgx(raw: bytes, version: int, start: int, end: int) -> Quote:
    report = raw[start:end]
    return Quote(
        raw=raw,
        version=version,
        tee=Tee.SGX,
        signed_size=end,
        mr_enclave=report[64:96].hex(),
        mr_signer=report[128:160].hex(),
        isv_prod_id=_u16(report, 256),
        isv_svn=_u16(report, 258),
        report_data=report[320:384],
        cpu_svn=report[:16].hex(),
        is_debug=bool(report[48] & 2),
    )


def _read_tdx(raw: bytes, version: int, start: int, end: int) -> Quote:
    report = raw[start:end]
    return Quote(
        raw=raw,
        version=version,
        tee=Tee.TDX,
        signed_size=end,
        mr_enclave=report[136:184].hex(),
        mr_signer=None,
        isv_prod_id=None,
        isv_svn=None,
        report_data=report[520:584],
        cpu_svn=None,
        is_debug=bool(report[120] & 1),
        rt_mr=tuple(report[at : at + 48].hex() for at in range(328, 520, 48)),
    )


def _u16(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 2], "little")
