"""Aggregates: things whose rules hold in one transaction, as two plain functions over events.

    ACCOUNT = Aggregate("account", initial=Account(), evolve=evolve, decide=decide)

    written = await acme.aggregates.execute(ACCOUNT, account_id, Withdraw(5))

`evolve(state, event)` says what an event means, `decide(command, state)` which events a command
leads to, or raises. Neither knows of stores, versions or snapshots, so both are tested by calling
them. Executing is: load, decide, append at the version that was loaded; where somebody else was
faster, the same again with what they have changed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from random import uniform
from typing import Any, Generic, TypeVar
from uuid import UUID

import msgspec

from neolayer.engines.postgres.queries import load_queries
from neolayer.events.circumstances import Circumstances
from neolayer.events.codec import TenantCodec, key_id_for, subject_named
from neolayer.events.model import (
    NO_JSON,
    Appended,
    EventIdTaken,
    RecordedEvent,
    WrongCategory,
    WrongVersion,
)
from neolayer.events.personal import Erased, open_text, seal_text
from neolayer.events.registry import Event, EventType, Registry
from neolayer.events.snapshots import BackgroundWrites, SnapshotPolicy, folded_by, form_of
from neolayer.events.turns import Turns
from neolayer.events.typed import TypedEvents
from neolayer.telemetry import log_warning

QUERIES = load_queries(__name__, "aggregates.sql")
PAGE_EVENTS = 10_000
MOST_SNAPSHOT_BYTES = 8 << 20  # in the database's spelling it may be twice as long
_TRIES = 10
_PAUSE_S = 0.01  # grows by as much with each try
_PAGE = msgspec.json.Decoder(list[tuple[str, int, str | None, msgspec.Raw]])

S = TypeVar("S", bound=msgspec.Struct)


@dataclass(frozen=True, slots=True)
class Aggregate(Generic[S]):
    """One kind of aggregate. `category` is that of its streams and events.

    Raises InvalidInput where its snapshots could be another's (`SnapshotPolicy.name`).
    """

    category: str
    initial: S
    evolve: Callable[[S, Any], S] = field(repr=False)
    decide: Callable[[Any, S], Sequence[Event]] = field(repr=False)
    snapshots: SnapshotPolicy | None = None
    folded_by: str = field(default="", init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.snapshots is not None:
            object.__setattr__(self, "folded_by", folded_by(self.evolve, self.snapshots))

    @property
    def form(self) -> str:
        """The mark of its snapshots."""
        return form_of(self.initial, self.folded_by)

    def replay(self, events: Iterable[Event]) -> S:
        """The state after these events, from the beginning."""
        return reduce(self.evolve, events, self.initial)


@dataclass(frozen=True, slots=True)
class Loaded(Generic[S]):
    """An aggregate's state and version; of a stream that is not there, the initial state at 0.

    `snapshot` is the version of the snapshot it began with, 0 without one; `subjects` are those
    whose personal data went into it.
    """

    state: S
    version: int = 0
    snapshot: int = 0
    subjects: frozenset[UUID] = frozenset()


@dataclass(frozen=True, slots=True)
class Executed(Generic[S]):
    """What a command has come to. `written` is None where it led to no event."""

    state: S
    version: int
    written: Appended | None


@dataclass(frozen=True, slots=True)
class Aggregates:
    """The aggregates of one tenant, for whoever acts."""

    events: TypedEvents
    background: BackgroundWrites
    turns: Turns = field(default_factory=Turns)

    async def load(self, aggregate: Aggregate[S], stream_id: UUID) -> Loaded[S]:
        """The aggregate as of now. Raises WrongCategory, UnknownEventType, UndecodableEvent,
        KeyringError."""
        page = await self._page(aggregate, stream_id, after=0, snapshots=True)
        if page.category not in (None, aggregate.category):
            raise WrongCategory(stream_id, page.category)
        start = await self._snapshot(aggregate, page)
        if start is None and page.snapshot is not None:  # nobody can read it any more
            page = await self._page(aggregate, stream_id, after=0, snapshots=False)
        loaded = start or Loaded(aggregate.initial)
        if page.is_archived:
            return await self._from_archive(aggregate, stream_id)
        while True:
            loaded = await self._evolved(aggregate, loaded, page)
            if page.count < PAGE_EVENTS:
                return loaded
            page = await self._page(aggregate, stream_id, after=loaded.version, snapshots=False)

    async def execute(
        self,
        aggregate: Aggregate[S],
        stream_id: UUID,
        command: object,
        *,
        command_id: UUID | None = None,
        metadata: Mapping[str, Any] = NO_JSON,
        correlation_id: UUID | None = None,
        causation_id: UUID | None = None,
    ) -> Executed[S]:
        """Decide and append; again from the start where somebody else appended meanwhile.

        With a `command_id` a command counts once: given again, it is not decided again, and what
        it had stored comes back (`written.is_repeated`). One that led to no event has stored
        nothing: given again it is decided again. The events' ids follow from the command's, so
        `decide` gives them none then. Metadata, correlation and causation go to each event.
        Commands to one stream of this process take turns.

        What `decide` and `evolve` raise passes through, and nothing is stored. Raises WrongVersion
        where other processes were faster ten times in a row, InvalidInput where
        command and event both have an id, and as `load` and `append`.
        """
        about = Circumstances(command_id, metadata, correlation_id, causation_id)
        async with self.turns.at((self._scope.tenant, stream_id)):
            for attempt in range(1, _TRIES + 1):
                before = await self._executed(aggregate, stream_id, about)
                if before is not None:
                    return before
                try:
                    return await self._try(aggregate, stream_id, command, about)
                except WrongVersion:
                    if attempt == _TRIES:
                        raise
                except EventIdTaken:  # by the same command, given elsewhere meanwhile
                    if command_id is None or attempt == _TRIES:
                        raise
                await asyncio.sleep(uniform(0, _PAUSE_S * attempt))  # noqa: S311
        raise AssertionError

    async def _try(
        self, aggregate: Aggregate[S], stream_id: UUID, command: object, about: Circumstances
    ) -> Executed[S]:
        loaded = await self.load(aggregate, stream_id)
        events = about.told_by(list(aggregate.decide(command, loaded.state)))
        if not events:
            return Executed(loaded.state, loaded.version, None)
        # What evolve cannot take is not stored: nobody could load the stream any more.
        seen = await self._codec.read_back(events, category=aggregate.category)
        state = reduce(aggregate.evolve, seen, loaded.state)
        written = await self.events.append(
            stream_id, events, category=aggregate.category, expected_version=loaded.version
        )
        if written.is_repeated:  # stored elsewhere, and not always right behind what was loaded
            return await self._repeated(aggregate, stream_id, written)
        self._keep(aggregate, stream_id, loaded, state, written.version, seen)
        return Executed(state, written.version, written)

    async def _executed(
        self, aggregate: Aggregate[S], stream_id: UUID, about: Circumstances
    ) -> Executed[S] | None:
        """What came of a command that was given before. Raises EventIdTaken where that was to
        another stream."""
        first = about.event_id(0)
        if first is None:
            return None
        row = await self._scope.one(QUERIES.stored_at, {"event": first})
        if row is None:
            return None
        if row[0] != stream_id:
            raise EventIdTaken(first)
        events: list[RecordedEvent] = []
        async for event in self.events.stored.read_stream(stream_id, from_version=row[1]):
            if event.event_id != about.event_id(len(events)):
                break
            events.append(event)
        versions = {stream_id: events[-1].version}
        position = await self.events.position()
        written = Appended(position, versions, events, is_repeated=True)
        return await self._repeated(aggregate, stream_id, written)

    async def _repeated(
        self, aggregate: Aggregate[S], stream_id: UUID, written: Appended
    ) -> Executed[S]:
        """The aggregate as of now, with what had been stored before."""
        loaded = await self.load(aggregate, stream_id)
        return Executed(loaded.state, loaded.version, written)

    async def delete_snapshots(self, stream_id: UUID) -> int:
        """Forget a stream's snapshots; how many there were."""
        return len(await self._scope.fetch(QUERIES.delete_snapshots, {"stream": stream_id}))

    # Reading

    @property
    def _codec(self) -> TenantCodec:
        return self.events.codec

    @property
    def _scope(self) -> Any:
        return self.events.scope

    async def _page(
        self, aggregate: Aggregate[Any], stream_id: UUID, *, after: int, snapshots: bool
    ) -> _Page:
        policy = aggregate.snapshots
        params = {
            "stream": stream_id,
            "after": after,
            "snapshots": snapshots and policy is not None,
            "schema_version": policy.schema_version if policy else 1,
            "form": aggregate.form if policy else "",
            "limit": PAGE_EVENTS,
        }
        row = await self._scope.one(QUERIES.load, params)
        return _Page(*row)

    async def _snapshot(self, aggregate: Aggregate[S], page: _Page) -> Loaded[S] | None:
        """The state that a snapshot holds; None where there is none, its key is gone, or it is no
        state of this form: then the events tell, and the next snapshot takes its place."""
        if page.snapshot is None or page.snapshot_data is None:
            return None
        subject, kept = subject_named(page.snapshot_key), _KEPT.decode(page.snapshot_data)
        subjects = frozenset[UUID]() if subject is None else frozenset({subject})
        text: bytes | str = bytes(kept.state)
        if kept.sealed is not None:
            keys = await self._codec.subjects.keys(subjects)
            opened = open_text(kept.sealed, keys, tenant=self._codec.tenant)
            if isinstance(opened, Erased):
                return None
            text = opened
        try:
            state = msgspec.json.decode(text, type=type(aggregate.initial))
        except msgspec.ValidationError as exc:
            log_warning(
                "a snapshot does not fit its state",
                category=aggregate.category,
                version=page.snapshot,
                error=type(exc).__name__ if subject else str(exc),
            )
            return None
        return Loaded(state, page.snapshot, page.snapshot, subjects)

    async def _evolved(self, aggregate: Aggregate[S], loaded: Loaded[S], page: _Page) -> Loaded[S]:
        if page.events is None:
            return loaded
        rows = _PAGE.decode(page.events)
        events = decoded(self._codec.registry, aggregate.category, rows)
        about = {s for row in rows if (s := subject_named(row[2])) is not None}
        if about:
            keys = await self._codec.subjects.keys(about)
            kinds = [self._codec.registry.named(aggregate.category, row[0]) for row in rows]
            pairs = zip(kinds, events, strict=True)
            events = [self._codec.opened(kind, event, keys) for kind, event in pairs]
        state = reduce(aggregate.evolve, events, loaded.state)
        version = loaded.version + page.count
        return Loaded(state, version, loaded.snapshot, loaded.subjects | about)

    async def _from_archive(self, aggregate: Aggregate[S], stream_id: UUID) -> Loaded[S]:
        """A closed stream, whose events lie in the object store."""
        state, version = aggregate.initial, 0
        async for event, recorded in self.events.read_stream(stream_id):
            state, version = aggregate.evolve(state, event), recorded.version
        return Loaded(state, version)

    # Snapshots

    def _keep(
        self,
        aggregate: Aggregate[S],
        stream_id: UUID,
        loaded: Loaded[S],
        state: S,
        version: int,
        events: Sequence[Event],
    ) -> None:
        """Have a snapshot written where one is due; nobody waits for it."""
        policy = aggregate.snapshots
        if policy is None or not policy.is_due(last=loaded.snapshot, version=version):
            return
        subjects = loaded.subjects | self._subjects_of(events)
        if len(subjects) > 1:
            return  # no one key could take it back
        work = self._write(aggregate, policy, stream_id, state, version, subjects)
        self.background.start(work, what=f"snapshot of {aggregate.category} {stream_id}")

    def _subjects_of(self, events: Sequence[Event]) -> frozenset[UUID]:
        kinds = ((self._codec.registry.find(type(event)), event) for event in events)
        found = (kind.subject_of(event) for kind, event in kinds if kind and kind.personal)
        return frozenset(subject for subject in found if subject is not None)

    async def _write(
        self,
        aggregate: Aggregate[S],
        policy: SnapshotPolicy,
        stream_id: UUID,
        state: S,
        version: int,
        subjects: frozenset[UUID],
    ) -> None:
        of, state_json, key_id = aggregate.folded_by, msgspec.json.encode(state), None
        kept = _Kept(of, aggregate.form, msgspec.Raw(state_json))
        for subject in subjects:
            key = (await self._codec.subjects.keys([subject])).get(subject)
            if key is None:
                return
            text = state_json.decode()
            sealed = seal_text(text, key, tenant=self._codec.tenant, subject=subject)
            kept, key_id = _Kept(of, aggregate.form, sealed=sealed), key_id_for(subject)
        data = msgspec.json.encode(kept).decode()
        if len(data) > MOST_SNAPSHOT_BYTES:
            return  # loading takes longer; nothing is lost
        at = {"stream": stream_id, "version": version, "of": of}
        async with self._scope.transaction() as tx:
            await tx.execute(QUERIES.drop_older, at)
            await tx.execute(
                QUERIES.take_snapshot,
                {
                    **at,
                    "tenant": self._codec.tenant,
                    "category": aggregate.category,
                    "data": data,
                    "schema_version": policy.schema_version,
                    "key_id": key_id,
                },
            )


class _Kept(msgspec.Struct, frozen=True):
    """What a snapshot holds: whose state, of what form, and the state itself, plain or sealed."""

    of: str
    form: str
    state: msgspec.Raw = msgspec.Raw(b"null")
    sealed: str | None = None


_KEPT = msgspec.json.Decoder(_Kept)


@dataclass(frozen=True, slots=True)
class _Page:
    """A row of `load`."""

    snapshot: int | None
    snapshot_data: str | None
    snapshot_key: str | None
    count: int
    events: str | None
    is_archived: bool
    category: str | None


def decoded(
    registry: Registry, category: str, rows: Sequence[tuple[str, int, str | None, msgspec.Raw]]
) -> list[Event]:
    """Events of one category from their types, schema versions and JSON."""
    kinds: dict[str, EventType] = {}
    events: list[Event] = []
    for name, schema_version, _, data in rows:
        kind = kinds.get(name)
        if kind is None:
            kind = kinds[name] = registry.named(category, name)
        events.append(kind.from_json(data, schema_version))
    return events
