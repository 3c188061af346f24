"""The audit trail's classes of data. Entries are kept: what was done is not forgotten."""

from __future__ import annotations

from neolayer.catalogue import DataClass, MongoCopy

_DATABASE = "neolayer"

# What is there to be asked about; the chain's links stay where the chain is verified.
_COPIED = (
    *("id", "tenant_id", "occurred_at", "principal", "user_id", "action", "resource"),
    *("resource_id", "changes", "ip_address", "user_agent", "success", "error_message"),
    *("chain_number", "entry_hash", "sealed_at"),
)

CLASSES: tuple[DataClass, ...] = (
    DataClass(
        "audit_entries",
        _DATABASE,
        "audit.entries",
        copies=(MongoCopy("audit_logs", ("id",), _COPIED, names={"occurred_at": "timestamp"}),),
        tenant_key="tenant_id",
        personal_fields=(
            *("principal", "user_id", "resource_id", "changes", "ip_address", "user_agent"),
            "error_message",
        ),
    ),
    DataClass("audit_heads", _DATABASE, "audit.heads", tenant_key="tenant_id"),
    DataClass("audit_anchors", _DATABASE, "audit.anchors"),
)
