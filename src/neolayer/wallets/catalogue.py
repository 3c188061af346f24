"""The wallets' class of data: a tenant's own, joined to public chain data by address."""

from __future__ import annotations

from neolayer.catalogue import DataClass, SealedField

CLASSES: tuple[DataClass, ...] = (
    DataClass(
        "wallets",
        "neolayer",
        "blockchain.wallets",
        tenant_key="tenant_id",
        personal_fields=("user_id", "name", "address"),
        known_by=("id", "address"),
        sealed_fields=(
            SealedField(
                "encrypted_private_key",
                "key_id",
                bound_to={"tenant": "tenant_id", "network": "network_id", "address": "address"},
            ),
        ),
    ),
)
