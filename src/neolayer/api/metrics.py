"""`/metrics`: what a Prometheus server scrapes."""

from __future__ import annotations

from litestar import Response, get
from litestar.datastructures import State
from prometheus_client import CONTENT_TYPE_LATEST, Gauge, generate_latest

from neolayer.api.watch import Watch
from neolayer.telemetry import REGISTRY

ENGINE_UP = Gauge(
    "neolayer_engine_up", "1 while the engine answers.", ["engine", "level"], registry=REGISTRY
)


@get("/metrics", media_type="text/plain")
async def metrics(state: State) -> Response[bytes]:
    """Every metric of this process, with the engines as seen now."""
    watch: Watch = state["watch"]
    for status in await watch.statuses():
        ENGINE_UP.labels(status.name, str(status.level)).set(status.healthy)
    return Response(generate_latest(REGISTRY), headers={"content-type": CONTENT_TYPE_LATEST})
