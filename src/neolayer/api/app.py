"""The HTTP application. A handler parses, calls one thing, answers; who may call it stands with it.

GET /health/live          200 while the process runs
GET /health/ready         200 when every engine answers, else 503 naming those that do not
GET /metrics              Prometheus text
GET /schema/openapi.json  the one description of everything below /v1
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path

from litestar import Litestar
from litestar.middleware import DefineMiddleware
from litestar.openapi.config import OpenAPIConfig
from litestar.openapi.spec import Components, SecurityScheme

from neolayer.api import problems
from neolayer.api.document import DocumentPlugin
from neolayer.api.health import live, ready
from neolayer.api.layer import Authentication, Layer, tell_position
from neolayer.api.metrics import metrics
from neolayer.api.requests import check_request
from neolayer.api.routes import (
    attestations,
    audit,
    roles,
    services,
    sessions,
    tenants,
    users,
    wallets,
)
from neolayer.api.watch import Watch
from neolayer.engines.endpoints import Endpoints
from neolayer.face import open_at
from neolayer.settings import Settings

ROUTERS = (
    sessions.router,
    users.router,
    users.letters,
    roles.router,
    roles.grants,
    services.router,
    tenants.mine,
    tenants.everybodys,
    wallets.router,
    attestations.router,
    audit.router,
)
LARGEST_BODY = 1024 * 1024
_OPEN = ("^/health/", "^/metrics$", "^/schema")


def make_app(
    settings: Settings,
    endpoints: Endpoints,
    *,
    relay_state: Path | None = None,
    tasks_state: Path | None = None,
) -> Litestar:
    """The application over one layer; its engines are opened at first use and closed at the end.

    `relay_state` and `tasks_state` are the files in which the workers say how they fare.
    """

    @asynccontextmanager
    async def lifespan(app: Litestar) -> AsyncGenerator[None]:
        app.state["watch"] = watch = Watch(
            endpoints, relay_state=relay_state, tasks_state=tasks_state
        )
        app.state["layer"] = layer = Layer(lambda: open_at(settings, endpoints), settings.serve)
        try:
            yield
        finally:
            await layer.close()
            await watch.close()

    return Litestar(
        route_handlers=[live, ready, metrics, *ROUTERS],
        lifespan=[lifespan],
        middleware=[DefineMiddleware(Authentication, exclude=list(_OPEN))],
        before_request=check_request,
        before_send=[tell_position],
        exception_handlers=problems.HANDLERS,
        response_headers=problems.HEADERS,
        request_max_body_size=LARGEST_BODY,
        openapi_config=_openapi(),
        logging_config=None,
    )


def _openapi() -> OpenAPIConfig:
    bearer = SecurityScheme(
        type="http",
        scheme="bearer",
        description="A session's access token, or a service's API key.",
    )
    return OpenAPIConfig(
        title="Neo Service Layer",
        version=version("neolayer"),
        description="Tenants, people, roles, wallets and attestations.",
        path="/schema",
        render_plugins=[DocumentPlugin()],
        components=Components(security_schemes={"bearer": bearer}),
        security=[{"bearer": []}],
        use_handler_docstrings=True,
    )
