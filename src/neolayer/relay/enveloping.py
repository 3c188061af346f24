"""From batches and snapshots to envelopes, for one stream, so that the same change always bears the
same identity."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from operator import attrgetter

from neolayer.catalogue import DataClass, OutgoingCopy
from neolayer.relay.changes import Batch, Relation, Truncation
from neolayer.relay.comparable import Shape
from neolayer.relay.envelope import Made, topic_of
from neolayer.relay.envelope_maker import Counter, EnvelopeMaker, needed_columns
from neolayer.relay.sinks.sink import Snapshot
from neolayer.relay.values import copied_rows

_TEXT = 25  # pg_type.oid
_version = attrgetter("version")
_table = attrgetter("relation.id")


class Envelopes:
    """Makes envelopes of the declared tables' changes, for one stream."""

    def __init__(self, classes: Iterable[DataClass], database: str, *, prefix: str = "") -> None:
        self._database = database
        self._prefix = prefix  # of whatever the stream names
        self._copies = {
            one.table: (one, copy)
            for one in classes
            for copy in one.copies
            if isinstance(copy, OutgoingCopy) and one.database == database
        }
        self._makers: dict[Relation, EnvelopeMaker] = {}
        self._counted: dict[str, tuple[int, int]] = {}
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
        self._counted = {}

    def of(self, batches: Sequence[Batch]) -> list[Made]:
        """Every envelope of the batches in commit order; asked again, the same ones.

        Call `accept` when they are written: a commit may go on in the next batch.
        """
        counter = Counter(dict(self._counted))
        made: list[Made] = []
        for batch in batches:
            # As `unpublished` needs them: up to the last one that a stream has, it has all, in
            # whatever order a batch that was cut otherwise has its tables.
            made += sorted(self._batch(batch, counter), key=_version)
        self._next = counter.counts
        return made

    def accept(self) -> None:
        """The last ones are written."""
        self._counted = self._next

    def _batch(self, batch: Batch, counter: Counter) -> Iterator[Made]:
        time = None
        if batch.committed_at is not None:
            moment = datetime.fromtimestamp(batch.committed_at, UTC)
            time = moment.isoformat().replace("+00:00", "Z")
        for changes in sorted(batch.changes, key=_table):
            if changes.relation.table not in self._copies:
                continue
            maker = self._maker(changes.relation)
            if isinstance(changes, Truncation):
                yield from maker.truncation(changes.version, counter, time)
            else:
                yield from maker.changes(changes, counter, time)

    def _maker(self, relation: Relation) -> EnvelopeMaker:
        maker = self._makers.get(relation)
        if maker is None:
            one, copy = self._copies[relation.table]
            maker = self._makers[relation] = EnvelopeMaker(self._database, one, copy, relation)
        return maker

    def shape(self, table: str) -> Shape:
        """What a stream holds of the table: every column that an envelope needs."""
        one, copy = self._copies[table]
        target = (self._prefix, copy.subject, one.tenant_key or "", one.name)
        return Shape(copy.key, tuple(dict.fromkeys(needed_columns(one, copy))), target=target)

    def emptied(self, version: int, table: str) -> list[Made]:
        """What comes before `copied`: of states, that nothing older is there any more."""
        schema, _, name = table.partition(".")
        one, copy = self._copies[table]
        columns = self.shape(table).columns
        relation = Relation(0, schema, name, columns, (_TEXT,) * len(columns))  # no value is read
        maker = EnvelopeMaker(self._database, one, copy, relation)
        return list(maker.truncation(version, Counter({}), None, mark=":copy"))

    async def copied(self, snapshot: Snapshot, table: str) -> AsyncIterator[list[Made]]:
        """The table's rows as the snapshot has them, in pages: events as they were, states as
        `copied`."""
        one, copy = self._copies[table]
        relation = await snapshot.describe(table, self.shape(table).columns)
        maker = EnvelopeMaker(self._database, one, copy, relation)
        async for block in snapshot.rows(table, self.shape(table).columns):
            yield [maker.copied(row, snapshot.version) for row in copied_rows(block)]
