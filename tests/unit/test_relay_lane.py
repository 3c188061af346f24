"""What a lane does with one sink, without a server."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from structlog.testing import capture_logs

from neolayer.relay.lane import Lane
from neolayer.relay.segments import SegmentLog
from neolayer.relay.sinks.null import NullSink
from neolayer.relay.sinks.sink import Rejected
from neolayer.relay.status import LaneState


async def test_A6_a_refused_row_leaves_no_value_in_the_logs(tmp_path: Path) -> None:
    """A store quotes what it refuses; the letter is masked, the log names table and sink only."""
    parked: list[Rejected] = []

    async def park(rejected: Sequence[Rejected]) -> None:
        parked.extend(rejected)

    log = await SegmentLog.open(tmp_path, bound=1 << 20)
    lane = Lane(NullSink(), log, rows=10, state=LaneState(), park=park)
    poison = Rejected(
        "auth.users",
        ("1",),
        7,
        False,
        "cannot parse 'ann@example.com'",
        {"email": "ann@example.com"},
    )
    with capture_logs() as said:
        await lane._park([poison])
    assert parked == [poison]
    (entry,) = said
    assert (entry["table"], entry["sink"]) == ("auth.users", "null")
    assert "ann" not in str(said)
