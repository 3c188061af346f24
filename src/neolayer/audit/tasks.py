"""The audit trail's periodic work."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import timedelta

from neolayer.audit.anchors import Anchorer, AnchorStore
from neolayer.audit.sealer import Sealer
from neolayer.engines.endpoints import Endpoints, Role
from neolayer.periodic import BoundTask, Task
from neolayer.settings import AuditSettings


@asynccontextmanager
async def tasks(at: Endpoints, settings: AuditSettings) -> AsyncGenerator[tuple[BoundTask, ...]]:
    """Seal what waits, and anchor the chains that have grown."""
    dsn = at.postgres.dsn(Role.AUDITOR)
    sealer = Sealer(dsn)
    anchorer = Anchorer(dsn, AnchorStore(at.objects))
    try:
        yield (
            Task(
                "audit: seal", timedelta(seconds=settings.seal_seconds), Sealer.seal_waiting
            ).given(sealer),
            Task(
                "audit: anchor", timedelta(seconds=settings.anchor_seconds), Anchorer.write_anchor
            ).given(anchorer),
        )
    finally:
        await sealer.close()
