"""What must match for an enclave to open a sealed blob. No I/O.

A processor derives the sealing key from what runs: from the exact build (MRENCLAVE: lost with the
next one) or from its signer, product and security version (MRSIGNER: open to the same or a higher
version), always with the debug bit and on one machine only. The layer never sees a key; it keeps
what the sealer said, and answers by it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from neolayer.enclave.model import Attestation
from neolayer.enclave.quotes import Tee
from neolayer.errors import InvalidInput

_DIGITS = frozenset("0123456789abcdef")


class Sealing(StrEnum):
    """What the sealing key is derived from."""

    MRENCLAVE = "MRENCLAVE"
    MRSIGNER = "MRSIGNER"
    USER_DEFINED = "USER_DEFINED"


@dataclass(frozen=True, slots=True)
class SealingPolicy:
    """What the sealer says of a blob. Raises InvalidInput where it contradicts itself.

    `platform_id`, `cpu_svn` and `key_id` may be left out; what is not said is not compared.
    """

    policy: Sealing
    mr_enclave: str | None = None
    mr_signer: str | None = None
    isv_prod_id: int | None = None
    isv_svn: int | None = None
    cpu_svn: str | None = None
    key_id: str | None = None
    platform_id: str | None = None
    is_debug: bool = False

    def __post_init__(self) -> None:
        by_signer = (self.mr_signer, self.isv_prod_id, self.isv_svn)
        match self.policy:
            case Sealing.MRENCLAVE:
                fits = self.mr_enclave is not None and by_signer == (None, None, None)
            case Sealing.MRSIGNER:
                fits = self.mr_enclave is None and None not in by_signer
            case Sealing.USER_DEFINED:
                fits = self.mr_enclave is None and by_signer == (None, None, None)
        if not fits:
            raise InvalidInput(
                f"what was said does not fit {self.policy}",
                hint="MRENCLAVE: mr_enclave; MRSIGNER: mr_signer, isv_prod_id, isv_svn; else none",
            )
        for name, digits in (
            ("mr_enclave", 64),
            ("mr_signer", 64),
            ("cpu_svn", 32),
            ("key_id", 64),
            ("platform_id", 32),
        ):
            text: str | None = getattr(self, name)
            if text is not None and (len(text) != digits or not _DIGITS.issuperset(text)):
                raise InvalidInput(f"{name} is {digits} digits of lower-case hex")
        for name in ("isv_prod_id", "isv_svn"):
            number: int | None = getattr(self, name)
            if number is not None and not 0 <= number <= 65535:
                raise InvalidInput(f"{name} is from 0 to 65535, not {number}")


@dataclass(frozen=True, slots=True)
class SealedData:
    """What is known of a blob. `version` rises by one with each replacement."""

    data_key: str
    version: int
    enclave_id: str
    owner_id: UUID
    size: int
    created_at: datetime
    updated_at: datetime
    sealing: SealingPolicy


class Opening(StrEnum):
    """Whether an enclave may open a blob, or why not."""

    MAY_OPEN = "may_open"
    NOT_ATTESTED = "not_attested"
    NO_SEALING_KEYS = "no_sealing_keys"
    OTHER_BUILD = "other_build"
    OTHER_SIGNER = "other_signer"
    OTHER_PRODUCT = "other_product"
    SVN_TOO_LOW = "svn_too_low"
    DEBUG_DIFFERS = "debug_differs"
    OTHER_PLATFORM = "other_platform"
    ONLY_THE_ENCLAVE_KNOWS = "only_the_enclave_knows"


@dataclass(frozen=True, slots=True)
class Answer:
    """`note` says what else has to hold that nobody can see from here."""

    opening: Opening
    note: str | None = None

    @property
    def is_yes(self) -> bool:
        """Whether it may."""
        return self.opening is Opening.MAY_OPEN


def may_open(sealing: SealingPolicy, enclave: Attestation, *, at: datetime) -> Answer:
    """Whether the attested enclave may open what was sealed so."""
    opening = _opening(sealing, enclave, at)
    if opening is not Opening.MAY_OPEN:
        return Answer(opening)
    notes: list[str] = []
    if sealing.platform_id is None or enclave.platform_id is None:
        notes.append("on the machine where it was sealed only")
    if sealing.cpu_svn is not None and sealing.cpu_svn != enclave.cpu_svn:
        notes.append("if the processor's security version is not lower than at sealing")
    return Answer(opening, "; ".join(notes) or None)


def _opening(sealing: SealingPolicy, enclave: Attestation, at: datetime) -> Opening:
    if not enclave.holds(at):
        return Opening.NOT_ATTESTED
    if enclave.tee != Tee.SGX:
        return Opening.NO_SEALING_KEYS
    if sealing.is_debug != enclave.is_debug:
        return Opening.DEBUG_DIFFERS
    machines = (sealing.platform_id, enclave.platform_id)
    if None not in machines and len(set(machines)) == 2:
        return Opening.OTHER_PLATFORM
    if sealing.policy is Sealing.USER_DEFINED:
        return Opening.ONLY_THE_ENCLAVE_KNOWS
    if sealing.policy is Sealing.MRENCLAVE:
        same = sealing.mr_enclave == enclave.mr_enclave
        return Opening.MAY_OPEN if same else Opening.OTHER_BUILD
    if sealing.mr_signer != enclave.mr_signer:
        return Opening.OTHER_SIGNER
    if sealing.isv_prod_id != enclave.isv_prod_id:
        return Opening.OTHER_PRODUCT
    is_high_enough = (enclave.isv_svn or 0) >= (sealing.isv_svn or 0)
    return Opening.MAY_OPEN if is_high_enough else Opening.SVN_TOO_LOW


@dataclass(frozen=True, slots=True)
class Upgrade:
    """The build that is to take an enclave's place."""

    enclave_id: str
    mr_enclave: str
    mr_signer: str
    isv_prod_id: int
    isv_svn: int

    def why_stranded(self, sealing: SealingPolicy) -> Opening:
        """Why the build could not open what was sealed so; MAY_OPEN where it could."""
        if sealing.is_debug:
            return Opening.DEBUG_DIFFERS
        if sealing.policy is Sealing.USER_DEFINED:
            return Opening.ONLY_THE_ENCLAVE_KNOWS
        if sealing.policy is Sealing.MRENCLAVE:
            same = sealing.mr_enclave == self.mr_enclave
            return Opening.MAY_OPEN if same else Opening.OTHER_BUILD
        if sealing.mr_signer != self.mr_signer:
            return Opening.OTHER_SIGNER
        if sealing.isv_prod_id != self.isv_prod_id:
            return Opening.OTHER_PRODUCT
        is_high_enough = self.isv_svn >= (sealing.isv_svn or 0)
        return Opening.MAY_OPEN if is_high_enough else Opening.SVN_TOO_LOW
