"""Work that is done in every tenant, so that what one makes of it is no other's."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from uuid import UUID

from neolayer.errors import EngineUnavailable
from neolayer.telemetry import log_error


async def in_each(tenants: Iterable[UUID], work: Callable[[UUID], Awaitable[int]]) -> int:
    """Do the work in each tenant; the sum of what it counts.

    What one tenant's rows make of it stops no other's: the first such error is raised at the end.
    Raises EngineUnavailable at once.
    """
    total, failed = 0, None
    for tenant in tenants:
        try:
            total += await work(tenant)
        except EngineUnavailable:
            raise
        except Exception as exc:
            log_error("periodic work failed in a tenant", tenant=str(tenant), error=str(exc))
            failed = failed or exc
    if failed is not None:
        raise failed
    return total
