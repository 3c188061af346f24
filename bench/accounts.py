"""One table, its rows, and its copy in ClickHouse: what the relay's benches move."""

from __future__ import annotations

from neolayer.catalogue import CacheCopy, ClickHouseCopy, DataClass
from neolayer.engines.clickhouse.client import connect
from neolayer.engines.endpoints import ClickHouseEndpoint

PUBLICATION = "neolayer_relay"
COLUMNS = ("id", "owner", "amount", "note", "seen_at", "good")
ACCOUNTS = DataClass(
    name="accounts",
    database="neolayer",
    table="public.accounts",
    copies=(
        ClickHouseCopy("accounts", key=("id",), columns=COLUMNS),
        CacheCopy("account:{id}"),
    ),
)
TABLE = """CREATE TABLE accounts (id bigint PRIMARY KEY, owner text NOT NULL,
amount numeric(78, 0) NOT NULL, note text, seen_at timestamptz NOT NULL DEFAULT now(),
good boolean NOT NULL DEFAULT true)"""
PUBLISH = f"CREATE PUBLICATION {PUBLICATION} FOR TABLE accounts"
ROWS = """INSERT INTO accounts (id, owner, amount, note)
SELECT g, 'ann', g * 1000, 'note ' || g FROM generate_series({}, {}) g"""
_COPY = """CREATE OR REPLACE TABLE {} (
id Int64, owner String, amount UInt256, note Nullable(String),
seen_at DateTime64(6, 'UTC'), good Bool, _version UInt64, _deleted UInt8)
ENGINE = ReplacingMergeTree(_version, _deleted) ORDER BY id"""
_CHECKPOINTS = """CREATE OR REPLACE TABLE relay_checkpoints (sink String, version UInt64,
updated_at DateTime64(6, 'UTC') DEFAULT now64(6))
ENGINE = ReplacingMergeTree(version) ORDER BY sink"""
INSERT_ROWS = 50_000
ALL_COLUMNS = (*COLUMNS, "_version", "_deleted")
SELECTED = f"{', '.join(COLUMNS)}, 1, 0"


async def make_copies(endpoint: ClickHouseEndpoint, complete_to: int) -> None:
    client = await connect(endpoint)
    for statement in (_COPY.format("accounts"), _COPY.format("direct"), _CHECKPOINTS):
        await client.command(statement)
    # Empty, and lacking nothing: where the stream begins there were no rows yet.
    checkpoint = (
        f"INSERT INTO relay_checkpoints (sink, version) VALUES ('clickhouse', {complete_to})"
    )
    await client.command(checkpoint)
    await client.close()
