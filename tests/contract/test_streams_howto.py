"""The how-to's Python runs as it is printed, from the change to the receiver."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from tests.fixtures.batches import CLASSES, at, event_row, events
from tests.fixtures.fix_tenancy import NewTenant
from tests.fixtures.fix_webhooks import POLICY, Receiver

from neolayer.engines.endpoints import Endpoints, Role
from neolayer.keys import Keyring
from neolayer.relay.sinks.webhooks import WebhookSink
from neolayer.tenancy import Scope
from neolayer.webhooks import BadSignature, Webhooks
from neolayer.webhooks.deliverer import Deliverer

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "outgoing-streams.md"


@dataclass
class View:
    scope: Scope


async def test_the_code_of_the_how_to_runs(
    layer_databases: Endpoints, new_tenant: NewTenant, keyring: Keyring, receiver: Receiver
) -> None:
    """Announce beside a change; what arrives is proved, and taken once."""
    names: dict[str, Any] = {}
    for code in re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL):
        exec(code, names)
    acme = await new_tenant()
    made = await Webhooks(acme, keyring).create("billing", receiver.url, ["wallet.*"])
    await names["rename_wallet"](View(acme), uuid4(), "Treasury")
    with psycopg.connect(layer_databases.postgres.dsn(Role.ADMIN)) as admin:
        row = admin.execute(
            "SELECT event_id::text, key, event_type, event_data::text FROM core.outbox"
        ).fetchone()
    assert row is not None
    event_id, key, kind, data = row
    sink = WebhookSink(layer_databases, CLASSES, Deliverer(layer_databases, keyring, POLICY))
    await sink.open(at(1))
    told = event_row(acme.tenant, key, event_id=event_id, event_type=kind, data=data)
    await sink.write([events(at(2), told)])
    await receiver.until(1)
    await sink.close()
    (delivery,) = receiver.told
    assert delivery.envelope["data"] == {"name": "Treasury"}
    assert names["receive"](delivery.headers, delivery.body, [made.secret]) is True
    assert names["receive"](delivery.headers, delivery.body, [made.secret]) is False
    with pytest.raises(BadSignature):
        names["receive"](delivery.headers, delivery.body + b" ", [made.secret])
