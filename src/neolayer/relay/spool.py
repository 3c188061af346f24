"""Large transactions, kept on our disk while they are still open.

A transaction that outgrows `logical_decoding_work_mem` is sent in pieces before it commits, between
other transactions. Its changes lie here, one file a transaction, until its end is known: at the
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

_RECORD = struct.Struct(">II")
_HEADER: Final = 25  # before the message: see decoder.py
_KEPT: Final = b"RIUDT"  # what the decoder wants to know of a transaction's inside
_RELATION: Final = b"R"[0]


class Spool:
    """The open transactions of one connection, in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[int, BinaryIO] = {}
        self._aborted: dict[int, set[int]] = {}
        self._piece: BinaryIO | None = None
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            for left in folder.glob("*.open"):
                left.unlink()
        except OSError as exc:
            raise self._unusable(exc) from exc

    def begin_piece(self, xid: int) -> None:
        """What is added from here on came inside this transaction."""
        if xid not in self._files:
            try:
                self._files[xid] = self._path(xid).open("w+b")
            except OSError as exc:
                raise self._unusable(exc) from exc
            self._aborted[xid] = set()
        self._piece = self._files[xid]

    def add(self, message: memoryview) -> None:
        """A message of the piece: behind its tag stands which (sub)transaction it belongs to."""
        assert self._piece is not None, "a piece begins first"
        tag = message[_HEADER]
        if tag not in _KEPT:
            return
        xid = int.from_bytes(message[_HEADER + 1 : _HEADER + 5], "big")
        body = message[_HEADER + 5 :]
        try:
            self._piece.write(_RECORD.pack(_HEADER + 1 + len(body), xid))
            self._piece.write(message[: _HEADER + 1])
            self._piece.write(body)
        except OSError as exc:
            raise self._unusable(exc) from exc

    def abort(self, xid: int, part: int) -> None:
        """A transaction, or only a part of it, comes to nothing."""
        if xid not in self._files:
            raise ValueError("a transaction is aborted that did not begin")
        if part == xid:
            self._remove(xid)
        else:
            self._aborted[xid].add(part)

    def committed(self, xid: int) -> Iterator[memoryview]:
        """The messages of a transaction that has committed, in order; with the last they go."""
        if xid not in self._files:
            raise ValueError("a transaction is committed that did not begin")
        return self._messages(self._files[xid], self._aborted[xid], xid)

    def close(self) -> None:
        for xid in list(self._files):
            self._remove(xid)

    def _messages(self, file: BinaryIO, aborted: set[int], xid: int) -> Iterator[memoryview]:
        try:
            file.seek(0)
            while head := file.read(_RECORD.size):
                size, part = _RECORD.unpack(head)
                message = file.read(size)
                # A description sent in a part that was aborted is not sent again: it still holds.
                if part not in aborted or message[_HEADER] == _RELATION:
                    yield memoryview(message)
        except OSError as exc:
            raise self._unusable(exc) from exc
        self._remove(xid)

    def _remove(self, xid: int) -> None:
        self._files.pop(xid).close()
        del self._aborted[xid]
        self._path(xid).unlink(missing_ok=True)

    def _path(self, xid: int) -> Path:
        return self._folder / f"{xid}.open"

    def _unusable(self, exc: OSError) -> RelayError:
        return RelayError(
            f"open transactions cannot be kept in {self._folder}: {exc.strerror or exc}"
        )
