"""The verbs over a tenant's webhooks, and the outbox beside a change."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from uuid import uuid4

import psycopg
import pytest
from tests.fixtures.fix_tenancy import NewTenant

from neolayer.engines.endpoints import Endpoints, Role
from neolayer.errors import InvalidInput
from neolayer.keys import Keyring
from neolayer.outbox import Announcement, announce
from neolayer.outbox.tasks import OutboxSweeper
from neolayer.schema.lines import Line
from neolayer.schema.runner import migrate_down, migrate_up
from neolayer.tenancy import CoreDatabase, Principal, Scope, TenantLimitExceeded, Tenants
from neolayer.webhooks import WebhookNotFound, Webhooks
from neolayer.webhooks.model import TooManyWaiting, WebhookExists
from neolayer.webhooks.signing import TooManySecrets

URL = "https://acme.example/hooks"


async def announced(scope: Scope) -> int:
    row = await scope.one("SELECT count(*) FROM core.outbox")
    assert row is not None
    return int(row[0])


async def test_an_announcement_is_stored_if_and_only_if_the_change_is(
    new_tenant: NewTenant,
) -> None:
    """Rolled back with it, committed with it, and seen by its own tenant alone."""
    acme, other = await new_tenant(), await new_tenant()
    told = Announcement("wallets", key=uuid4(), type="wallet.created", data={"name": "x"})
    with pytest.raises(RuntimeError):
        async with acme.transaction() as tx:
            announce(tx, told)
            raise RuntimeError
    assert await announced(acme) == 0
    async with acme.transaction() as tx:
        announce(tx, told)
    assert (await announced(acme), await announced(other)) == (1, 0)
    with pytest.raises(psycopg.errors.UniqueViolation):
        async with acme.transaction() as tx:
            announce(tx, told)


async def test_webhooks_end_at_the_tiers_limit(new_tenant: NewTenant, keyring: Keyring) -> None:
    """By the verb and by a member's SQL, also at once; one that is deleted makes room."""
    acme = await new_tenant(tier="free")
    webhooks = Webhooks(acme, keyring)
    first = await webhooks.create("first", URL, ["*"])
    add = (
        "INSERT INTO core.webhooks (tenant_id, name, url, event_types)"
        " SELECT core.current_tenant(), %s || n, 'https://x.example', '{*}'"
        " FROM generate_series(1, %s) AS n RETURNING 1"
    )
    with pytest.raises(TenantLimitExceeded, match="may have 3 webhooks and no more"):
        await acme.fetch(add, ("many", 3))
    at_once = (acme.fetch(add, (f"one-{place}-", 1)) for place in range(5))
    results = await asyncio.gather(*at_once, return_exceptions=True)
    assert sum(isinstance(one, TenantLimitExceeded) for one in results) == 3
    with pytest.raises(TenantLimitExceeded):
        await webhooks.create("second", URL, ["*"])
    await webhooks.delete(first.id)
    await webhooks.create("second", URL, ["*"])


async def test_announcements_end_at_the_tiers_limit_until_they_are_swept(
    new_tenant: NewTenant, core: CoreDatabase, layer_databases: Endpoints
) -> None:
    """What would be one too many is stored neither by SQL nor with the change it stands beside; the
    error says the way out, and what is swept makes room. Other tenants are not concerned."""
    acme, other = await new_tenant(tier="free"), await new_tenant(tier="free")
    assert acme.tenant is not None
    tenants = Tenants(core.platform(by=Principal.operator("tests")))
    await tenants.set_limits(acme.tenant, {"announcements": 500})
    add = (
        "INSERT INTO core.outbox (tenant_id, subject, key, event_type, event_data)"
        " SELECT core.current_tenant(), 's', 'k', 't', '{}' FROM generate_series(1, %s) RETURNING 1"
    )
    await acme.fetch(add, (499,))
    with pytest.raises(TenantLimitExceeded, match="may have 500 announcements") as refused:
        await acme.fetch(add, (2,))
    assert "go after 3 days" in str(refused.value.hint)
    assert "neolayer tenants limits TENANT announcements=NUMBER" in str(refused.value.hint)
    told = Announcement("wallets", key="k", type="t", data={})
    async with acme.transaction() as tx:
        announce(tx, told)
    with pytest.raises(TenantLimitExceeded):
        async with acme.transaction() as tx:
            announce(tx, replace(told, event_id=uuid4()))
    assert await announced(acme) == 500
    assert len(await other.fetch(add, (501,))) == 501
    assert await OutboxSweeper(layer_databases, timedelta(0)).sweep() >= 1001
    assert len(await acme.fetch(add, (500,))) == 500


async def test_E1_a_member_makes_no_deliveries_past_the_limits(
    new_tenant: NewTenant, keyring: Keyring
) -> None:
    """By SQL: what waits is bounded and small, what is told again is what it was, and no webhook
    has secrets without end. The verbs say so in their own words."""
    acme = await new_tenant()
    webhooks = Webhooks(acme, keyring)
    made = await webhooks.create("first", URL, ["*"])
    add = (
        "INSERT INTO core.webhook_deliveries"
        " (tenant_id, webhook_id, event_id, event_type, version, envelope)"
        " SELECT core.current_tenant(), %s, gen_random_uuid(), 't', 0, repeat('x', %s)"
        " FROM generate_series(1, %s) RETURNING 1"
    )
    with pytest.raises(InvalidInput, match=r"envelope of core\.webhook_deliveries is too large"):
        await acme.fetch(add, (made.id, 10_000, 1))
    with pytest.raises(psycopg.errors.CheckViolation):
        await acme.fetch(add, (made.id, 1, 1001))
    assert len(await acme.fetch(add, (made.id, 1, 1000))) == 1000
    with pytest.raises(TooManyWaiting):
        await webhooks.send_trial(made.id)
    for change in ("status = 'delivered'", "envelope = 'y'", "version = 7"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            await acme.fetch(f"UPDATE core.webhook_deliveries SET {change} RETURNING 1")
    secret = (
        "INSERT INTO core.webhook_secrets (tenant_id, webhook_id, sealed_secret, key_id)"
        " SELECT core.current_tenant(), %s, 's', 'k' FROM generate_series(1, 4) RETURNING 1"
    )
    at_once = (acme.fetch(secret, (made.id,)) for _ in range(3))
    results = await asyncio.gather(*at_once, return_exceptions=True)
    assert sum(isinstance(one, psycopg.errors.CheckViolation) for one in results) == 2
    assert len(await acme.fetch(secret.replace("1, 4", "1, 3"), (made.id,))) == 3
    with pytest.raises(TooManySecrets):
        await webhooks.rotate(made.id)


async def test_what_was_there_before_the_limits_is_counted_and_stays(
    new_tenant: NewTenant, layer_databases: Endpoints
) -> None:
    """An upgrade refuses no tenant that has more than its limit; it has no room, that is all."""
    acme, other = await new_tenant(tier="free"), await new_tenant(tier="free")
    await migrate_down(layer_databases, to="0082", lines=[Line.CORE])
    add = (
        "INSERT INTO core.webhooks (tenant_id, name, url, event_types)"
        " SELECT core.current_tenant(), n, 'https://x.example', '{*}'"
        " FROM generate_series(1, %s) AS n RETURNING 1"
    )
    await acme.fetch(add, (5,))
    await migrate_up(layer_databases, lines=[Line.CORE])
    with pytest.raises(TenantLimitExceeded):
        await acme.fetch(add.replace(", n,", ", 'x' || n,"), (1,))
    assert len(await acme.fetch("DELETE FROM core.webhooks RETURNING 1")) == 5
    assert len(await acme.fetch(add, (3,))) == len(await other.fetch(add, (3,))) == 3


async def test_old_announcements_go(new_tenant: NewTenant, layer_databases: Endpoints) -> None:
    """After their time; what is younger stays, and nobody changes what was announced."""
    acme = await new_tenant()
    for _ in range(3):
        async with acme.transaction() as tx:
            announce(tx, Announcement("wallets", key="k", type="t", data={}))
    assert await OutboxSweeper(layer_databases).sweep() == 0
    assert await OutboxSweeper(layer_databases, timedelta(0)).sweep() == 3
    with (
        psycopg.connect(layer_databases.postgres.dsn(Role.ADMIN)) as admin,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        admin.execute("UPDATE core.outbox SET key = 'x'")


async def test_a_webhook_from_its_making_to_its_end(
    new_tenant: NewTenant, keyring: Keyring
) -> None:
    """Made, listed, changed, disabled, enabled, deleted; its secret is shown once, kept sealed."""
    acme = await new_tenant()
    webhooks = Webhooks(acme, keyring)
    made = await webhooks.create("billing", URL, ["wallet.*", "wallet.*", "user.created"])
    assert made.secret.startswith("whsec_") and made.secret not in repr(made)
    found = await webhooks.get("billing")
    assert (found.url, found.event_types) == (URL, ("wallet.*", "user.created"))
    with pytest.raises(WebhookExists):
        await webhooks.create("billing", URL, ["*"])
    await webhooks.change(made.id, event_types=["*"])
    await webhooks.disable(made.id)
    assert [(w.status, w.event_types) for w in await webhooks.list()] == [("disabled", ("*",))]
    await webhooks.enable(made.id)
    assert (await webhooks.get("billing")).status == "active"
    stored = await acme.one("SELECT sealed_secret FROM core.webhook_secrets")
    assert stored is not None and made.secret.removeprefix("whsec_") not in stored[0]
    await webhooks.delete(made.id)
    assert await webhooks.list() == []
    audited = await acme.fetch(
        "SELECT action FROM audit.entries WHERE resource = 'webhook' ORDER BY occurred_at"
    )
    assert [row[0] for row in audited] == ["CREATE", "UPDATE", "UPDATE", "UPDATE", "DELETE"]


async def test_E1_another_tenants_webhook_is_not_there(
    new_tenant: NewTenant, keyring: Keyring
) -> None:
    """Every verb answers a foreign id as it answers one that nobody has."""
    acme, other = await new_tenant(), await new_tenant()
    made = await Webhooks(acme, keyring).create("billing", URL, ["*"])
    foreign = Webhooks(other, keyring)
    for verb in (
        foreign.disable(made.id),
        foreign.enable(made.id),
        foreign.delete(made.id),
        foreign.rotate(made.id),
        foreign.change(made.id, url=URL),
        foreign.send_trial(made.id),
        foreign.get("billing"),
    ):
        with pytest.raises(WebhookNotFound):
            await verb
    assert await foreign.list() == []
    assert await foreign.deliveries(made.id) == []
    assert await foreign.replay(made.id) == 0
