"""Tenancy's classes of data: the tenants, what they may have and use, and their documents."""

from __future__ import annotations

from neolayer.catalogue import DataClass, MongoCopy

_DATABASE = "neolayer"

CLASSES: tuple[DataClass, ...] = (
    DataClass(
        "tenants",
        _DATABASE,
        "core.tenants",
        tenant_key="id",
        personal_fields=("name", "settings"),
        known_by=("id", "identifier"),
    ),
    DataClass(
        "tenant_data",
        _DATABASE,
        "core.tenant_data",
        copies=(
            MongoCopy(
                "tenant_documents",
                ("tenant_id", "data_id"),
                ("tenant_id", "data_id", "data", "created_at", "updated_at"),
            ),
        ),
        tenant_key="tenant_id",
        known_by=("data_id",),
    ),
    # The books that the database keeps by itself, derived from the tenants and what they have.
    DataClass("tenant_standing", _DATABASE, "core.tenant_standing", tenant_key="id"),
    DataClass("usage_slots", _DATABASE, "core.usage_slots", tenant_key="tenant"),
    DataClass("tiers", _DATABASE, "core.tiers"),
)
