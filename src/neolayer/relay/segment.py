"""One file of the segment log.

It begins with a mark of the format and its place in the log: the position, the rows and the bytes
before it. So one that is missing, or lost its end, leaves a gap that whoever reads runs into. Then
come records: a checksum, a head that says enough to pass over the batch, and the batch. What a
killed process or a lost machine leaves half written at the end is told by the checksum.
"""

from __future__ import annotations

import os
import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

import msgspec

from neolayer.errors import RelayError
from neolayer.relay.changes import Batch

_MARK: Final = b"neolayer segment 2\n"
_PLACE = struct.Struct(">QQQ")  # position, rows and bytes before it
_CHECKSUM = struct.Struct(">I")
_HEAD = struct.Struct(">IQQQI")
_BEGIN: Final = len(_MARK) + _PLACE.size + _CHECKSUM.size
_NAME = re.compile(r"[0-9a-f]{16}\.segment")
_READ_BYTES: Final = 1 << 20
_DAMAGE_HINT: Final = (
    "look at its disk; the copies that still had to read it start over by themselves"
)

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Batch).decode


class LogDamaged(RelayError):
    """A record of the segment log is not what was written."""


class CutOff(RelayError):
    """The segment log no longer holds what comes next."""


class Head(NamedTuple):
    """What stands before a batch. Positions are packed versions, `unfinished` 0 for none."""

    length: int
    position: int
    unfinished: int
    rows_before: int
    rows: int

    @property
    def size(self) -> int:
        """The bytes of the whole record."""
        return _CHECKSUM.size + _HEAD.size + self.length

    def contained_in(self, position: int) -> bool:
        """As `Batch.contained_in`."""
        return (self.unfinished or self.position) <= position


def pack(batch: Batch, *, rows_before: int) -> tuple[Head, bytes]:
    """A batch as a record."""
    payload = _encode(batch)
    head = Head(len(payload), batch.position, batch.unfinished or 0, rows_before, batch.rows)
    packed = _HEAD.pack(*head)
    return head, _CHECKSUM.pack(_checksum(packed, payload)) + packed + payload


def _checksum(head: bytes, payload: bytes) -> int:
    return zlib.crc32(payload, zlib.crc32(head))


def _next_head(file: BinaryIO) -> tuple[int, Head] | None:
    """Checksum and head of the next record; None at the end, or where it is torn."""
    data = file.read(_CHECKSUM.size + _HEAD.size)
    if len(data) < _CHECKSUM.size + _HEAD.size:
        return None
    return _CHECKSUM.unpack_from(data)[0], Head._make(_HEAD.unpack_from(data, _CHECKSUM.size))


def _next_record(file: BinaryIO) -> tuple[Head, bytes] | None:
    """Head and packed batch of the next record; None at the end, or where it is torn."""
    if (found := _next_head(file)) is None:
        return None
    checksum, head = found
    payload = file.read(head.length)
    if len(payload) < head.length or _checksum(_HEAD.pack(*head), payload) != checksum:
        return None
    return head, payload


@dataclass(slots=True)
class Segment:
    """One file of records: `start` is the position before it, `rows` the rows before it.

    `offset` and `size` count bytes of records only; the offset is that in the whole log.
    """

    path: Path
    start: int
    rows: int
    offset: int
    size: int

    @classmethod
    def create(cls, folder: Path, *, start: int, rows: int, offset: int) -> Segment:
        """A new file, which appears whole and stays. Raises OSError."""
        path = folder / _name(start)
        unfinished = path.with_suffix(".new")
        unfinished.write_bytes(_beginning(start, rows, offset))
        sync(unfinished)
        unfinished.rename(path)
        sync(folder)
        return cls(path, start, rows, offset, 0)

    @staticmethod
    def names(folder: Path) -> list[Path]:
        """The files of a folder that are called as segments are, in their order."""
        return sorted(path for path in folder.iterdir() if _NAME.fullmatch(path.name))

    @classmethod
    def existing(cls, path: Path) -> Segment | None:
        """A file of an earlier process; None where its beginning is not what this version writes
        into a file of that name. Raises OSError."""
        with path.open("rb") as file:
            begin = file.read(_BEGIN)
        if len(begin) < _BEGIN:
            return None
        start, rows, offset = _PLACE.unpack_from(begin, len(_MARK))
        if begin != _beginning(start, rows, offset) or path.name != _name(start):
            return None
        return cls(path, start, rows, offset, path.stat().st_size - _BEGIN)

    @property
    def end(self) -> int:
        return self.offset + self.size

    def whole_records(self) -> Iterator[Head]:
        """The heads of all records up to the first that is torn."""
        with self._at(self.offset) as file:
            while found := _next_record(file):
                yield found[0]

    def find(self, position: int, *, offset: int, rows: int) -> tuple[int, int]:
        """Offset of the first batch that `position` does not contain, and the rows before it.

        What lies before `offset` is not looked at, and of what is passed over only the heads; but
        the last one wholly: had its position changed on the disk, it would be the first to read.
        Raises LogDamaged or CutOff.
        """
        passed = None
        with self._at(offset) as file:
            while offset < self.end:
                found = _next_head(file)
                if found is None or found[1].rows_before != rows:
                    raise self._damaged()
                head = found[1]
                if not head.contained_in(position):
                    break
                file.seek(head.length, os.SEEK_CUR)
                passed = offset
                offset += head.size
                rows = head.rows_before + head.rows
        if passed is not None:
            with self._at(passed) as file:
                if _next_record(file) is None:
                    raise self._damaged()
        return offset, rows

    def read(self, offset: int) -> list[tuple[Batch, Head]]:
        """The batches from an offset on: about 1 MiB of them. Raises LogDamaged or CutOff."""
        if offset >= self.end:
            raise LogDamaged(f"what follows {self.path} is missing", hint=_DAMAGE_HINT)
        found: list[tuple[Batch, Head]] = []
        up_to = min(offset + _READ_BYTES, self.end)
        with self._at(offset) as file:
            while offset < up_to:
                record = _next_record(file)
                if record is None:
                    raise self._damaged()
                head, payload = record
                found.append((_decode(payload), head))
                offset += head.size
        return found

    def append(self, record: bytes) -> None:
        """All of it or nothing. Raises OSError."""
        # Never made here: a file that is gone must not come back without its beginning.
        file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        try:
            self._write(file, memoryview(record))
        except OSError:
            os.ftruncate(file, _BEGIN + self.size)
            raise
        finally:
            os.close(file)
        self.size += len(record)

    def _write(self, file: int, data: memoryview) -> None:
        while data:
            data = data[os.write(file, data) :]

    def cut(self, end: int) -> None:
        """Let the segment end at an offset of the log. Raises OSError."""
        os.truncate(self.path, _BEGIN + end - self.offset)
        self.size = end - self.offset

    def _at(self, offset: int) -> BinaryIO:
        try:
            file = self.path.open("rb")
        except FileNotFoundError:
            raise CutOff("the segment log has let go of what comes next") from None
        file.seek(_BEGIN + offset - self.offset)
        return file

    def _damaged(self) -> LogDamaged:
        return LogDamaged(f"{self.path} is damaged", hint=_DAMAGE_HINT)


def _name(start: int) -> str:
    return f"{start:016x}.segment"


def _beginning(start: int, rows: int, offset: int) -> bytes:
    begin = _MARK + _PLACE.pack(start, rows, offset)
    return begin + _CHECKSUM.pack(zlib.crc32(begin))


def sync(path: Path) -> None:
    """Bring a file or the names in a folder to the disk. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
