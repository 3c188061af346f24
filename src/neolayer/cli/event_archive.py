"""`neolayer events archive`: closed streams, moved to the object store."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from neolayer.cli.event_options import AsJson, AtPlace, opened
from neolayer.cli.output import counted, say, write_json
from neolayer.cli.root import invocation
from neolayer.cli.values import Count
from neolayer.cli.within_tenant import TenantOption
from neolayer.events.archive import Archive, Archiving
from neolayer.events.segments import SegmentStore
from neolayer.platform import endpoints

_MOST_TOLD = 20


async def archive(
    *,
    tenant: TenantOption,
    up_to: Annotated[AtPlace, Parameter(help="Streams closed at or before this place: 741:9.")],
    limit: Annotated[Count, Parameter(help="How many streams at most.")] = 1000,
    as_json: AsJson = False,
) -> int:
    """Move closed streams to the object store; they are read from there as before.

    What a subscription, a projection or a running transaction still needs stays and is named; then
    the exit code is 1.

    Example: neolayer events archive --tenant acme --up-to 9120:1
    """
    segments = SegmentStore(endpoints(invocation().settings).objects)
    async with opened(tenant) as events:
        archiving = await Archive(events.scope, segments).archive_closed(up_to=up_to, limit=limit)
    if as_json:
        _write_archiving(archiving)
    else:
        for kept in archiving.kept[:_MOST_TOLD]:
            say(str(kept))
        if len(archiving.kept) > _MOST_TOLD:
            say(f"and {len(archiving.kept) - _MOST_TOLD} more stay; --json names them all")
        done = archiving.done
        count = sum(one.events for one in done)
        say(f"archived {counted(len(done), 'stream')}, {counted(count, 'event')}")
    return int(bool(archiving.kept))


def _write_archiving(archiving: Archiving) -> None:
    write_json(
        {
            "archived": [
                {"stream": d.stream_id, "events": d.events, "key": d.key} for d in archiving.done
            ],
            "kept": [
                {
                    "stream": kept.stream_id,
                    "reasons": [{"why": why, "who": who} for why, who in kept.reasons],
                }
                for kept in archiving.kept
            ],
        }
    )
