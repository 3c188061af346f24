"""The HTTP application over engines that do not answer."""

from __future__ import annotations

from litestar.testing import AsyncTestClient
from tests.fixtures.fix_databases import postgres_only

from neolayer.api.app import make_app
from neolayer.engines.endpoints import PostgresEndpoint


async def test_not_ready_names_what_does_not_answer(postgres_server: PostgresEndpoint) -> None:
    """Readiness is 503 with each engine that fails and why; liveness and metrics still answer."""
    async with AsyncTestClient(make_app(postgres_only(postgres_server))) as client:
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
