"""From the rows of one table to envelopes: what each change is called, its key and its identity."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from string import Formatter
from typing import Any

import msgspec

from neolayer.catalogue import DataClass, OutgoingCopy
from neolayer.errors import RelayError
from neolayer.position import Position
from neolayer.relay.changes import (
    DELETE,
    INSERT,
    NULL,
    Incomplete,
    Relation,
    Row,
    TableChanges,
    Value,
)
from neolayer.relay.envelope import Envelope, Made, Outgoing, topic_of
from neolayer.relay.sinks.sink import Rejected
from neolayer.relay.values import JSON, document_of, value_of

_encoder = msgspec.json.Encoder()
_UNFIT = re.compile(r"[^A-Za-z0-9_-]")
_INSTANT = 1184  # pg_type.oid of timestamptz
_NAMES = {INSERT: "inserted", DELETE: "deleted"}


@dataclass(frozen=True, slots=True)
class Counter:
    """Counts each table's changes under its last version: a batch tells one table's after
    another's."""

    counts: dict[str, tuple[int, int]]

    def next(self, table: str, version: int) -> int:
        last, count = self.counts.get(table, (version, 0))
        number = count if last == version else 0
        self.counts[table] = version, number + 1
        return number


class EnvelopeMaker:
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

    def changes(self, changes: TableChanges, counter: Counter, time: str | None) -> Iterator[Made]:
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
        self, version: int, counter: Counter, time: str | None, *, mark: str = ""
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
            concerns_all=True,
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
        concerns_all: bool = False,
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
        return Outgoing(
            id=id,
            type=type,
            tenant=tenant,
            topic=self._topic,
            subject=subject,
            key=key,
            version=version,
            body=body,
            time=time,
            refuse=refuse,
            concerns_all=concerns_all,
        )

    def _tenant_of(self, row: Row) -> str | None:
        return None if self._tenant is None else _text(row[self._tenant])

    def _key(self, row: Row) -> str:
        parts = [_known(row[place]).decode() for place in self._key_places]
        return parts[0] if len(parts) == 1 else ":".join(map(_part, parts))

    def _rejected(self, row: Row, version: int, deleted: bool, cause: str) -> Rejected:
        key = tuple(_text(row[place]) for place in self._letter_places)
        values = {
            column: _text(value)
            for column, value in zip(self.relation.columns, row, strict=True)
            if not deleted or column in self._copy.key
        }
        return Rejected(self.relation.table, key, version, deleted, cause[:500], values)


def needed_columns(one: DataClass, copy: OutgoingCopy) -> Iterator[str]:
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


def _part(text: str) -> str:
    """A part of a key of several: no two keys may read alike."""
    return text.replace("%", "%25").replace(":", "%3A")


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
