"""So many a minute under a key, over all processes: GCRA in one atomic call of Redis.

    taken = await rates.take("requests:…", per_minute=60)

Who was quiet may use a whole minute's at once; from then on one comes back every 60/per_minute
seconds. Where Redis does not answer, each process goes on with the same rule by itself: nothing
fails because of it, nothing is without a limit, and each process alone gives at most the limit.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from operator import itemgetter
from time import monotonic

from redis.asyncio import Redis
from redis.exceptions import RedisError

from neolayer.engines.redis.scripts import load_script
from neolayer.telemetry import log_warning

_SCRIPT = load_script(__name__, "take_requests.lua")
_MINUTE_US = 60_000_000
_REDIS_TIMEOUT_S = 0.25
_LEAVE_ALONE_S = 1.0  # after Redis did not answer
_MOST_KEPT = 50_000
_Answer = tuple[int, int, float, float]


@dataclass(frozen=True, slots=True)
class Taken:
    """Whether something may go on. `limit` None: no limit, and nothing else to tell."""

    allowed: bool
    limit: int | None = None
    remaining: int = 0
    retry_after: timedelta = timedelta()
    reset_after: timedelta = timedelta()


@dataclass(slots=True)
class Rates:
    """Takes from rates; one a process. `clock` is for the time without Redis."""

    redis: Redis
    clock: Callable[[], float] = monotonic
    _at_rest_us: dict[str, float] = field(default_factory=dict[str, float], init=False)
    _ask_again_at: float = field(default=-math.inf, init=False)

    async def take(self, key: str, *, per_minute: int, cost: int = 1) -> Taken:
        """Take `cost`, or say when that will be possible."""
        if per_minute < cost:
            return Taken(False, per_minute, retry_after=timedelta(minutes=1))
        interval = _MINUTE_US // per_minute or 1
        answer = await self._take_of_redis(key, interval, per_minute, cost)
        if answer is None:
            answer = self._take_here(key, interval, per_minute, cost)
        allowed, remaining, retry_us, reset_us = answer
        return Taken(
            bool(allowed),
            per_minute,
            remaining,
            timedelta(microseconds=retry_us),
            timedelta(microseconds=reset_us),
        )

    async def _take_of_redis(
        self, key: str, interval: int, burst: int, cost: int
    ) -> _Answer | None:
        """What the script answers; None where Redis is away."""
        if monotonic() < self._ask_again_at:
            return None
        try:
            async with asyncio.timeout(_REDIS_TIMEOUT_S):
                answer = await _SCRIPT.run(self.redis, [key], [interval, burst, cost])
        except (RedisError, TimeoutError, OSError) as exc:
            self._ask_again_at = monotonic() + _LEAVE_ALONE_S
            log_warning("requests are limited by each process alone", reason=type(exc).__name__)
            return None
        return tuple(answer)  # pyright: ignore[reportReturnType]

    def _take_here(self, key: str, interval: int, burst: int, cost: int) -> _Answer:
        """The script's rule, by this process alone."""
        now, whole = self.clock() * 1e6, interval * burst
        rest = min(max(self._at_rest_us.get(key, now), now), now + whole)
        after = rest + interval * cost
        if after > now + whole:
            return 0, int((now + whole - rest) // interval), after - whole - now, rest - now
        if key not in self._at_rest_us and len(self._at_rest_us) >= _MOST_KEPT:
            self._make_room()
        self._at_rest_us[key] = after
        return 1, int((now + whole - after) // interval), 0, after - now

    def _make_room(self) -> None:
        """Forget the tenth that is at rest soonest: who has used most is remembered longest, so a
        flood of new keys gives nobody back what they have used up."""
        kept = sorted(self._at_rest_us.items(), key=itemgetter(1))[_MOST_KEPT // 10 :]
        self._at_rest_us = dict(kept)
