"""The alarm rings before the server gives up a slot and before the disk is full, not after."""

from __future__ import annotations

from dataclasses import replace

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


@pytest.mark.parametrize(
    ("held", "for_copies", "free", "alarms"),
    [
        (1 * GB, 8 * GB, 7 * GB, False),
        (1 * GB, 8 * GB, 7 * GB - 1, True),
        (1 * GB, 0, 0, False),  # nothing is copied
        (1 * GB, 8 * GB, None, False),  # the relay does not say
    ],
)
def test_C12_the_alarm_rings_where_the_disk_has_less_than_a_copy_may_hold_back(
    held: int, for_copies: int, free: int | None, alarms: bool
) -> None:
    """What the log may come to hold while a sink copies, against what its disk has left."""
    one = replace(reader(0, None), log_bytes=held, copy_bytes=for_copies, free_bytes=free)
    assert ("a copy may hold back 8192 MB" in (one.alarm or "")) is alarms
