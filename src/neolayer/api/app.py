"""The HTTP application. Rooms hang their routes here; a handler parses, calls one thing, answers.

GET /health/live    200 while the process runs
GET /health/ready   200 when every engine answers, else 503 naming those that do not
GET /metrics        Prometheus text
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from litestar import Litestar

from neolayer.api.health import live, ready
from neolayer.api.metrics import metrics
from neolayer.api.watch import Watch
from neolayer.engines.endpoints import Endpoints


def make_app(
    endpoints: Endpoints, *, relay_state: Path | None = None, tasks_state: Path | None = None
) -> Litestar:
    """The application over one layer; its engines are opened at first use and closed at the end.

    `relay_state` and `tasks_state` are the files in which the workers say how they fare.
    """

    @asynccontextmanager
    async def lifespan(app: Litestar) -> AsyncGenerator[None]:
        app.state["watch"] = watch = Watch(
            endpoints, relay_state=relay_state, tasks_state=tasks_state
        )
        try:
            yield
        finally:
            await watch.close()

    return Litestar(
        route_handlers=[live, ready, metrics],
        lifespan=[lifespan],
        openapi_config=None,
        logging_config=None,
    )
