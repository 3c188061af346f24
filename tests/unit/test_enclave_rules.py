"""What a policy and a sealing policy may say, and who may open what: rules without a database."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from tests.fixtures.quotes import SGX_ENCLAVE, SGX_SIGNER, TD, THEN

from neolayer.enclave.model import Attestation
from neolayer.enclave.policies import AllowedEnclave, Policy, enclave_from_json, enclave_to_json
from neolayer.enclave.reasons import Reason
from neolayer.enclave.sealing import Opening, Sealing, SealingPolicy, Upgrade, may_open
from neolayer.enclave.verifying import Status
from neolayer.errors import InvalidInput

OTHER = "00" * 32
BY_BUILD = SealingPolicy(Sealing.MRENCLAVE, mr_enclave=SGX_ENCLAVE)
BY_SIGNER = SealingPolicy(Sealing.MRSIGNER, mr_signer=SGX_SIGNER, isv_prod_id=7, isv_svn=3)
BY_USER = SealingPolicy(Sealing.USER_DEFINED)
ENCLAVE = Attestation(
    id=UUID(int=1),
    enclave_id="vault",
    status=Status.VERIFIED,
    reason=Reason.ACCEPTED,
    tee="SGX",
    attestation_type="DCAP",
    quote_version=3,
    mr_enclave=SGX_ENCLAVE,
    mr_signer=SGX_SIGNER,
    isv_prod_id=7,
    isv_svn=3,
    cpu_svn="0b" * 16,
    is_debug=False,
    report_data="00" * 64,
    tcb_status="UpToDate",
    advisories=[],
    fmspc=None,
    ca=None,
    platform_id="d0" * 16,
    collateral_id=None,
    policy_version=1,
    verifier="x",
    attested_at=THEN,
    verified_at=THEN,
    expires_at=THEN + timedelta(days=1),
    expires_because="lifetime",
    created_at=THEN,
)


@pytest.mark.parametrize(
    ("sealing", "enclave", "opening"),
    [
        (BY_BUILD, ENCLAVE, Opening.MAY_OPEN),
        (BY_BUILD, replace(ENCLAVE, mr_enclave=OTHER), Opening.OTHER_BUILD),
        (BY_BUILD, replace(ENCLAVE, mr_signer=OTHER, isv_svn=0), Opening.MAY_OPEN),
        (BY_SIGNER, ENCLAVE, Opening.MAY_OPEN),
        (BY_SIGNER, replace(ENCLAVE, mr_enclave=OTHER, isv_svn=4), Opening.MAY_OPEN),
        (BY_SIGNER, replace(ENCLAVE, isv_svn=2), Opening.SVN_TOO_LOW),
        (BY_SIGNER, replace(ENCLAVE, isv_prod_id=8), Opening.OTHER_PRODUCT),
        (BY_SIGNER, replace(ENCLAVE, mr_signer=OTHER), Opening.OTHER_SIGNER),
        (BY_USER, ENCLAVE, Opening.ONLY_THE_ENCLAVE_KNOWS),
        (replace(BY_BUILD, is_debug=True), ENCLAVE, Opening.DEBUG_DIFFERS),
        (replace(BY_BUILD, platform_id="00" * 16), ENCLAVE, Opening.OTHER_PLATFORM),
        (replace(BY_BUILD, platform_id="d0" * 16), ENCLAVE, Opening.MAY_OPEN),
        (BY_BUILD, replace(ENCLAVE, status=Status.REVOKED), Opening.NOT_ATTESTED),
        (BY_BUILD, replace(ENCLAVE, expires_at=THEN), Opening.NOT_ATTESTED),
        (BY_BUILD, replace(ENCLAVE, tee="TDX"), Opening.NO_SEALING_KEYS),
    ],
)
def test_who_may_open_what(sealing: SealingPolicy, enclave: Attestation, opening: Opening) -> None:
    """By build; by signer, product and an equal or higher version; never in debug, or elsewhere."""
    answer = may_open(sealing, enclave, at=THEN)
    assert answer.opening is opening
    assert answer.is_yes is (opening is Opening.MAY_OPEN)


def test_what_nobody_can_see_is_said() -> None:
    """The machine, where it is not known, and a processor's security version that differs."""
    assert "machine" in (may_open(BY_BUILD, ENCLAVE, at=THEN).note or "")
    known = replace(BY_BUILD, platform_id="d0" * 16, cpu_svn="0b" * 16)
    assert may_open(known, ENCLAVE, at=THEN).note is None
    assert "processor" in (may_open(replace(known, cpu_svn="0c" * 16), ENCLAVE, at=THEN).note or "")


def test_an_upgrade_strands_what_its_build_cannot_open() -> None:
    """The same rules, for a build that does not run yet."""
    upgrade = Upgrade("vault", OTHER, SGX_SIGNER, 7, 3)
    assert upgrade.why_stranded(BY_BUILD) is Opening.OTHER_BUILD
    assert upgrade.why_stranded(BY_SIGNER) is Opening.MAY_OPEN
    assert replace(upgrade, isv_svn=2).why_stranded(BY_SIGNER) is Opening.SVN_TOO_LOW
    assert replace(upgrade, isv_prod_id=1).why_stranded(BY_SIGNER) is Opening.OTHER_PRODUCT
    assert replace(upgrade, mr_signer=OTHER).why_stranded(BY_SIGNER) is Opening.OTHER_SIGNER
    assert replace(upgrade, mr_enclave=SGX_ENCLAVE).why_stranded(BY_BUILD) is Opening.MAY_OPEN
    assert upgrade.why_stranded(BY_USER) is Opening.ONLY_THE_ENCLAVE_KNOWS


@pytest.mark.parametrize(
    "said",
    [
        {"policy": Sealing.MRENCLAVE},
        {"policy": Sealing.MRENCLAVE, "mr_enclave": OTHER, "mr_signer": OTHER},
        {"policy": Sealing.MRENCLAVE, "mr_enclave": OTHER, "isv_svn": 1},
        {"policy": Sealing.MRSIGNER, "mr_signer": OTHER, "isv_prod_id": 1},
        {"policy": Sealing.MRSIGNER, "mr_enclave": OTHER, "mr_signer": OTHER},
        {"policy": Sealing.USER_DEFINED, "mr_enclave": OTHER},
        {"policy": Sealing.MRENCLAVE, "mr_enclave": OTHER.upper().replace("0", "A")},
        {"policy": Sealing.MRENCLAVE, "mr_enclave": "zz" * 32},
        {"policy": Sealing.MRENCLAVE, "mr_enclave": OTHER[:-1]},
        {"policy": Sealing.MRSIGNER, "mr_signer": OTHER, "isv_prod_id": 65536, "isv_svn": 0},
        {"policy": Sealing.MRSIGNER, "mr_signer": OTHER, "isv_prod_id": 0, "isv_svn": -1},
        {"policy": Sealing.USER_DEFINED, "key_id": "00"},
    ],
)
def test_D_a_sealing_policy_does_not_contradict_itself(said: dict[str, Any]) -> None:
    """One of build and signer, with all that belongs to it, in canonical hex."""
    with pytest.raises(InvalidInput):
        SealingPolicy(**said)


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"mr_enclave": SGX_ENCLAVE, "mr_signer": SGX_SIGNER},
        {"mr_signer": SGX_SIGNER},
        {"mr_signer": TD, "isv_prod_id": 0},
        {"mr_enclave": SGX_ENCLAVE.upper()},
        {"mr_enclave": SGX_ENCLAVE, "rt_mr": ["00" * 48] * 4},
        {"mr_enclave": TD, "rt_mr": ["00" * 48] * 3},
        {"mr_signer": SGX_SIGNER, "isv_prod_id": True},
        {"mr_signer": SGX_SIGNER, "isv_prod_id": 0, "min_isv_svn": 65536},
        {"mr_signer": SGX_SIGNER, "isv_prod_id": 0, "min_svn": 1},
        {"mr_enclave": 1},
        [],
        None,
    ],
)
def test_D_allowed_enclaves_are_checked(said: Any) -> None:
    """Named in one way, in canonical hex, with nothing unknown beside it."""
    with pytest.raises(InvalidInput):
        enclave_from_json(said)


def test_allowed_enclaves_are_stored_as_they_are_said() -> None:
    """There and back."""
    for allowed in (
        AllowedEnclave(mr_enclave=SGX_ENCLAVE, min_isv_svn=2),
        AllowedEnclave(mr_signer=SGX_SIGNER, isv_prod_id=1),
        AllowedEnclave(mr_enclave=TD, rt_mr=("00" * 48,) * 4),
    ):
        assert enclave_from_json(enclave_to_json(allowed)) == allowed


@pytest.mark.parametrize(
    "said",
    [
        {"tcb_statuses": ("UpToDate", "Revoked")},
        {"tcb_statuses": ("OutOfDate",)},
        {"tcb_statuses": ("UpToDate", "uptodate")},
        {"rejected_advisories": ("x'; DROP",)},
        {"min_tcb_evaluation": -1},
        {"max_lifetime": timedelta(0)},
        {"max_collateral_age": timedelta(days=10_000)},
        {"enclaves": (AllowedEnclave(mr_enclave=SGX_ENCLAVE),) * 1001},
    ],
)
def test_D_a_policy_is_checked(said: dict[str, Any]) -> None:
    """No revoked platform, no unknown status, no endless age."""
    with pytest.raises(InvalidInput):
        Policy(**({"enclaves": ()} | said))
