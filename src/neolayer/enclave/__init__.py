"""Enclaves: who is attested, what they sealed, and what they compute."""

from __future__ import annotations

from neolayer.enclave.attestations import Attestations
from neolayer.enclave.collateral import BadCollateral, Collateral
from neolayer.enclave.collateral_store import CollateralStore
from neolayer.enclave.computations import (
    Claim,
    Computation,
    Computations,
    ComputationStatus,
    OutOfGas,
    Result,
)
from neolayer.enclave.model import (
    Attestation,
    AttestationNotFound,
    ComputationEnded,
    ComputationNotFound,
    LeaseLost,
    Nonce,
    NotAttested,
    Outcome,
    SealedDataNotFound,
    Verification,
    VersionConflict,
)
from neolayer.enclave.policies import (
    LONGEST_POLICY,
    MAX_ADVISORIES,
    MAX_ENCLAVES,
    AllowedEnclave,
    Policy,
    policy_from_json,
    policy_to_json,
)
from neolayer.enclave.reasons import Reason
from neolayer.enclave.results import ResultCache
from neolayer.enclave.sealed import SealedBlob, SealedDataStore
from neolayer.enclave.sealing import Answer, Opening, SealedData, Sealing, SealingPolicy, Upgrade
from neolayer.enclave.verifying import Status

__all__ = [
    "LONGEST_POLICY",
    "MAX_ADVISORIES",
    "MAX_ENCLAVES",
    "AllowedEnclave",
    "Answer",
    "Attestation",
    "AttestationNotFound",
    "Attestations",
    "BadCollateral",
    "Claim",
    "Collateral",
    "CollateralStore",
    "Computation",
    "ComputationEnded",
    "ComputationNotFound",
    "ComputationStatus",
    "Computations",
    "LeaseLost",
    "Nonce",
    "NotAttested",
    "Opening",
    "OutOfGas",
    "Outcome",
    "Policy",
    "Reason",
    "Result",
    "ResultCache",
    "SealedBlob",
    "SealedData",
    "SealedDataNotFound",
    "SealedDataStore",
    "Sealing",
    "SealingPolicy",
    "Status",
    "Upgrade",
    "Verification",
    "VersionConflict",
    "policy_from_json",
    "policy_to_json",
]
