"""Section 1.2 of the specification as types: what each class of data is and where its copies live.

Each room declares its classes in its own `catalogue.py`; `platform.py` collects them; the relay,
`status` and later retention, backup and erasure iterate over the collection. Adding a class of
data is one entry.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta


@dataclass(frozen=True, slots=True)
class ClickHouseCopy:
    """A ClickHouse table that mirrors a PostgreSQL table row by row.

    `key` is the identity under which versions replace each other; it must be a subset of what the
    source's replica identity carries, so that a delete can name the row. `keeps` is the table's
    TTL: so long a row is there at least, counted from its `created_at`; None keeps it as long as
    the source does.
    """

    table: str
    key: tuple[str, ...]
    columns: tuple[str, ...]
    keeps: timedelta | None = None


@dataclass(frozen=True, slots=True)
class MongoCopy:
    """A MongoDB collection that mirrors a PostgreSQL table, a document a row.

    `key` becomes `_id` (one column: its value; several: a document of them) and must be a subset of
    what the source's replica identity carries. `names` says which fields are called otherwise than
    their columns.
    """

    collection: str
    key: tuple[str, ...]
    columns: tuple[str, ...]
    names: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True)
class SearchCopy:
    """An index of Elasticsearch or OpenSearch that mirrors columns of a PostgreSQL table.

    `key` is the document's identity and must be a subset of what the source's replica identity
    carries. What is searched, and how, is the index's mapping (`schema/elasticsearch/`).
    """

    index: str
    key: tuple[str, ...]
    columns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CacheCopy:
    """A Redis key, as a template over columns of the row: `transaction:{network_id}:{hash}`.

    What lies there is a MessagePack map of columns; those in `computed` are not as the row has
    them, so they are not compared with it.
    """

    key: str
    computed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class EventColumns:
    """Which columns make the envelope, where a table's rows are events themselves."""

    id: str = "event_id"
    type: str = "event_type"
    data: str = "event_data"
    time: str = "created_at"
    schema_version: str = "schema_version"
    correlation_id: str = "correlation_id"
    causation_id: str = "causation_id"


@dataclass(frozen=True, slots=True)
class OutgoingCopy:
    """A table whose changes go out as envelopes, on NATS, Kafka and webhooks.

    `subject` is a template over columns of the row: `events.{aggregate_type}`; Kafka's topic is the
    part before the first brace. What shares its `key` arrives in commit order. Where the rows are
    `event`s, each insert is one envelope and deletes say nothing; elsewhere every change is one,
    its type the class's name with `inserted`, `updated` or `deleted`, its data these `columns`.
    """

    subject: str
    key: tuple[str, ...]
    columns: tuple[str, ...]
    event: EventColumns | None = None


@dataclass(frozen=True, slots=True)
class SealedField:
    """A column of sealed texts, and what each row's text is bound to.

    `bound_to` maps the names of the binding to columns of the row: {"tenant": "tenant_id"}; what is
    the same for all rows stands in `purpose`: {"purpose": "mfa-seed"}. These columns must not
    change while the row lives. `key_column` says which key seals it, as `key_id_of` does. The
    table's primary key is (tenant_id, id).
    """

    column: str
    key_column: str
    bound_to: Mapping[str, str]
    purpose: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True)
class DataClass:
    """One class of data: its primary table, its copies and its clock.

    `table` is `schema.table` of `database`. `retention` runs from ingestion; None keeps for ever.
    `known_by` are the columns by which a person names a row: `neolayer where NAME VALUE`.
    `archived_in` is the table that says where rows lie that went to the object store.
    """

    name: str
    database: str
    table: str
    copies: tuple[ClickHouseCopy | MongoCopy | SearchCopy | CacheCopy | OutgoingCopy, ...] = ()
    retention: timedelta | None = None
    tenant_key: str | None = None
    personal_fields: tuple[str, ...] = field(default=())
    sealed_fields: tuple[SealedField, ...] = field(default=())
    known_by: tuple[str, ...] = ("id",)
    archived_in: str | None = None
