"""Streams that stand still because a program was older than what others had stored.

Nothing is wrong with such an event: it waits for the program that knows its schema version. That
one folds the stream on by itself; whatever else stands still waits for somebody's `replay`.
"""

from __future__ import annotations

import re

from neolayer.engines.endpoints import Endpoints
from neolayer.events.projections.domain import Domain
from neolayer.events.projections.parking import ParkedOccurrence, parked, replay

_NEWER = re.compile(r": (.+) was stored at schema version ([0-9]+), this program knows ")
_MOST = 10_000


async def fold_newer(at: Endpoints, domain: Domain) -> int:
    """Fold on the streams whose event this program can read by now; how many flow again."""
    names = {projection.name for projection in domain.projections}
    flowing = 0
    for one in await parked(at, limit=_MOST):
        if one.projection in names and _is_known(domain, one):
            done = await replay(
                at, domain, one.projection, tenant=one.tenant, stream_id=one.stream_id
            )
            flowing += done.flowing
    return flowing


def _is_known(domain: Domain, one: ParkedOccurrence) -> bool:
    found = _NEWER.search(one.cause)
    return found is not None and any(
        kind.name == found[1] and kind.schema_version >= int(found[2]) for kind in domain.registry
    )
