"""Rates without Redis: each process goes on alone, and nothing gives back what was used up."""

from __future__ import annotations

import pytest
from redis.asyncio import Redis

from neolayer.tenancy import rates


async def test_E8_a_flood_of_new_keys_frees_no_old_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is bounded, and who has used all waits on, however many others come."""
    monkeypatch.setattr(rates, "_MOST_KEPT", 500)
    now = 1000.0
    alone = rates.Rates(Redis(port=1), clock=lambda: now)
    monkeypatch.setattr(rates.Rates, "_take_of_redis", _away)
    assert [(await alone.take("thief", per_minute=3)).allowed for _ in range(4)] == [
        True,
        True,
        True,
        False,
    ]
    for number in range(2000):
        assert (await alone.take(f"other {number}", per_minute=3)).allowed
    assert not (await alone.take("thief", per_minute=3)).allowed
    assert len(alone._at_rest_us) <= 500  # pyright: ignore[reportPrivateUsage]
    now += 20
    assert (await alone.take("thief", per_minute=3)).allowed


async def _away(*_: object) -> None:
    """Redis does not answer."""
