"""pgsync's parser over what test_decoding writes. Runs in an environment of its own.

pgsync reads pages by SQL, and each page decodes the log from its beginning again; here one
statement reads it all, the best it can do. What is compared is the decoding: nothing is indexed.
"""

from __future__ import annotations

from bench.contenders.protocol import Job, serve

_PEEK = "SELECT data FROM pg_logical_slot_peek_changes(%s, NULL, NULL)"


def run(job: Job) -> int:
    """Read and parse `rows` inserts from a slot of test_decoding."""
    import psycopg2
    from pgsync.base import Base
    from pgsync.sync import TX_BOUNDARY_RE

    parser = Base.__new__(Base)  # its constructor wants a search engine
    parser.verbose = False
    rows = 0
    connection = psycopg2.connect(job["dsn"])
    with connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT data FROM pg_logical_slot_peek_changes(%s, NULL, NULL)", (job["slot"],)
        )
        for (data,) in cursor:
            if not TX_BOUNDARY_RE.match(data):
                rows += bool(parser.parse_logical_slot(data).new)
    connection.close()
    if rows != job["rows"]:
        raise SystemExit(f"pgsync saw {rows} rows of {job['rows']}")
    return rows


if __name__ == "__main__":
    serve(run)
