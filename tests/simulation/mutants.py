"""Faults put into the relay on purpose: each is a line of its source that reads otherwise.

The simulation must notice every one of them; one that goes unnoticed means that the world does not
break what that line is there for.
"""

from __future__ import annotations
import __future__

import contextlib
import inspect
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from types import FunctionType, ModuleType
from typing import Any

from tests.simulation import sinks

from neolayer.relay import changes, decoder, lane, reader, run, segment, segments, spool
from neolayer.relay.copying import tables, whole


@dataclass(frozen=True)
class Mutant:
    """`before` stands once in it; with `after` in its place the relay is broken."""

    name: str
    module: ModuleType
    method: str  # Class.method, or a function
    before: str
    after: str

    def __str__(self) -> str:
        return self.name.replace(" ", "_")

    @property
    def place(self) -> tuple[Any, str]:
        owner, _, name = self.method.rpartition(".")
        return (getattr(self.module, owner) if owner else self.module), name

    def mutated(self) -> Any:
        owner, name = self.place
        found = owner.__dict__[name]
        wrapped = found.fget if isinstance(found, property) else found
        assert isinstance(wrapped, FunctionType)
        source = inspect.getsource(wrapped)
        assert source.count(self.before) == 1, f"{self.name}: {self.method} has changed"
        scope: dict[str, Any] = {}
        flags = __future__.annotations.compiler_flag
        changed = textwrap.dedent(source.replace(self.before, self.after))
        code = compile(changed, self.name, "exec", flags)
        exec(code, self.module.__dict__, scope)
        return scope[name]

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        owner, name = self.place
        kept = owner.__dict__[name]
        setattr(owner, name, self.mutated())
        try:
            yield
        finally:
            setattr(owner, name, kept)


MUTANTS = (
    Mutant(
        "the server is told of what is not on the disk yet",
        reader,
        "Reader._confirm",
        "Position.from_version(self._log.durable).lsn",
        "Position.from_version(self._log.position).lsn",
    ),
    Mutant(
        "the log calls itself durable before it is",
        segments,
        "SegmentLog.sync",
        'crash_point("relay.before_segment_fsync")',
        'self._durable = boundary; crash_point("relay.before_segment_fsync")',
    ),
    Mutant(
        "what was appended while the disk was busy is called durable",
        segments,
        "SegmentLog.sync",
        "self._durable = boundary",
        "self._durable = self._boundary",
    ),
    Mutant(
        "what a failed fsync may have lost stays in the log",
        segments,
        "SegmentLog.sync",
        "self._segments[-1].cut(self._durable.offset)",
        "pass",
    ),
    Mutant(
        "a transaction whose end is missing stays when the log is opened",
        segments,
        "SegmentLog._load",
        "if not head.unfinished:",
        "if True:",
    ),
    Mutant(
        "a torn end stays when the log is opened",
        segments,
        "SegmentLog._load",
        "last.cut(self._boundary.offset)",
        "pass",
    ),
    Mutant(
        "a record is believed without its checksum",
        segment,
        "_next_record",
        " or _checksum(_HEAD.pack(*head), payload) != checksum",
        "",
    ),
    Mutant(
        "a segment ends inside a transaction",
        segments,
        "SegmentLog.roll",
        "self._end != self._boundary or ",
        "",
    ),
    Mutant(
        "the log outgrows its bound",
        segments,
        "SegmentLog.roll",
        "self.held_bytes > most",
        "False",
    ),
    Mutant(
        "the batches in memory outgrow their bound",
        segments,
        "SegmentLog._remember",
        "self._recent_bytes > _RECENT_BYTES",
        "False",
    ),
    Mutant(
        "the log is kept although a new slot begins later",
        segments,
        "SegmentLog.resume",
        "new_slot or not self._segments or self.position < confirmed",
        "not self._segments",
    ),
    Mutant(
        "what a sink still needs is forgotten",
        segments,
        "SegmentLog.forget",
        "min(position, self.durable)",
        "self.durable",
    ),
    Mutant(
        "all sinks but the slowest decide what is forgotten",
        reader,
        "Reader._forget",
        "min(needed, default=None)",
        "max(needed, default=None)",
    ),
    Mutant(
        "a sink goes on behind the batch it stopped at",
        segment,
        "Segment.find",
        "if not head.contained_in(position):",
        "if head.position > position:",
    ),
    Mutant(
        "a transaction counts as written when its first part is",
        changes,
        "Batch.contained_in",
        "(self.unfinished or self.position) <= position",
        "(self.unfinished or self.position) <= position or self.unfinished is not None",
    ),
    Mutant(
        "a sink goes on at its checkpoint although its last write never ended",
        lane,
        "Lane._opened",
        "self._mark.resume_at(checkpoint)",
        "checkpoint",
    ),
    Mutant(
        "the note of a write is moved before what was refused is kept",
        lane,
        "Lane._write",
        "await self._park(self._refused)",
        "self._mark.move(batches[-1].position); await self._park(self._refused)",
    ),
    Mutant(
        "a write that failed is taken for done",
        lane,
        "Lane._given",
        "        except Incomplete:",
        "        except RelayError.__base__: return ()\n        except Incomplete:",
    ),
    Mutant(
        "a copy that never ended counts as one",
        lane,
        "Lane._opened",
        " or self._mark.is_copying",
        "",
    ),
    Mutant(
        "what a sink refuses is not kept",
        lane,
        "Lane._park",
        "if rejected and self._park_letters is not None:",
        "if False:",
    ),
    Mutant(
        "what a sink refuses of a copy is not kept",
        tables,
        "_Rows._copy_ranges",
        "one.table, self._way.park)",
        "one.table, lambda some: asyncio.sleep(0))",
    ),
    Mutant(
        "changes during a copy are lost to it",
        lane,
        "Lane._copy_whole",
        "await self._copied(version)",
        "version = max(version, self._log.position); await self._copied(version)",
    ),
    Mutant(
        "a range counts as copied before it is",
        tables,
        "_Rows._copy_ranges",
        "await self._sink.copy_part(",
        "await self._done(one, range_, 0); await self._sink.copy_part(",
    ),
    Mutant(
        "a copy counts as done at its last snapshot",
        whole,
        "WholeCopy.run",
        "await self._sink.reflect(self.version)",
        "self.version = tables.version; await self._sink.reflect(self.version)",
    ),
    Mutant(
        "a batch that ends inside a transaction is joined with the next",
        lane,
        "Lane._follow",
        "batches = await self._gather(cursor)",
        "batches = (await self._gather(cursor))[-1:]",
    ),
    Mutant(
        "with every sink down the server keeps its log for us",
        reader,
        "Reader._is_far_ahead",
        "if lane.working",
        "",
    ),
    Mutant(
        "the stream begins one byte behind the end of the log",
        run,
        "_Flow._start",
        "lsn=after.lsn, streaming",
        "lsn=after.lsn + 1, streaming",
    ),
    Mutant(
        "an older place that the server tells of takes the log back",
        decoder,
        "Decoder._keepalive",
        "self.position = max(self.position, end)",
        "self.position = end",
    ),
    Mutant(
        "a keepalive inside a transaction counts as its end",
        decoder,
        "Decoder._keepalive",
        "if not self.in_transaction:",
        "if True:",
    ),
    Mutant(
        "a transaction counts as contained where its commit begins",
        decoder,
        "Decoder._begin",
        "_u64(body, 0)[0] + 1",
        "_u64(body, 0)[0]",
    ),
    Mutant(
        "parts of a transaction share one version",
        decoder,
        "Decoder._begin_part",
        "self._version + 1",
        "self._version",
    ),
    Mutant(
        "what is rolled back inside a large transaction comes through",
        spool,
        "Spool._kept",
        "not aborted\n",
        "True\n",
    ),
    Mutant(
        "of a large transaction only the last piece is kept",
        spool,
        "Spool.begin_piece",
        "if xid not in self._open:",
        "if True:",
    ),
    Mutant(
        "open transactions outlive their connection",
        run,
        "_Flow._session",
        'spool = Spool(folder / "open")',
        'spool = self.__dict__.setdefault("_spool", None) or Spool(folder / "open")\n'
        "        self._spool, spool.close = spool, lambda: None",
    ),
    Mutant(
        "a slot that the server gave up on is read on",
        run,
        "_Flow._confirmed",
        "found.lost or ",
        "",
    ),
    Mutant(
        "an older server is read",
        run,
        "_Flow._require_no_older_epoch",
        "known > self._epoch",
        "False",
    ),
    Mutant(
        "what a promoted standby writes bears the old epoch",
        run,
        "_Flow._session",
        "self._epoch = server.timeline",
        "self._epoch = self._epoch or server.timeline",
    ),
    Mutant(
        "a copy made after a failover bears the first epoch",
        run,
        "_Flow._snapshot",
        "epoch=self._epoch",
        "epoch=1",
    ),
    Mutant(
        "after a failover the log goes on as if it were the same server's",
        segments,
        "SegmentLog.resume",
        "self.position < confirmed",
        "self.position % (1 << 48) < confirmed % (1 << 48)",
    ),
    Mutant(
        "a sink that was emptied goes on where it was",
        sinks,
        "SimulatedSink._require_whole",
        "(self.store.checkpoint or 0) < self.left",
        "False",
    ),
    Mutant(
        "a copy loses what is as old as itself",
        sinks,
        "SimulatedSink.drop_below",
        "held < version",
        "held <= version",
    ),
    Mutant(
        "a copy keeps what is gone",
        sinks,
        "SimulatedSink.drop_below",
        "held < version",
        "False",
    ),
    Mutant(
        "a sink stores its checkpoint before its data",
        sinks,
        "SimulatedSink.write",
        "troubled = ",
        "self._save(batches[-1].position); troubled = ",
    ),
    Mutant(
        "an older version overwrites a newer one",
        sinks,
        "SimulatedSink.put",
        "held is None or version >= held[0]",
        "True",
    ),
    Mutant(
        "a repeated change of the same version is not taken again",
        sinks,
        "SimulatedSink.put",
        "version >= held[0]",
        "version > held[0]",
    ),
)
