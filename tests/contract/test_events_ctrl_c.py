"""`neolayer events subscribe` as it is used: live, until Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
from tests.fixtures.fix_events import NewEvents
from tests.fixtures.patience import PATIENCE_S

from neolayer.engines.endpoints import Endpoints, Role
from neolayer.events import NewEvent

PROCESS = Path(__file__).with_name("events_cli_process.py")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_live_subscription_ends_with_ctrl_c(
    new_events: NewEvents, module_databases: Endpoints, number: signal.Signals
) -> None:
    """It writes what is there and what comes, ends by the signal with code 0, and has kept its
    place: the next one is given only what came after. What it held is free at once."""
    tenant, stream = uuid4(), uuid4()
    with psycopg.connect(module_databases.postgres.dsn(Role.ADMIN), autocommit=True) as admin:
        admin.execute("SET session_replication_role = replica")
        admin.execute(
            "INSERT INTO core.tenants (id, name, identifier, subscription_tier)"
            " VALUES (%s, 'Acme', %s, 'pro')",
            (tenant, f"acme-{tenant.hex}"),
        )
    events = new_events(tenant)
    cluster = module_databases.event_store
    passwords = {str(role): word for role, word in cluster.passwords.items()}
    at = json.dumps({"dsn": cluster.admin_dsn, "passwords": passwords})
    argv = [sys.executable, "-W", "ignore", str(PROCESS), at, "subscribe", "feed"]
    argv += ["--tenant", str(tenant)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}

    async def put(amount: int) -> None:
        await events.append(stream, [NewEvent("Deposited", {"amount": amount})], category="account")

    await put(1)
    process = subprocess.Popen(argv, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["version"] == 1
        await put(2)
        assert json.loads(process.stdout.readline())["version"] == 2
        process.send_signal(number)
        rest, _ = process.communicate(timeout=PATIENCE_S)
        assert (process.returncode, rest) == (0, "")
    finally:
        process.kill()
        process.wait()
    (standing,) = await events.subscriptions.list()
    assert standing.consumers == ()
    await put(3)
    once = subprocess.run(
        [*argv, "--once"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE_S,
    )
    assert [json.loads(line)["version"] for line in once.stdout.splitlines()] == [3]
