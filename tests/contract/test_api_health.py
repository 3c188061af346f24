"""The HTTP application over engines that do not answer."""

from __future__ import annotations

import asyncio

from litestar.testing import AsyncTestClient

from neolayer.api.app import make_app
from neolayer.api.watch import Watch
from neolayer.engines.endpoints import Endpoints
from neolayer.settings import Settings


async def test_not_ready_names_what_does_not_answer(layer_databases: Endpoints) -> None:
    """Readiness is 503 with each engine that fails and why; liveness and metrics still answer."""
    async with AsyncTestClient(make_app(Settings(), layer_databases)) as client:
        ready = await client.get("/health/ready")
        assert ready.status_code == 503
        told = ready.json()
        assert told["engines"]["postgres"] is True
        assert "refuses the connection" in told["failing"]["redis"]
        assert "refuses the connection" in told["failing"]["clickhouse"]
        assert (await client.get("/health/live")).status_code == 200
        metrics = (await client.get("/metrics")).text
        assert 'neolayer_engine_up{engine="redis",level="embedded"} 0.0' in metrics
        assert "neolayer_relay_up 0.0" in metrics


async def test_whoever_asks_often_costs_nothing(layer_databases: Endpoints) -> None:
    """Anybody may ask for the metrics, so a thousand at once look at the engines once."""
    watch = Watch(layer_databases)
    first, *others = await asyncio.gather(*(watch.health() for _ in range(1000)))
    assert all(other is first for other in others)
    assert [each.name for each in await watch.statuses()] == [
        engine.status.name for engine in first.engines
    ]
    await watch.close()


async def test_not_ready_before_the_migrations(no_databases: Endpoints) -> None:
    """A server that answers but was never set up is not ready, and the way out is named."""
    async with AsyncTestClient(make_app(Settings(), no_databases)) as client:
        told = (await client.get("/health/ready")).json()
        assert "neolayer migrate up" in told["failing"]["postgres"]
