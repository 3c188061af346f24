"""The event store's classes of data. Facts are kept; what comes of them can be made again."""

from __future__ import annotations

from neolayer.catalogue import DataClass, EventColumns, OutgoingCopy, SealedField

_DATABASE = "event_store"

CLASSES: tuple[DataClass, ...] = (
    DataClass(
        "events",
        _DATABASE,
        "public.events",
        copies=(
            OutgoingCopy(
                "events.{aggregate_type}",
                key=("aggregate_id",),
                columns=("event_data",),
                event=EventColumns(),
            ),
        ),
        tenant_key="tenant_id",
        personal_fields=("event_data", "metadata", "user_id"),
        known_by=("aggregate_id", "event_id"),
        archived_in="public.archived_streams",
    ),
    DataClass(
        "stream_heads",
        _DATABASE,
        "public.stream_heads",
        tenant_key="tenant_id",
        known_by=("aggregate_id",),
    ),
    DataClass(
        "snapshots",
        _DATABASE,
        "public.snapshots",
        tenant_key="tenant_id",
        personal_fields=("snapshot_data",),
        known_by=("aggregate_id",),
    ),
    DataClass("projections", _DATABASE, "public.projections"),
    DataClass("projection_certificates", _DATABASE, "public.projection_certificates"),
    DataClass(
        "projection_parked_events",
        _DATABASE,
        "public.projection_parked_events",
        tenant_key="tenant_id",
        personal_fields=("cause",),
        known_by=("aggregate_id",),
    ),
    # What seals the personal fields of all of these: without its row a person is erased.
    DataClass(
        "subject_keys",
        "neolayer",
        "core.subject_keys",
        tenant_key="tenant_id",
        personal_fields=("id",),
        sealed_fields=(
            SealedField("sealed_key", "key_id", bound_to={"tenant": "tenant_id", "subject": "id"}),
        ),
    ),
    # Where closed streams lie in the object store.
    DataClass(
        "archived_streams",
        _DATABASE,
        "public.archived_streams",
        tenant_key="tenant_id",
        known_by=("aggregate_id",),
    ),
    # Whose ids they were: kept as long as the tenant, so that no id ever stands for two events. No
    # content, hence nothing of a person.
    DataClass(
        "archived_events",
        _DATABASE,
        "public.archived_events",
        tenant_key="tenant_id",
        known_by=("event_id", "aggregate_id"),
    ),
    DataClass("subscriptions", _DATABASE, "public.subscriptions", tenant_key="tenant_id"),
    DataClass(
        "subscription_partitions",
        _DATABASE,
        "public.subscription_partitions",
        tenant_key="tenant_id",
    ),
    DataClass(
        "subscription_consumers", _DATABASE, "public.subscription_consumers", tenant_key="tenant_id"
    ),
    DataClass(
        "parked_events",
        _DATABASE,
        "public.parked_events",
        tenant_key="tenant_id",
        personal_fields=("cause",),
        known_by=("aggregate_id",),
    ),
    # What the core database says of tenants, for whoever may not read it.
    DataClass("event_tenant_standing", _DATABASE, "core.tenant_standing", tenant_key="id"),
)
