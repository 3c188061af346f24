"""Large transactions, kept on our disk while they are still open.

A transaction that outgrows `logical_decoding_work_mem` is sent in pieces before it commits, between
other transactions. Its messages lie here, one file a transaction, until its end is known: at the
commit they are given to the decoder as if they came then, under the commit's position; of an
aborted transaction, or an aborted part of one (a savepoint), nothing is left.

Nothing here need outlive the connection: what was not confirmed is sent again from its beginning.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

from neolayer.errors import RelayError

_TAG: Final = (
    25  # where a message's tag stands, see decoder.py; behind it, whose part it belongs to
)
_PART = struct.Struct(">I")
_RELATION: Final = ord("R")
_BLOCK = struct.Struct(">II")  # messages, bytes
_BLOCK_BYTES: Final = 4 << 20


class _Transaction:
    """One open transaction: blocks of messages, each with their lengths before them."""

    def __init__(self, path: Path) -> None:
        self.aborted: set[int] = set()
        self._path = path
        self._file: BinaryIO = path.open("w+b")
        self._held: list[memoryview] = []
        self._held_bytes = 0

    def add(self, message: memoryview) -> None:
        self._held.append(message)
        self._held_bytes += len(message)
        if self._held_bytes >= _BLOCK_BYTES:
            self.flush()

    def flush(self) -> None:
        if not self._held:
            return
        lengths = struct.pack(f">{len(self._held)}I", *map(len, self._held))
        head = _BLOCK.pack(len(self._held), self._held_bytes)
        self._file.write(b"".join([head, lengths, *self._held]))
        self._held.clear()
        self._held_bytes = 0

    def messages(self) -> Iterator[memoryview]:
        self.flush()
        self._file.seek(0)
        while head := self._file.read(_BLOCK.size):
            count, size = _BLOCK.unpack(head)
            lengths = struct.unpack(f">{count}I", self._file.read(4 * count))
            block, start = memoryview(self._file.read(size)), 0
            for length in lengths:
                yield block[start : start + length]
                start += length

    def close(self) -> None:
        self._file.close()
        self._path.unlink(missing_ok=True)


class Spool:
    """The open transactions of one connection, in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open: dict[int, _Transaction] = {}
        self._piece: _Transaction | None = None
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            for left in folder.glob("*.open"):
                left.unlink()
        except OSError as exc:
            raise self._unusable(exc) from exc

    def begin_piece(self, xid: int) -> None:
        """What is added from here on came inside this transaction. Raises RelayError."""
        if xid not in self._open:
            try:
                self._open[xid] = _Transaction(self._folder / f"{xid}.open")
            except OSError as exc:
                raise self._unusable(exc) from exc
        self._piece = self._open[xid]

    def add(self, message: memoryview) -> None:
        """A message of the piece, as it came. Raises RelayError."""
        assert self._piece is not None, "a piece begins first"
        try:
            self._piece.add(message)
        except OSError as exc:
            raise self._unusable(exc) from exc

    def abort(self, xid: int, part: int) -> None:
        """A transaction, or only a part of it, comes to nothing. Raises KeyError."""
        if part == xid:
            self._open.pop(xid).close()
        else:
            self._open[xid].aborted.add(part)

    def committed(self, xid: int) -> Iterator[memoryview]:
        """The messages of a transaction that has committed, in order, and then it is gone.

        Raises KeyError where there is none, and RelayError.
        """
        return self._kept(xid, self._open[xid])

    def close(self) -> None:
        for transaction in self._open.values():
            transaction.close()
        self._open.clear()

    def _kept(self, xid: int, transaction: _Transaction) -> Iterator[memoryview]:
        aborted = transaction.aborted
        try:
            for message in transaction.messages():
                # A description sent in a part that was aborted is not sent again: it still holds.
                if (
                    not aborted
                    or message[_TAG] == _RELATION
                    or _PART.unpack_from(message, _TAG + 1)[0] not in aborted
                ):
                    yield message
        except OSError as exc:
            raise self._unusable(exc) from exc
        self._open.pop(xid).close()

    def _unusable(self, exc: OSError) -> RelayError:
        return RelayError(
            f"open transactions cannot be kept in {self._folder}: {exc.strerror or exc}"
        )
