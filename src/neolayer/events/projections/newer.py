"""Streams that stand still because a program was older than what others had stored.

Nothing is wrong with such an event: it waits for the program that knows its schema version. That
one folds the stream on by itself; whatever else stands still waits for somebody's `replay`. A
stream that somebody else holds, or a read model whose table is not this program's to fill, is
passed by: the next look may find it free.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from uuid import UUID

from neolayer.engines.endpoints import Endpoints
from neolayer.engines.postgres.connections import Connection
from neolayer.engines.postgres.queries import load_queries
from neolayer.errors import Conflict
from neolayer.events.errors import ProjectionNotReady
from neolayer.events.projections import tables
from neolayer.events.projections.domain import Domain
from neolayer.events.projections.folding import Stream
from neolayer.events.projections.pages import Target
from neolayer.events.projections.parking import go_on
from neolayer.telemetry import log_warning

QUERIES = load_queries(__name__)
_FIRST = UUID(int=0)


async def fold_newer(at: Endpoints, domain: Domain) -> int:
    """Fold on the streams whose event this program can read by now; how many flow again."""
    flowing = 0
    if domain.projections:
        async with tables.owner_connection(at) as owner:
            for projection in domain.projections:
                flowing += await _fold_on(owner, Target.of(projection, domain.registry))
    return flowing


async def _fold_on(owner: Connection, target: Target) -> int:
    flowing = 0
    async for stream in _readable(owner, target):
        try:
            with tables.giving_way():
                flowing += await go_on(owner, target, stream) is True
        except ProjectionNotReady as exc:  # none of its streams can be
            _note(target, exc)
            return flowing
        except Conflict as exc:
            _note(target, exc)
    return flowing


def _note(target: Target, exc: Conflict) -> None:
    log_warning(
        "streams that newer events held up still stand",
        projection=target.name,
        reason=exc.message,
    )


async def _readable(owner: Connection, target: Target) -> AsyncIterator[Stream]:
    """The streams that stand still at an event which an older program could not read."""
    after = _FIRST, _FIRST
    while True:
        asked = {"name": target.name, "after_tenant": after[0], "after_stream": after[1]}
        rows = await (await owner.execute(QUERIES.standing_newer, asked)).fetchall()
        if not rows:
            return
        for tenant, stream_id, *event in rows:
            after = tenant, stream_id
            if _is_known(target, *event):
                yield after


def _is_known(target: Target, category: str, name: str, schema_version: int, cause: str) -> bool:
    """Whether it was too new for whoever put it aside, and is not for this program."""
    if not target.wants(category, name):
        return False
    known = target.registry.named(category, name).schema_version
    _, _, of_then = cause.rpartition(
        f": {name} was stored at schema version {schema_version}, this program knows "
    )
    return of_then.isdecimal() and int(of_then) < schema_version <= known
