"""The audit trail's classes of data. Entries are kept: what was done is not forgotten."""

from __future__ import annotations

from neolayer.catalogue import DataClass

_DATABASE = "neolayer"

CLASSES: tuple[DataClass, ...] = (
    DataClass(
        "audit_entries",
        _DATABASE,
        "audit.entries",
        tenant_key="tenant_id",
        personal_fields=(
            *("principal", "user_id", "resource_id", "changes", "ip_address", "user_agent"),
            "error_message",
        ),
    ),
    DataClass("audit_heads", _DATABASE, "audit.heads", tenant_key="tenant_id"),
    DataClass("audit_anchors", _DATABASE, "audit.anchors"),
)
