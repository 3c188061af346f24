"""pypgoutput's decoders over psycopg2's replication stream. Runs in the peers' environment.

Its own reader (a second process, a round trip and a pydantic model a row) is ten times slower; what
is compared is the decoding.
"""

from __future__ import annotations

from typing import Any

from bench.contenders.protocol import Job, serve


def run(job: Job) -> int:
    """Read and decode `rows` inserts from a slot."""
    import psycopg2
    from psycopg2.extras import LogicalReplicationConnection
    from pypgoutput import decoders

    kinds: dict[str, Any] = {
        "B": decoders.Begin,
        "C": decoders.Commit,
        "R": decoders.Relation,
        "I": decoders.Insert,
    }
    connection = psycopg2.connect(job["dsn"], connection_factory=LogicalReplicationConnection)
    cursor = connection.cursor()
    options = {"publication_names": job["publication"], "proto_version": "1"}
    cursor.start_replication(slot_name=job["slot"], decode=False, options=options)
    rows = 0
    while rows < job["rows"]:
        message = cursor.read_message()
        if message is None:
            continue
        kind = chr(message.payload[0])
        decoded = kinds[kind](message.payload)
        if kind == "I":
            rows += 1
            [column.col_data for column in decoded.new_tuple.column_data]
    connection.close()
    return rows


if __name__ == "__main__":
    serve(run)
