"""The envelope: what leaves the layer, the same on NATS, Kafka and webhooks.

    {
      "id": "6f3c...",             who has seen it, skips it: delivery is at least once
      "type": "wallet.created",    of a table of events its own; else blocks.inserted, ...updated
      "tenant": "0b6e...",         null for public data
      "subject": "outbox.wallets", the kind of thing
      "key": "7d9f...",            the one thing: what shares a key arrives in commit order
      "position": "neolayer:1:0/1A2B3C8",   the commit, for at_least=
      "version": "281474976737736",         the same as one number, which only grows; text, because
                                            JavaScript rounds beyond 2**53
      "schema_version": 1,         of the data
      "correlation_id": null, "causation_id": null,
      "time": "2026-03-01T12:00:00.123456Z",
      "data": {...}
    }

Where a table's rows are events (`OutgoingCopy.event`), each insert is one envelope and its id is
the event's. Elsewhere each change is one, and its id counts the table's changes under their
version, so that a change that is read again bears the same id. Of a row that is deleted, `data` has
the key. A copy from a snapshot begins with `truncated`, and then each row is `copied`, under an id
made of the snapshot's version and the row's key.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import blake2b
from string import Formatter
from typing import Any, TypeAlias

import msgspec

from neolayer.catalogue import DataClass, OutgoingCopy
from neolayer.errors import RelayError
from neolayer.position import Position
from neolayer.relay.changes import (
    DELETE,
    INSERT,
    NULL,
    Batch,
    Incomplete,
    Relation,
    Row,
    TableChanges,
    Truncation,
    Value,
)
from neolayer.relay.comparable import Shape
from neolayer.relay.sinks.sink import Rejected, Snapshot
from neolayer.relay.values import JSON, copied_rows, document_of, value_of

_encoder = msgspec.json.Encoder()
_UNFIT = re.compile(r"[^A-Za-z0-9_-]")
_INSTANT, _TEXT = 1184, 25  # pg_type.oid of timestamptz, and of text
_NAMES = {INSERT: "inserted", DELETE: "deleted"}


class Envelope(msgspec.Struct, frozen=True, kw_only=True):
    """See the module. `data` is JSON as it came."""

    id: str
    type: str
    tenant: str | None
    subject: str
    key: str
    position: str
    version: str
    schema_version: int
    correlation_id: str | None
    causation_id: str | None
    time: str | None
    data: msgspec.Raw


@dataclass(frozen=True, slots=True)
class Outgoing:
    """An envelope on its way: its bytes, and what a stream needs to know of it.

    `topic` is the part of the subject that is the same for all rows. `refuse` makes what is parked
    where the stream will never take it.
    """

    id: str
    type: str
    tenant: str | None
    topic: str
    subject: str
    key: str
    version: int
    body: bytes
    time: str | None
    refuse: Callable[[str], Rejected]

    @property
    def concerns_all(self) -> bool:
        """Whether it is about every key: a table was emptied."""
        return not self.key


Made: TypeAlias = Outgoing | Rejected


class Reached(msgspec.Struct, frozen=True):
    """The last envelope that a stream has, as the stream itself says. Reads as JSON from one."""

    id: str
    version: str


def unpublished(
    made: list[Outgoing], last: Reached | None
) -> tuple[list[Outgoing], Reached | None]:
    """What a stream that ends with `last` has not had yet, and `last` while that is still to come.

    A writer that died after the data and before its checkpoint so goes on exactly where it was, be
    it in a later part of a commit whose first parts come again.
    """
    if last is None or not made:
        return made, last
    reached = int(last.version)
    for number, one in enumerate(made):
        if one.version == reached and one.id == last.id:
            return made[number + 1 :], None
    if max(one.version for one in made) <= reached:
        return [], last
    return [one for one in made if one.version >= reached], None


class Envelopes:
    """Makes envelopes of the declared tables' changes, for one stream."""

    def __init__(self, classes: Iterable[DataClass], database: str) -> None:
        self._database = database
        self._copies = {
            one.table: (one, copy)
            for one in classes
            for copy in one.copies
            if isinstance(copy, OutgoingCopy) and one.database == database
        }
        self._makers: dict[Relation, _Maker] = {}
        self._counted: tuple[int, dict[str, int]] = (0, {})
        self._next = self._counted

    @property
    def tables(self) -> frozenset[str]:
        return frozenset(self._copies)

    @property
    def topics(self) -> frozenset[str]:
        """Every topic that may be written to."""
        return frozenset(topic_of(copy.subject) for _, copy in self._copies.values())

    def holds_events(self, table: str) -> bool:
        """Whether the table's rows are events, which a snapshot still tells one by one."""
        return self._copies[table][1].event is not None

    def restart(self) -> None:
        """The next change is the first of its commit."""
        self._counted = (0, {})

    def of(self, batches: Sequence[Batch]) -> list[Made]:
        """Every envelope of the batches in commit order; asked again, the same ones.

        Call `accept` when they are written: a commit may go on in the next batch.
        """
        version, counts = self._counted
        counter = _Counter(version, dict(counts))
        made = [one for batch in batches for one in self._batch(batch, counter)]
        self._next = (counter.version, counter.counts)
        return made

    def accept(self) -> None:
        """The last ones are written."""
        self._counted = self._next

    def _batch(self, batch: Batch, counter: _Counter) -> Iterator[Made]:
        time = None
        if batch.committed_at is not None:
            moment = datetime.fromtimestamp(batch.committed_at, UTC)
            time = moment.isoformat().replace("+00:00", "Z")
        for changes in batch.changes:
            if changes.relation.table not in self._copies:
                continue
            maker = self._maker(changes.relation)
            if isinstance(changes, Truncation):
                yield from maker.truncation(changes.version, counter, time)
            else:
                yield from maker.changes(changes, counter, time)

    def _maker(self, relation: Relation) -> _Maker:
        maker = self._makers.get(relation)
        if maker is None:
            one, copy = self._copies[relation.table]
            maker = self._makers[relation] = _Maker(self._database, one, copy, relation)
        return maker

    def shape(self, table: str) -> Shape:
        """What a stream holds of the table: every column that an envelope needs."""
        one, copy = self._copies[table]
        return Shape(copy.key, tuple(dict.fromkeys(_columns(one, copy))))

    def emptied(self, version: int, table: str) -> list[Made]:
        """What comes before `copied`: of states, that nothing older is there any more."""
        schema, _, name = table.partition(".")
        one, copy = self._copies[table]
        columns = self.shape(table).columns
        relation = Relation(0, schema, name, columns, (_TEXT,) * len(columns))  # no value is read
        maker = _Maker(self._database, one, copy, relation)
        return list(maker.truncation(version, _Counter(version, {}), None, mark=":copy"))

    async def copied(self, snapshot: Snapshot, table: str) -> AsyncIterator[list[Made]]:
        """The table's rows as the snapshot has them, in pages: events as they were, states as
        `copied`."""
        one, copy = self._copies[table]
        relation = await snapshot.describe(table, self.shape(table).columns)
        maker = _Maker(self._database, one, copy, relation)
        async for block in snapshot.rows(table, self.shape(table).columns):
            yield [maker.copied(row, snapshot.version) for row in copied_rows(block)]


@dataclass(slots=True)
class _Counter:
    """Counts a table's changes within one commit."""

    version: int
    counts: dict[str, int]

    def next(self, table: str, version: int) -> int:
        if version != self.version:
            self.version, self.counts = version, {}
        count = self.counts.get(table, 0)
        self.counts[table] = count + 1
        return count


class _Maker:
    """Makes the envelopes of one table as the log describes it now."""

    def __init__(
        self, database: str, one: DataClass, copy: OutgoingCopy, relation: Relation
    ) -> None:
        self._database = database
        self._name = one.name
        self._copy = copy
        self.relation = relation
        self._topic = topic_of(copy.subject)
        self._subject = _filler(copy.subject, relation)
        self._key_places = relation.places(copy.key)
        # Each refused event is a letter of its own; of states the last one of a key is.
        self._letter_places = relation.places((copy.event.id,) if copy.event else copy.key)
        self._tenant = relation.places([one.tenant_key])[0] if one.tenant_key else None
        if copy.event is None:
            self._data = document_of(relation, copy.columns, JSON)
            self._key_data = document_of(relation, copy.key, JSON)
        else:
            names = copy.event
            self._event = relation.places(
                [names.id, names.type, names.data, names.time, names.schema_version]
            )
            self._links = relation.places([names.correlation_id, names.causation_id])
        self._instant = value_of(_INSTANT, JSON)

    def changes(self, changes: TableChanges, counter: _Counter, time: str | None) -> Iterator[Made]:
        for version, kind, row, old in changes.changes():
            if self._copy.event is not None:
                if kind == INSERT:
                    yield self._guarded(self._of_event, row, version, kind)
                continue
            if old is not None and self._has_other_key(old, row):
                number = counter.next(self._name, version)
                yield self._guarded(self._of_state, old, version, DELETE, number, time)
            number = counter.next(self._name, version)
            yield self._guarded(self._of_state, row, version, kind, number, time)

    def _has_other_key(self, old: Row, row: Row) -> bool:
        """Whether the row was under another key before, which nobody is under now."""
        before = [old[place] for place in self._key_places]
        return NULL not in before and before != [row[place] for place in self._key_places]

    def copied(self, row: Row, version: int) -> Made:
        if self._copy.event is not None:
            return self._guarded(self._of_event, row, version, INSERT)
        return self._guarded(self._of_state, row, version, None, None, None)

    def truncation(
        self, version: int, counter: _Counter, time: str | None, *, mark: str = ""
    ) -> Iterator[Made]:
        if self._copy.event is not None:
            return
        number = counter.next(self._name, version)
        yield self._outgoing(
            id=f"{self._name}:{version:x}:{number}{mark}",
            type=f"{self._name}.truncated",
            tenant=None,
            subject=self._topic,
            key="",
            version=version,
            time=time,
            data=b"{}",
            refuse=lambda cause: Rejected(self.relation.table, (), version, True, cause, {}),
        )

    def _guarded(
        self, make: Callable[..., Outgoing], row: Row, version: int, kind: int | None, *rest: Any
    ) -> Made:
        try:
            return make(row, version, kind, *rest)
        except Incomplete:
            raise
        except (RelayError, ValueError) as exc:
            cause = exc.message if isinstance(exc, RelayError) else str(exc)
            return self._rejected(row, version, kind == DELETE, cause)

    def _of_event(self, row: Row, version: int, kind: int | None) -> Outgoing:
        event_id, event_type, data, time, schema_version = (
            _known(row[place]) for place in self._event
        )
        correlation, causation = (_text(row[place]) for place in self._links)
        return self._outgoing(
            id=event_id.decode(),
            type=event_type.decode(),
            tenant=self._tenant_of(row),
            subject=self._subject(row),
            key=self._key(row),
            version=version,
            schema_version=int(schema_version),
            correlation_id=correlation,
            causation_id=causation,
            time=self._instant(time),
            data=data,
            refuse=lambda cause: self._rejected(row, version, False, cause),
        )

    def _of_state(
        self, row: Row, version: int, kind: int | None, number: int | None, time: str | None
    ) -> Outgoing:
        """`kind` None: as a snapshot has it, whose parts are read in any order."""
        name = "copied" if kind is None else _NAMES.get(kind, "updated")
        data = (self._key_data if kind == DELETE else self._data)(row)
        place = f"{_digest(self._key(row))}:copy" if number is None else number
        return self._outgoing(
            id=f"{self._name}:{version:x}:{place}",
            type=f"{self._name}.{name}",
            tenant=self._tenant_of(row),
            subject=self._subject(row),
            key=self._key(row),
            version=version,
            time=time,
            data=_encoder.encode(data),
            refuse=lambda cause: self._rejected(row, version, kind == DELETE, cause),
        )

    def _outgoing(
        self,
        *,
        id: str,  # noqa: A002  the envelope's own word
        type: str,  # noqa: A002
        tenant: str | None,
        subject: str,
        key: str,
        version: int,
        time: str | None,
        data: bytes,
        refuse: Callable[[str], Rejected],
        schema_version: int = 1,
        correlation_id: str | None = None,
        causation_id: str | None = None,
    ) -> Outgoing:
        envelope = Envelope(
            id=id,
            type=type,
            tenant=tenant,
            subject=subject,
            key=key,
            position=str(Position.from_version(version, self._database)),
            version=str(version),
            schema_version=schema_version,
            correlation_id=correlation_id,
            causation_id=causation_id,
            time=time,
            data=msgspec.Raw(data),
        )
        body = _encoder.encode(envelope)
        return Outgoing(id, type, tenant, self._topic, subject, key, version, body, time, refuse)

    def _tenant_of(self, row: Row) -> str | None:
        return None if self._tenant is None else _text(row[self._tenant])

    def _key(self, row: Row) -> str:
        return ":".join(_known(row[place]).decode() for place in self._key_places)

    def _rejected(self, row: Row, version: int, deleted: bool, cause: str) -> Rejected:
        key = tuple(_text(row[place]) for place in self._letter_places)
        values = {
            column: _text(value)
            for column, value in zip(self.relation.columns, row, strict=True)
            if not deleted or column in self._copy.key
        }
        return Rejected(self.relation.table, key, version, deleted, cause[:500], values)


def outgoing_databases(classes: Iterable[DataClass]) -> list[str]:
    """The databases with tables whose changes go out."""
    return sorted(
        {
            one.database
            for one in classes
            if any(isinstance(copy, OutgoingCopy) for copy in one.copies)
        }
    )


def topic_of(subject: str) -> str:
    """The part of a subject before its first column: `events` of `events.{aggregate_type}`."""
    return subject.partition("{")[0].rstrip(".")


def _filler(template: str, relation: Relation) -> Callable[[Row], str]:
    """A function that fills a subject from a row, each column as one part of it."""
    parts = [(text, column) for text, column, _, _ in Formatter().parse(template)]
    places = dict(
        zip(
            (column for _, column in parts if column),
            relation.places([column for _, column in parts if column]),
            strict=True,
        )
    )

    def fill(row: Row) -> str:
        return "".join(
            text + (_UNFIT.sub("_", _text(row[places[column]]) or "_") if column else "")
            for text, column in parts
        )

    return fill


def _columns(one: DataClass, copy: OutgoingCopy) -> Iterator[str]:
    """Every column that an envelope of the table needs."""
    yield from copy.key
    yield from copy.columns
    yield from (column for _, column, _, _ in Formatter().parse(copy.subject) if column)
    if one.tenant_key:
        yield one.tenant_key
    if copy.event is not None:
        names = copy.event
        yield from (names.id, names.type, names.data, names.time, names.schema_version)
        yield from (names.correlation_id, names.causation_id)


def _digest(key: str) -> str:
    return blake2b(key.encode(), digest_size=12).hexdigest()


def _known(value: Value) -> bytes:
    if isinstance(value, bytes):
        return value
    raise RelayError("a column that the envelope needs is empty")


def _text(value: Value) -> str | None:
    if isinstance(value, bytes):
        return value.decode()
    return None if value == NULL else ""
