"""Which PostgreSQL was read, noted beside the segment log, so that one that was put back is told.

A position says what is newer only while the log of one server goes on. A snapshot of its disk that
was put back, or a fresh cluster filled from a dump, writes other commits at positions which the
copies have seen before: they would take what is new for old, for ever and without a word. Where
PostgreSQL is recovered onto a new timeline, positions grow and every copy starts over; where the
timeline is the same, nothing is relayed until it is.

Whoever waits for a copy looks into the same note (`freshness/put_back.py`).

A crash is no such case: a server sends nothing that is not on its own disk yet.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from neolayer.engines.postgres.replication import Server
from neolayer.errors import RelayError
from neolayer.freshness.put_back import NOTE_FILE, WAY_OUT, PutBack, ServerNote, read_note
from neolayer.position import Position
from neolayer.relay.segment import sync


class KnownServer:
    """The note in a segment log's folder. It outlives the machine."""

    def __init__(self, folder: Path, database: str) -> None:
        self._path = folder / NOTE_FILE
        self._database = database

    def admit(self, server: Server, *, reflected: int) -> None:
        """Let it be read, whose changes up to `reflected` are here already.

        What was found of it once holds until its timeline is a later one, also when it has passed
        that position again. Raises PutBack or RelayError.
        """
        note = self._read()
        if note is None or server.timeline > note.epoch:
            note = ServerNote(server.system, server.timeline)
            self._write(note)
        if note.put_back is None and (found := self._found(note, server, reflected)):
            note.put_back = found
            self._write(note)
        if note.put_back is not None:
            raise PutBack(note.put_back, hint=WAY_OUT)

    def _found(self, note: ServerNote, server: Server, reflected: int) -> str | None:
        at = Position(server.timeline, server.flushed_lsn, self._database)
        copies = Position.from_version(reflected, self._database)
        where = f"it is at {at}, and the copies were fed up to {copies}"
        if server.system != note.system and server.timeline == note.epoch:
            return f"PostgreSQL was put back as another server on the same timeline: {where}"
        if copies.epoch == at.epoch and at.version < reflected:
            return f"PostgreSQL was put back on the same timeline: {where}"
        return None

    def _read(self) -> ServerNote | None:
        try:
            return read_note(self._path)
        except OSError as exc:
            raise self._unusable(exc) from exc

    def _write(self, note: ServerNote) -> None:
        unfinished = self._path.with_suffix(".new")
        try:
            unfinished.write_bytes(msgspec.json.encode(note))
            unfinished.chmod(0o600)
            sync(unfinished)
            unfinished.replace(self._path)
            sync(self._path.parent)
        except OSError as exc:
            raise self._unusable(exc) from exc

    def _unusable(self, exc: OSError) -> RelayError:
        return RelayError(f"{self._path} cannot be used: {exc.strerror or exc}")
