"""Whether the trail is what was sealed and anchored: every chain, then every anchor.

Chains are streamed, and anchors are looked up where they point, so memory stays flat however long
the trail is. Each chain is read as of one moment; sealing goes on meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import Enum
from itertools import islice
from typing import Final
from uuid import UUID

import msgspec
import psycopg

from neolayer.audit.anchors import AnchorStore, StoredAnchor, key_of
from neolayer.audit.findings import ChainCheck, Finding, Kind, Link, missing
from neolayer.audit.sealer import Head
from neolayer.engines.postgres.connections import Connection, connect, explain
from neolayer.engines.postgres.queries import load_queries

SQL = load_queries(__name__, "verifying.sql")
_FETCH: Final = 2_000
_LOOK_UP: Final = 1_000
_AHEAD: Final = 8  # anchors that are on their way at once
_KEPT: Final = 1_000  # findings that are kept; more are counted

OnProgress = Callable[["Report"], None]


@dataclass(slots=True)
class Report:
    """What was verified so far, and what was found."""

    chains: int = 0
    entries: int = 0
    anchors: int = 0
    found: int = 0
    findings: list[Finding] = field(default_factory=list[Finding])

    @property
    def is_intact(self) -> bool:
        """Whether nothing was found."""
        return self.found == 0

    def add(self, findings: Iterable[Finding]) -> None:
        """Count findings, and keep the first thousand."""
        for finding in findings:
            self.found += 1
            if len(self.findings) < _KEPT:
                self.findings.append(finding)


class EveryChain(Enum):
    """Says "all chains" where None is the chain of no tenant."""

    EVERY = "every"


class Broken:
    """An object in an anchor's place that is none."""


async def verify(
    dsn: str,
    store: AnchorStore,
    *,
    tenant: UUID | EveryChain | None = EveryChain.EVERY,
    on_progress: OnProgress = lambda _: None,
) -> Report:
    """Every chain and every anchor; or one `tenant`'s chain (None: that of no tenant).

    `dsn` is of a role that sees all tenants. Raises EngineUnavailable.
    """
    async with _opened(dsn) as connection:
        verification = Verification(connection, store, tenant, on_progress)
        for chain in await _chains(connection, tenant):
            await verification.chain(chain)
        await verification.anchors()
        return verification.report


async def _chains(connection: Connection, tenant: UUID | EveryChain | None) -> list[UUID | None]:
    if tenant is not EveryChain.EVERY:
        return [tenant]
    rows = await (await connection.execute(SQL.chains)).fetchall()
    return [None, *(row[0] for row in rows)]


@asynccontextmanager
async def _opened(dsn: str) -> AsyncGenerator[Connection]:
    try:
        async with await connect(dsn, autocommit=True, application_name="audit verify") as opened:
            yield opened
    except psycopg.OperationalError as exc:
        raise explain(exc, dsn) from exc


@dataclass(slots=True)
class Verification:
    """One verification under way. `only`: the chains that anchors are compared with; None: all."""

    connection: Connection
    store: AnchorStore
    only: UUID | EveryChain | None
    on_progress: OnProgress
    report: Report = field(default_factory=Report)
    # Chains that differ from an anchor: one finding each, the oldest.
    _rewritten: set[UUID | None] = field(default_factory=set[UUID | None])
    # Chains that end before an anchor says they did: how far they had come, and by which anchor.
    _cut: dict[UUID | None, tuple[int, str]] = field(
        default_factory=dict[UUID | None, "tuple[int, str]"]
    )

    async def chain(self, tenant: UUID | None) -> None:
        """One chain and its head, as of one moment."""
        check = ChainCheck(tenant)
        async with self.connection.transaction():
            await self.connection.execute(SQL.snapshot)
            row = await (await self.connection.execute(SQL.head, {"tenant": tenant})).fetchone()
            head = Head(tenant, row[0], row[1]) if row else None
            async with self.connection.cursor("chain", binary=True) as cursor:
                cursor.itersize = _FETCH
                await cursor.execute(SQL.chain, {"tenant": tenant})
                while rows := await cursor.fetchmany(_FETCH):
                    for row in rows:
                        self.report.add(check.take(Link(*row)))
                    self.report.entries += len(rows)
                    self.on_progress(self.report)
        self.report.add(check.end(head))
        self.report.chains += bool(check.checked or head)

    async def anchors(self) -> None:
        """Every anchor: that it is there, is what was noted, follows the one before, and holds."""
        noted = await (await self.connection.execute(SQL.last_noted)).fetchone()
        last = max(await self.store.last_number(), noted[0] if noted else 0)
        previous: StoredAnchor | None = None
        for first in range(1, last + 1, _AHEAD):
            numbers = range(first, min(first + _AHEAD, last + 1))
            noted_hashes = await self._noted(numbers)
            found = await asyncio.gather(*(self._get(number) for number in numbers))
            for number, anchor in zip(numbers, found, strict=True):
                self.report.anchors += 1
                self.report.add(_faults(number, anchor, previous, noted_hashes.get(number)))
                if isinstance(anchor, StoredAnchor):
                    await self._compare(anchor)
                previous = anchor if isinstance(anchor, StoredAnchor) else None
            self.on_progress(self.report)
        for tenant, (number, anchor_named) in self._cut.items():
            self.report.add([await self._removed(tenant, number, anchor_named)])

    async def _removed(self, tenant: UUID | None, number: int, named: str) -> Finding:
        """Everything that is missing up to an entry that an anchor names."""
        rows = await self.connection.execute(SQL.before, {"tenant": tenant, "number": number})
        ((last,),) = await rows.fetchall()
        what = f"{missing(last + 1, number)}: {named} names number {number}"
        return Finding(Kind.REMOVED, tenant, last + 1, None, what)

    async def _noted(self, numbers: range) -> dict[int, bytes]:
        values = {"first": numbers[0], "last": numbers[-1]}
        rows = await self.connection.execute(SQL.noted_anchors, values)
        return {number: bytes(digest) for number, digest in await rows.fetchall()}

    async def _get(self, number: int) -> StoredAnchor | Broken | None:
        try:
            return await self.store.get(number)
        except msgspec.MsgspecError:
            return Broken()

    async def _compare(self, stored: StoredAnchor) -> None:
        """Look up the entries that an anchor names."""
        named = {
            (tenant, number): digest
            for tenant, number, digest in stored.anchor.heads
            if self.only is EveryChain.EVERY or tenant == self.only
        }
        for batch in _batches(named, _LOOK_UP):
            values = {"tenants": [t for t, _ in batch], "numbers": [n for _, n in batch]}
            rows = await self.connection.execute(SQL.anchored, values)
            async for tenant, number, entry, digest in rows:
                if entry is None:
                    if number > self._cut.get(tenant, (0, ""))[0]:
                        self._cut[tenant] = number, _when(stored)
                elif tenant not in self._rewritten and bytes(digest).hex() != named[tenant, number]:
                    self._rewritten.add(tenant)
                    what = (
                        f"{_when(stored)} names another seal: this entry, or one before it, was"
                        " changed and sealed anew"
                    )
                    self.report.add([Finding(Kind.REWRITTEN, tenant, number, entry, what)])


def _faults(
    number: int,
    anchor: StoredAnchor | Broken | None,
    previous: StoredAnchor | None,
    noted: bytes | None,
) -> Iterator[Finding]:
    """What is wrong with an anchor itself."""

    def fault(kind: Kind, what: str) -> Finding:
        return Finding(kind, None, number, None, f"{key_of(number)} {what}")

    if anchor is None:
        yield fault(Kind.ANCHOR_MISSING, "is not in the object store")
    elif isinstance(anchor, Broken) or anchor.anchor.anchor != number:
        yield fault(Kind.ANCHOR_CHANGED, "does not hold the anchor of that number")
    elif noted is not None and noted != anchor.hash:
        yield fault(Kind.ANCHOR_CHANGED, "is not what the database noted")
    elif previous is not None and previous.hash.hex() != anchor.anchor.previous:
        yield fault(Kind.ANCHOR_CHANGED, "does not follow from the anchor before it")


def _when(stored: StoredAnchor) -> str:
    return f"anchor {stored.anchor.anchor} of {stored.anchor.anchored_at:%Y-%m-%d %H:%M:%S} UTC"


def _batches(
    places: Iterable[tuple[UUID | None, int]], size: int
) -> Iterator[list[tuple[UUID | None, int]]]:
    rest = iter(places)
    while batch := list(islice(rest, size)):
        yield batch
