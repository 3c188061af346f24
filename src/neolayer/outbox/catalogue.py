"""The outbox's class of data: events on their way out."""

from __future__ import annotations

from datetime import timedelta

from neolayer.catalogue import DataClass, EventColumns, OutgoingCopy

KEEP = timedelta(days=3)

CLASSES: tuple[DataClass, ...] = (
    DataClass(
        "outbox",
        "neolayer",
        "core.outbox",
        copies=(
            OutgoingCopy(
                "outbox.{subject}",
                key=("key",),
                columns=("event_data",),
                event=EventColumns(),
            ),
        ),
        retention=KEEP,
        tenant_key="tenant_id",
    ),
)
