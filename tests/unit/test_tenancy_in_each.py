"""Work over all tenants: what one makes of it is no other's."""

from __future__ import annotations

from uuid import UUID

import pytest

from neolayer.errors import EngineUnavailable
from neolayer.tenancy.in_each import in_each

TENANTS = [UUID(int=number) for number in range(1, 5)]


async def test_E1_what_one_tenants_rows_raise_stops_no_other() -> None:
    """The others are done, and the error is told at the end."""
    done: list[UUID] = []

    async def work(tenant: UUID) -> int:
        if tenant == TENANTS[0]:
            raise ValueError("a year before Christ")
        done.append(tenant)
        return 2

    assert await in_each(TENANTS[1:], work) == 6
    with pytest.raises(ValueError, match="before Christ"):
        await in_each(TENANTS, work)
    assert done == TENANTS[1:] * 2


async def test_a_server_that_is_away_is_not_asked_for_each_tenant() -> None:
    """It would be away for all of them."""
    asked: list[UUID] = []

    async def work(tenant: UUID) -> int:
        asked.append(tenant)
        raise EngineUnavailable("postgres", "is away")

    with pytest.raises(EngineUnavailable):
        await in_each(TENANTS, work)
    assert asked == TENANTS[:1]
