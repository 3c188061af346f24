"""`/metrics`: what a Prometheus server scrapes.

Made afresh for every scrape, so that a sink or network that is gone leaves no stale line behind.
"""

from __future__ import annotations

from litestar import Response, get
from litestar.datastructures import State
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Gauge, generate_latest

from neolayer.api.watch import Watch
from neolayer.insight.health import Health
from neolayer.telemetry import REGISTRY


@get("/metrics", media_type="text/plain")
async def metrics(state: State) -> Response[bytes]:
    """Engines, relay and chains as seen now, and what this process counted."""
    watch: Watch = state["watch"]
    text = generate_latest(gauges(await watch.health())) + generate_latest(REGISTRY)
    return Response(text, headers={"content-type": CONTENT_TYPE_LATEST})


def gauges(health: Health) -> CollectorRegistry:
    """The health of a layer as gauges; what cannot be known has no line."""
    registry = CollectorRegistry()
    up = Gauge(
        "neolayer_engine_up", "1 while the engine answers.", ["engine", "level"], registry=registry
    )
    for engine in health.engines:
        up.labels(engine.status.name, str(engine.status.level)).set(engine.status.healthy)
    _relay(health, registry)
    _chains(health, registry)
    return registry


def _relay(health: Health, registry: CollectorRegistry) -> None:
    reading = Gauge("neolayer_relay_up", "1 while the relay reads.", registry=registry)
    reading.set(health.relay is not None and health.relay.running)
    lag = Gauge(
        "neolayer_relay_lag_bytes",
        "Commit log that a sink does not reflect yet.",
        ["sink"],
        registry=registry,
    )
    held = Gauge("neolayer_relay_held_bytes", "Commit log kept for the relay.", registry=registry)
    if health.relay is None:
        return
    held.set(health.relay.held_bytes or 0)
    for sink in health.relay.sinks:
        if sink.lag_bytes is not None:
            lag.labels(sink.name).set(sink.lag_bytes)


def _chains(health: Health, registry: CollectorRegistry) -> None:
    head = Gauge("neolayer_ingest_head", "Highest block stored.", ["network"], registry=registry)
    missing = Gauge(
        "neolayer_ingest_missing_blocks",
        "Blocks missing between the lowest and the highest stored.",
        ["network"],
        registry=registry,
    )
    for network in health.networks:
        if network.head_number is not None:
            head.labels(network.network).set(network.head_number)
            gaps = sum(last - first + 1 for first, last in network.missing)
            missing.labels(network.network).set(gaps)
