"""The alarm rings before the server gives up a slot, not after."""

from __future__ import annotations

import pytest

from neolayer.relay.status import ReaderStatus

GB = 1 << 30


def reader(held: int | None, limit: int | None, state: str = "extended") -> ReaderStatus:
    return ReaderStatus(
        "neolayer", "neolayer_relay", True, False, state, None, None, 0, held, limit, 0, None
    )


@pytest.mark.parametrize(
    ("held", "limit", "state", "alarm"),
    [
        (4 * GB - 1, 8 * GB, "reserved", None),
        (4 * GB, 8 * GB, "extended", "holds back 4096 MB of commit log and is given up at 8192 MB"),
        (100 * GB, None, "extended", None),  # without a limit: `doctor` asks for one
        (None, 8 * GB, "lost", "every copy of neolayer starts over"),
        (None, None, "reserved", None),
    ],
)
def test_the_alarm_rings_at_half_of_what_is_kept(
    held: int | None, limit: int | None, state: str, alarm: str | None
) -> None:
    """A slot past half of max_slot_wal_keep_size, or already given up, is told."""
    said = reader(held, limit, state).alarm
    assert (said is None) if alarm is None else (alarm in (said or ""))
