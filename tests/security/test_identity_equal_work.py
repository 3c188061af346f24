"""E3: what a stranger asks is the same work whether or not there is the tenant or the person.

Time is noisy (see test_identity_timing); what takes it is not: round trips, transactions, the
statements in them and hashes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import pytest

from neolayer.engines.postgres.round_trip import RoundTripConnection
from neolayer.identity import PasswordHasher
from tests.fixtures.fix_api import PASSWORD, Api

Ask = Callable[[Api, str, str], Awaitable[int]]


@dataclass
class Work:
    """The statements of each round trip, by how they begin, and the hashes."""

    trips: list[tuple[str, ...]] = field(default_factory=list[tuple[str, ...]])
    hashes: int = 0


@contextmanager
def counting(monkeypatch: pytest.MonkeyPatch) -> Iterator[Work]:
    work = Work()
    sending, verifying = RoundTripConnection.round_trip, PasswordHasher.verify

    async def round_trip(
        connection: RoundTripConnection, statements: Sequence[tuple[Any, Any]]
    ) -> Any:
        words = (str(query).split() for query, _ in statements)
        work.trips.append(tuple(found[0] for found in words))
        return await sending(connection, statements)

    async def verify(hasher: PasswordHasher, *args: Any, **options: Any) -> Any:
        work.hashes += 1
        return await verifying(hasher, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(RoundTripConnection, "round_trip", round_trip)
        patch.setattr(PasswordHasher, "verify", verify)
        yield work


async def log_in(api: Api, tenant: str, name: str) -> int:
    body = {"tenant": tenant, "name": name, "password": "not the password"}
    return (await api.client.post("/v1/sessions", json=body)).status_code


async def reset(api: Api, tenant: str, name: str) -> int:
    body = {"tenant": tenant, "email": f"{name}@example.com"}
    return (await api.client.post("/v1/password-resets", json=body)).status_code


async def redeem(api: Api, tenant: str, name: str) -> int:
    body = {"tenant": tenant, "token": "x" * 43, "password": PASSWORD}
    return (await api.client.post("/v1/password-resets/redeem", json=body)).status_code


async def verify_email(api: Api, tenant: str, name: str) -> int:
    body = {"tenant": tenant, "token": "x" * 43}
    return (await api.client.post("/v1/email-verifications/redeem", json=body)).status_code


@pytest.mark.parametrize("ask", [log_in, reset, redeem, verify_email])
async def test_E3_absent_and_wrong_are_the_same_work(
    api: Api, monkeypatch: pytest.MonkeyPatch, ask: Ask
) -> None:
    """By identifier and by id, and for names that no tenant can bear; also where the source has to
    wait. A person who is there costs the same as well."""
    acme = await api.tenant()
    for name in ("ann", "bob"):
        await api.person(acme, name, "member")
    assert acme.scope.tenant is not None
    await ask(api, "absent-too", "ann")
    here = (await acme.tenants.get(acme.scope.tenant)).identifier
    tries = [
        (here, "ann"),
        (here, "nobody"),
        (str(acme.scope.tenant), "bob"),
        ("absent", "ann"),
        (str(uuid4()), "ann"),
        ("Not An Identifier!", "ann"),
    ]
    for _ in range(7):  # the first five are free; then the pair of name and source has to wait
        done: list[tuple[int, Work]] = []
        for tenant, name in tries:
            with counting(monkeypatch) as work:
                done.append((await ask(api, tenant, name), work))
        assert [one == done[0] for one in done] == [True] * len(tries), done
