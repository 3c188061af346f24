"""What waits for a person is told by `status`: letters, parked events, read models that stand."""

from __future__ import annotations

from uuid import uuid4

import psycopg
from tests.fixtures.fix_tenancy import NewTenant

from neolayer.engines.endpoints import Database, Endpoints, Role
from neolayer.insight.health import examine
from neolayer.insight.waiting import what_waits
from neolayer.relay.operations.desk import desk_of
from neolayer.relay.sinks.sink import Rejected


async def test_what_needs_a_person_is_told(
    module_databases: Endpoints, new_tenant: NewTenant
) -> None:
    """Nothing at first; then each kind with its count and the command that shows it, and what a
    tenant's own program must do beside it, which is no alarm of the operator's."""
    before = await what_waits(module_databases)
    assert (before.alarms(log_bytes=1 << 20), before.notes()) == ([], [])
    tenant = (await new_tenant()).tenant
    async with desk_of(module_databases, Role.RELAY) as desk:
        refused = Rejected("blockchain.blocks", ("1",), 7, False, "too large", {"id": "1"})
        await desk.park("clickhouse", "neolayer", [refused])
    async with desk_of(module_databases, Role.OPERATOR) as desk:
        await desk.pause("redis")
    dsn = module_databases.event_store.dsn(Role.ADMIN, Database.EVENT_STORE)
    with psycopg.connect(dsn) as admin:
        admin.execute(
            "INSERT INTO subscriptions (tenant_id, subscription, partitions)"
            " VALUES (%s, 'feed', 1)",
            (tenant,),
        )
        stream = uuid4()
        for version, cause in ((1, "no such account"), (2, None), (3, None)):
            admin.execute(
                "INSERT INTO parked_events VALUES (%s, 'feed', %s, %s, %s, 1)",
                (tenant, stream, version, cause),
            )
        for name, status in (("balances", "active"), ("totals", "failed"), ("names", "active")):
            admin.execute(
                "INSERT INTO projections (projection_name, status) VALUES (%s, %s)", (name, status)
            )
        for discarded in ("now()", "NULL"):
            admin.execute(
                "INSERT INTO projection_parked_events (tenant_id, projection_name, aggregate_id,"
                " event_version, event_id, cause, discarded_at)"
                f" VALUES (%s, 'balances', %s, 1, %s, 'no', {discarded})",
                (tenant, uuid4(), uuid4()),
            )
    health = await examine(module_databases, [])
    assert health.waiting is not None
    told = health.waiting.alarms(log_bytes=64 << 20)
    assert [line.partition(":")[0] for line in told] == [
        "clickhouse refused 1 change",
        told[1].partition(":")[0],
        "Read model balances stands still in 1 stream",
        "Read model totals stands still",
    ]
    assert told[1].startswith("redis is paused since") and "64 MB" in told[1]
    assert "neolayer relay letters clickhouse" in told[0]
    assert health.waiting.notes() == [
        f"subscription feed of tenant {tenant}: 1 parked, 2 waiting behind them:"
        f" neolayer events parked feed --tenant {tenant}"
    ]
