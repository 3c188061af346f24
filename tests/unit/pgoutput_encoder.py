"""pgoutput messages as PostgreSQL would send them, for tests of the decoder."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from neolayer.relay.changes import NULL, UNCHANGED

Value = bytes | int


def wal_data(payload: bytes, *, lsn: int = 0) -> memoryview:
    return memoryview(b"w" + struct.pack(">QQq", lsn, lsn, 0) + payload)


def keepalive(lsn: int, *, asks: bool = False) -> memoryview:
    return memoryview(b"k" + struct.pack(">QqB", lsn, 0, asks))


def begin(lsn: int, *, xid: int = 7) -> memoryview:
    return wal_data(b"B" + struct.pack(">QqI", lsn, 0, xid))


def commit(lsn: int, end: int, *, time_us: int = 0) -> memoryview:
    return wal_data(b"C" + struct.pack(">BQQq", 0, lsn, end, time_us))


def relation(
    relation_id: int,
    columns: Sequence[str],
    *,
    schema: str = "public",
    name: str = "things",
    types: Sequence[int] = (),
    identity: Sequence[str] | None = None,
) -> memoryview:
    """`identity`: what of an old row is told; None: all of it (REPLICA IDENTITY FULL)."""
    setting = b"f" if identity is None else b"d"
    described = b"".join(
        bytes([identity is None or column in identity])
        + column.encode()
        + b"\0"
        + struct.pack(">Ii", oid, -1)
        for column, oid in zip(columns, types or [25] * len(columns), strict=True)
    )
    head = (
        struct.pack(">I", relation_id) + schema.encode() + b"\0" + name.encode() + b"\0" + setting
    )
    return wal_data(b"R" + head + struct.pack(">H", len(columns)) + described)


def tuple_of(values: Sequence[Value]) -> bytes:
    parts = [struct.pack(">H", len(values))]
    for value in values:
        if isinstance(value, bytes):
            parts.append(b"t" + struct.pack(">I", len(value)) + value)
        else:
            assert value in (NULL, UNCHANGED)
            parts.append(bytes([value]))
    return b"".join(parts)


def insert(relation_id: int, values: Sequence[Value]) -> memoryview:
    return wal_data(b"I" + struct.pack(">I", relation_id) + b"N" + tuple_of(values))


def update(
    relation_id: int,
    values: Sequence[Value],
    *,
    old: Sequence[Value] | None = None,
    mark: bytes = b"O",
) -> memoryview:
    before = b"" if old is None else mark + tuple_of(old)
    payload = b"U" + struct.pack(">I", relation_id) + before + b"N" + tuple_of(values)
    return wal_data(payload)


def delete(relation_id: int, old: Sequence[Value], *, mark: bytes = b"O") -> memoryview:
    return wal_data(b"D" + struct.pack(">I", relation_id) + mark + tuple_of(old))


def truncate(*relation_ids: int) -> memoryview:
    ids = b"".join(struct.pack(">I", one) for one in relation_ids)
    return wal_data(b"T" + struct.pack(">IB", len(relation_ids), 0) + ids)


def inside(message: memoryview, xid: int) -> memoryview:
    """A message as it comes in a piece of a transaction that has not committed."""
    return memoryview(bytes(message[:26]) + struct.pack(">I", xid) + bytes(message[26:]))


def piece(xid: int, *messages: memoryview, part: int | None = None) -> list[memoryview]:
    """Messages of an open transaction, or of a part of it (a savepoint)."""
    within = [inside(message, part or xid) for message in messages]
    return [
        wal_data(b"S" + struct.pack(">IB", xid, 0)),
        *within,
        wal_data(b"E"),
    ]


def piece_commit(xid: int, lsn: int, end: int, *, time_us: int = 0) -> memoryview:
    return wal_data(b"c" + struct.pack(">IBQQq", xid, 0, lsn, end, time_us))


def piece_abort(xid: int, *, part: int | None = None) -> memoryview:
    return wal_data(b"A" + struct.pack(">II", xid, part or xid))
