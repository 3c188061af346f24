"""Whose dead letters keep their place where there is no more room: counting only, for a whole batch
at once, so that a flood of poison rows is not a flood of questions to the database.

Whoever has the most gives way, if that leaves them no fewer than the one has who needs the room.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from heapq import heapify, heappop, heappush

Tenant = str | None
_Rank = tuple[int, bool, str]


class Shares:
    """How many letters each tenant has, of so many in all.

    `evicted` says how many of whose go, the newest first; `missing`, for how many there was no
    room: those and the ones that were not let in.
    """

    def __init__(self, room: int, held: Mapping[Tenant, int]) -> None:
        self._free = room - sum(held.values())
        self._held = Counter(held)
        self._ranks = [_rank(tenant, letters) for tenant, letters in held.items()]
        heapify(self._ranks)
        self.evicted = Counter[Tenant]()
        self.missing = 0

    def let_in(self, tenant: Tenant) -> bool:
        """Whether one more letter of theirs is kept."""
        if self._free > 0:
            self._free -= 1
            self._change(tenant, 1)
            return True
        self.missing += 1
        most = self._most()
        if self._held[most] <= self._held[tenant] + 1:
            return False
        self.evicted[most] += 1
        self._change(most, -1)
        self._change(tenant, 1)
        return True

    def _change(self, tenant: Tenant, by: int) -> None:
        self._held[tenant] += by
        heappush(self._ranks, _rank(tenant, self._held[tenant]))

    def _most(self) -> Tenant:
        """Who has the most; what the heap says of earlier numbers is forgotten on the way."""
        while self._ranks:
            less, is_nobody, name = self._ranks[0]
            tenant = None if is_nobody else name
            if self._held[tenant] == -less:
                return tenant
            heappop(self._ranks)
        return None


def _rank(tenant: Tenant, letters: int) -> _Rank:
    return -letters, tenant is None, tenant or ""
