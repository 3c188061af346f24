"""What the time series stand on: TimescaleDB is looked for, and plain tables are what is used."""

from __future__ import annotations

from collections.abc import Sequence

from neolayer.engines.engine import Engine
from neolayer.engines.postgres.engine import PostgresEngine


async def time_series(engines: Sequence[Engine]) -> str | None:
    """One line, or None where no engine is their cluster. Raises EngineError."""
    clusters = {engine.name: engine for engine in engines if isinstance(engine, PostgresEngine)}
    cluster = clusters.get("postgres timeseries") or clusters.get("postgres")
    if cluster is None:
        return None
    version = await cluster.extension("timescaledb")
    has = "is not available" if version is None else f"{version} is available but not used"
    return f"native PostgreSQL tables; TimescaleDB {has}"
