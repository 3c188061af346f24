"""ethereum-etl 2.4.2: its mappers, then its PostgreSQL exporter or CSV and COPY.

`"route": "exporter"` is the tool's own streaming route: mappers, converters, SQLAlchemy tables and
upserts, as `ethereumetl stream --output postgresql...` wires them (echoing of SQL, which the tool
leaves on, is off here). `"route": "csv"` is what its sister project ethereum-etl-postgres does:
rows as CSV, then COPY; written to memory instead of a file. Both get the indexes of that project.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import psycopg2
from blockchainetl.jobs.exporters.converters.int_to_decimal_item_converter import (
    IntToDecimalItemConverter,
)
from blockchainetl.jobs.exporters.converters.list_field_item_converter import (
    ListFieldItemConverter,
)
from blockchainetl.jobs.exporters.converters.simple_item_converter import SimpleItemConverter
from blockchainetl.jobs.exporters.converters.unix_timestamp_item_converter import (
    UnixTimestampItemConverter,
)
from blockchainetl.jobs.exporters.postgres_item_exporter import PostgresItemExporter
from blockchainetl.streaming.postgres_utils import create_insert_statement_for_table
from ethereumetl.mappers.block_mapper import EthBlockMapper
from ethereumetl.mappers.transaction_mapper import EthTransactionMapper
from ethereumetl.streaming.postgres_tables import BLOCKS, TRANSACTIONS, metadata
from sqlalchemy import create_engine

from bench.contenders.protocol import Job, serve

_INDEXES = (
    "CREATE INDEX ON blocks (timestamp DESC)",
    "CREATE UNIQUE INDEX ON blocks (number DESC)",
    "CREATE INDEX ON transactions (block_timestamp DESC)",
    "CREATE INDEX ON transactions (from_address, block_timestamp DESC)",
    "CREATE INDEX ON transactions (to_address, block_timestamp DESC)",
)
# With the primary key the fifth: what a reader of one block needs.
_FIFTH = "CREATE INDEX ON transactions (block_number DESC)"

_BLOCK_MAPPER = EthBlockMapper()
_TRANSACTION_MAPPER = EthTransactionMapper()


def prepare(job: Job) -> None:
    """Fresh empty tables by the tool's own definitions."""
    engine = create_engine(job["url"])
    metadata.drop_all(engine)
    metadata.create_all(engine, tables=[BLOCKS, TRANSACTIONS])
    with engine.begin() as connection:
        for statement in _INDEXES if job["route"] == "exporter" else (*_INDEXES, _FIFTH):
            connection.exec_driver_sql(statement)
    engine.dispose()


def run(job: Job) -> int:
    load = _exporter_route if job["route"] == "exporter" else _csv_route
    return load(job)


def _batches(job: Job) -> Iterator[tuple[list[dict[str, Any]], list[dict[str, Any]]]]:
    """Block items and transaction items, so many blocks at a time."""
    paths, size = job["paths"], job["blocks_per_commit"]
    for start in range(0, len(paths), size):
        blocks: list[dict[str, Any]] = []
        transactions: list[dict[str, Any]] = []
        for path in paths[start : start + size]:
            with open(path, encoding="utf-8") as source:  # noqa: PTH123
                block = _BLOCK_MAPPER.json_dict_to_block(json.load(source))
            blocks.append(_BLOCK_MAPPER.block_to_dict(block))
            transactions.extend(map(_TRANSACTION_MAPPER.transaction_to_dict, block.transactions))
        yield blocks, transactions


def _exporter_route(job: Job) -> int:
    exporter = PostgresItemExporter(
        job["url"],
        item_type_to_insert_stmt_mapping={
            "block": create_insert_statement_for_table(BLOCKS),
            "transaction": create_insert_statement_for_table(TRANSACTIONS),
        },
        converters=[
            UnixTimestampItemConverter(),
            IntToDecimalItemConverter(),
            ListFieldItemConverter("topics", "topic", fill=4),
            SimpleItemConverter(field_converters={"blob_versioned_hashes": _joined}),
        ],
        print_sql=False,
    )
    stored = 0
    for blocks, transactions in _batches(job):
        exporter.export_items([*blocks, *transactions])
        stored += len(transactions)
    exporter.engine.dispose()
    return stored


def _csv_route(job: Job) -> int:
    stored = 0
    connection = psycopg2.connect(job["dsn"])
    for blocks, transactions in _batches(job):
        with connection, connection.cursor() as cursor:
            _copy(cursor, "blocks", [c.name for c in BLOCKS.columns], blocks)
            _copy(cursor, "transactions", [c.name for c in TRANSACTIONS.columns], transactions)
        stored += len(transactions)
    connection.close()
    return stored


def _copy(cursor: Any, table: str, columns: list[str], items: list[dict[str, Any]]) -> None:
    present = [name for name in columns if name in items[0]]
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    for item in items:
        writer.writerow([_cell(name, item[name]) for name in present])
    buffer.seek(0)
    cursor.copy_expert(f"COPY {table} ({', '.join(present)}) FROM STDIN (FORMAT CSV)", buffer)


def _cell(name: str, value: Any) -> Any:
    if name.endswith("timestamp"):
        return datetime.utcfromtimestamp(value)
    return _joined(value) if isinstance(value, list) else value


def _joined(values: list[str] | None) -> str | None:
    return ",".join(values) if values is not None else None


if __name__ == "__main__":
    serve(run, prepare)
