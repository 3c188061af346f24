"""How many guesses an hour are left to whom."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from neolayer.errors import InvalidInput
from neolayer.identity.backoff import LONGEST_WAIT, Counter, Kind, pause_after, source_of

START = datetime(2030, 1, 1, tzinfo=UTC)


def tries_within(kind: Kind, span: timedelta) -> int:
    """The failures of whoever tries again as soon as allowed."""
    failures, last, now, tries = 0, START, START, 0
    while True:
        counter = Counter(b"", kind, failures, last, now)
        now += counter.wait
        if now >= START + span or counter.is_used_up:
            return tries
        failures = Counter(b"", kind, failures, last, now).level + 1
        last, tries = now, tries + 1


@pytest.mark.parametrize(
    ("kind", "hour", "day"),
    [
        (Kind.PAIR, 17, 109),
        (Kind.SOURCE, 109, 1489),
        (Kind.ACCOUNT, 100, 100),
        (Kind.NOBODY, 100, 100),
        (Kind.DEVICE, 17, 20),
        (Kind.PROOF, 17, 20),
    ],
)
def test_E8_guesses_are_few(kind: Kind, hour: int, day: int) -> None:
    """An account: 100 in a row from anywhere unknown, for ever. One source: 17 an hour at one
    name, 109 at all names together. A known device, or a stolen session: 20 for ever."""
    assert tries_within(kind, timedelta(hours=1)) == hour
    assert tries_within(kind, timedelta(days=1)) == day


def test_E8_pauses_double_and_end() -> None:
    """No pause up to the fourth failure, then 1 s, 2 s, 4 s ... and never more than 15 minutes."""
    assert [pause_after(n).total_seconds() for n in range(9)] == [0, 0, 0, 0, 0, 1, 2, 4, 8]
    assert pause_after(10**9) == LONGEST_WAIT


def test_C9_a_clock_that_steps_back_does_not_open_a_source() -> None:
    """The time is the server's; should it step back, failures count as before."""
    counter = Counter(b"", Kind.SOURCE, 50, START, START - timedelta(hours=1))
    assert counter.level >= 50
    assert counter.wait > timedelta()


def test_E8_a_line_is_one_source() -> None:
    """An IPv6 line has 2^64 addresses to itself; an IPv4 address within IPv6 is that one."""
    assert source_of("2001:db8::1") == source_of("2001:db8::ffff:1") != source_of("2001:db8:1::1")
    assert source_of("::ffff:192.0.2.1") == source_of("192.0.2.1") == "192.0.2.1"
    assert source_of("fe80::1%eth0") == source_of("fe80::2")
    for none in ("", "nowhere", "1.2.3.4.5", "1.2.3.4\r\n"):
        with pytest.raises(InvalidInput):
            source_of(none)
