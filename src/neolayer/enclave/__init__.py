"""Enclaves: who is attested, what they sealed, and what they compute."""

from __future__ import annotations

from neolayer.enclave.attestations import Attestations, CollateralStore
from neolayer.enclave.collateral import BadCollateral, Collateral
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
from neolayer.enclave.policies import AllowedEnclave, Policy
from neolayer.enclave.reasons import Reason
from neolayer.enclave.verifying import Status

__all__ = [
    "AllowedEnclave",
    "Attestation",
    "AttestationNotFound",
    "Attestations",
    "BadCollateral",
    "Collateral",
    "CollateralStore",
    "ComputationEnded",
    "ComputationNotFound",
    "LeaseLost",
    "Nonce",
    "NotAttested",
    "Outcome",
    "Policy",
    "Reason",
    "SealedDataNotFound",
    "Status",
    "Verification",
    "VersionConflict",
]
