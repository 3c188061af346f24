"""The room's classes of data.

Collateral is public, the rest is a tenant's. Evidence and its history are kept as long as the
tenant; nonces nobody answered go with the daily work (`tasks.py`).
"""

from __future__ import annotations

from neolayer.catalogue import DataClass

_DATABASE = "neolayer"
_TENANT = "tenant_id"

# The specification's key under the tenant's prefix. Whoever reads it checks what it finds, so the
# relay has nothing to invalidate.
RESULT_KEY = "tenant:{tenant_id}:compute:{id}:result"

CLASSES: tuple[DataClass, ...] = (
    DataClass("collateral", _DATABASE, "enclave.collateral"),
    DataClass(
        "attestation_policies", _DATABASE, "enclave.attestation_policies", tenant_key=_TENANT
    ),
    DataClass("attestation_nonces", _DATABASE, "enclave.nonces", tenant_key=_TENANT),
    DataClass("attestations", _DATABASE, "enclave.attestations", tenant_key=_TENANT),
    DataClass("attestation_history", _DATABASE, "enclave.verifications", tenant_key=_TENANT),
    DataClass(
        "sealed_data",
        _DATABASE,
        "enclave.sealed_data",
        tenant_key=_TENANT,
        personal_fields=("owner_id",),
    ),
    DataClass(
        "computations",
        _DATABASE,
        "enclave.computations",
        tenant_key=_TENANT,
        personal_fields=("user_id",),
    ),
)
