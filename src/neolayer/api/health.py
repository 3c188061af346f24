"""Whether the process lives, and whether it can do its work."""

from __future__ import annotations

from typing import Any

from litestar import Response, get
from litestar.datastructures import State
from litestar.openapi import ResponseSpec
from litestar.status_codes import HTTP_200_OK, HTTP_503_SERVICE_UNAVAILABLE

from neolayer.api.watch import Watch


@get("/health/live")
async def live() -> dict[str, str]:
    """The process runs; no engine is asked, so a broken engine never gets it killed."""
    return {"status": "live"}


@get(
    "/health/ready",
    responses={HTTP_503_SERVICE_UNAVAILABLE: ResponseSpec(dict[str, Any], description="not ready")},
)
async def ready(state: State) -> Response[dict[str, Any]]:
    """200 when every engine answers, else 503; which one does not, and why."""
    watch: Watch = state["watch"]
    statuses = await watch.statuses()
    failing = {status.name: status.detail for status in statuses if not status.healthy}
    return Response(
        {
            "status": "not ready" if failing else "ready",
            "engines": {status.name: status.healthy for status in statuses},
            "failing": failing,
        },
        status_code=HTTP_503_SERVICE_UNAVAILABLE if failing else HTTP_200_OK,
    )
