"""How many guesses an hour are left to whom."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from neolayer.errors import InvalidInput
from neolayer.identity.backoff import (
    LONGEST_WAIT,
    Counter,
    Kind,
    pause_after,
    source_of,
    sources_of,
)

START = datetime(2030, 1, 1, tzinfo=UTC)


def tries_within(kind: Kind, span: timedelta, scale: int = 1) -> int:
    """The failures of whoever tries again as soon as allowed."""
    failures, last, now, tries = 0, START, START, 0
    while True:
        counter = Counter(b"", kind, failures, last, now, scale)
        now += counter.wait
        if now >= START + span or counter.is_used_up:
            return tries
        failures = Counter(b"", kind, failures, last, now, scale).level + 1
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
    """An account: 100 in a row from anywhere unknown, then each source few. One source: 17 an hour
    at one name, 109 at all names together. A known device, or a stolen session: 20 for ever."""
    assert tries_within(kind, timedelta(hours=1)) == hour
    assert tries_within(kind, timedelta(days=1)) == day


@pytest.mark.parametrize("scale", [4, 64])
@pytest.mark.parametrize("kind", [Kind.PAIR, Kind.SOURCE])
def test_E8_a_site_guesses_as_much_as_some_lines(kind: Kind, scale: int) -> None:
    """However many lines it has: about the guesses of four, a provider's those of 64."""
    for span in (timedelta(hours=1), timedelta(days=1)):
        lines = scale * tries_within(kind, span)
        assert 0.9 * lines < tries_within(kind, span, scale) < 1.1 * lines


def test_E8_an_account_under_attack_gives_a_source_three_tries_a_day() -> None:
    """Twelve to a site, 192 to a provider, none more until a day after the last."""

    def has_tried(failures: int, ago: timedelta, scale: int = 1, kind: Kind = Kind.PAIR) -> bool:
        return Counter(b"", kind, failures, START, START + ago, scale).has_tried

    now, day = timedelta(), timedelta(days=1)
    assert [has_tried(n, now) for n in range(5)] == [False, False, False, True, True]
    assert [has_tried(n, now, 4) for n in (11, 12)] == [False, True]
    assert [has_tried(n, now, 64) for n in (191, 192)] == [False, True]
    assert has_tried(9, day - timedelta(seconds=1)) and not has_tried(9, day)
    assert not has_tried(1000, now, kind=Kind.SOURCE)
    attacked = [Counter(b"", kind, 100, START, START).is_under_attack for kind in Kind]
    assert dict(zip(Kind, attacked, strict=True)) == dict.fromkeys(Kind, False) | {
        Kind.ACCOUNT: True,
        Kind.NOBODY: True,
    }


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


def test_E8_lines_of_one_site_are_counted_together() -> None:
    """A line, its site and its provider count, the wider ones more generously; IPv4 by address."""
    one, other = sources_of("2001:db8:0:1::1"), sources_of("2001:db8:0:2::1")
    assert [source.scale for source in one] == [1, 4, 64]
    assert one[0] != other[0] and one[1:] == other[1:]
    assert sources_of("2001:db8:1::1")[1] != one[1] and sources_of("2001:db8:1::1")[2] == one[2]
    assert len({source.text for source in sources_of("::")}) == 3
    assert len(sources_of("192.0.2.1")) == 1
