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
    """Engines, relay and chains as seen within a second, and what this process counted."""
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
    _audit(health, registry)
    _tasks(health, registry)
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


def _audit(health: Health, registry: CollectorRegistry) -> None:
    if (audit := health.audit) is None:
        return
    unsealed = Gauge("neolayer_audit_unsealed", "Entries without a seal.", registry=registry)
    unsealed.set(audit.unsealed)
    lag = Gauge(
        "neolayer_audit_lag_seconds", "Age of the oldest entry without a seal.", registry=registry
    )
    lag.set(audit.lag_seconds)
    unanchored = Gauge(
        "neolayer_audit_unanchored_chains",
        "Chains that have grown since they were anchored.",
        registry=registry,
    )
    unanchored.set(audit.unanchored_chains)
    if audit.anchored_at is not None:
        anchored = Gauge(
            "neolayer_audit_last_anchor_timestamp_seconds",
            "When heads of chains were last written to the object store.",
            registry=registry,
        )
        anchored.set(audit.anchored_at.timestamp())


def _tasks(health: Health, registry: CollectorRegistry) -> None:
    up = Gauge("neolayer_tasks_up", "1 while periodic work is done.", registry=registry)
    up.set(health.tasks is not None and health.tasks.is_running)
    failing = Gauge(
        "neolayer_task_failures_in_a_row",
        "Failures of a periodic task since it last ended well.",
        ["task"],
        registry=registry,
    )
    for name, task in (health.tasks.tasks if health.tasks else {}).items():
        failing.labels(name).set(task.failures_in_a_row)
