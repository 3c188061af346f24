"""The webhooks' classes of data."""

from __future__ import annotations

from datetime import timedelta

from neolayer.catalogue import DataClass, SealedField

_DATABASE = "neolayer"
KEEP = timedelta(days=7)

CLASSES: tuple[DataClass, ...] = (
    DataClass("webhooks", _DATABASE, "core.webhooks", tenant_key="tenant_id"),
    DataClass(
        "webhook_secrets",
        _DATABASE,
        "core.webhook_secrets",
        tenant_key="tenant_id",
        sealed_fields=(
            SealedField(
                "sealed_secret",
                "key_id",
                bound_to={"tenant": "tenant_id", "webhook": "webhook_id"},
            ),
        ),
    ),
    DataClass(
        "webhook_deliveries",
        _DATABASE,
        "core.webhook_deliveries",
        retention=KEEP,
        tenant_key="tenant_id",
    ),
    DataClass("relay_checkpoints", _DATABASE, "core.relay_checkpoints"),
)
