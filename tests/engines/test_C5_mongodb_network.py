"""C5: a MongoDB that falls silent or is cut off: noticed, no other delayed, nothing lost."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path

import pytest
from tests.contract.test_relay_faults import until
from tests.engines.test_mongodb_flow import ROWS, SETTINGS, arrives, compared, layer, write
from tests.fixtures.fix_mongodb import forget_sockets
from tests.fixtures.patience import PATIENCE_S
from tests.fixtures.tcp_proxy import proxied

from neolayer.engines.endpoints import Endpoints, Role
from neolayer.engines.mongodb import client as mongodb_client_module
from neolayer.platform import data_classes
from neolayer.relay.run import run_sinks
from neolayer.relay.sinks.mongodb import MongoSink
from neolayer.relay.sinks.null import NullSink
from neolayer.relay.state import STATE_FILE, read_state

pytestmark = pytest.mark.engines
__all__ = ["layer"]


def said(folder: Path) -> str:
    """What the lane says of its last failure."""
    state = read_state(folder / STATE_FILE)
    return (state.lanes["mongodb"].error if state else None) or ""


async def test_C5_a_half_open_and_a_cut_mongodb(
    layer: Endpoints, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """While it says nothing another sink has everything; a connection that is cut anywhere loses
    and doubles nothing; in the end documents and rows agree."""
    monkeypatch.setattr(mongodb_client_module, "_ANSWER_MS", 1_000)
    monkeypatch.setattr(mongodb_client_module, "TIMEOUT_MS", 2_000)
    assert layer.mongodb is not None
    port = int(layer.mongodb.address.rsplit("/", 1)[0].rsplit(":", 1)[1])
    other, stop = NullSink(), asyncio.Event()
    with proxied(port) as proxy:
        url = layer.mongodb.url.replace(f":{port}", f":{proxy.port}")
        sink = MongoSink(dataclasses.replace(layer.mongodb, url=url), data_classes(), wait_s=0.02)
        dsn = layer.postgres.dsn(Role.RELAY)
        task = asyncio.create_task(run_sinks(dsn, [sink, other], SETTINGS, stop, folder=tmp_path))
        try:
            await arrives(layer, write(layer, *ROWS))
            proxy.hold()
            position = write(layer, "DELETE FROM core.tenant_data WHERE data->>'number' = '5'")
            await until(lambda: (other.position or 0) >= position.version)
            await until(lambda: "does not answer in time" in said(tmp_path))
            proxy.release()
            await arrives(layer, position)
            for chunks in range(4):
                proxy.cut_after(chunks)
                change = f"UPDATE core.tenant_data SET data = '{{\"number\": {chunks}}}'"
                position = write(layer, f"{change} WHERE data->>'number' = '{chunks + 10}'")
            await arrives(layer, position)
            reports = await compared(layer)
        finally:
            stop.set()
            await asyncio.wait_for(task, PATIENCE_S)
    await forget_sockets()
    assert {table: (one.total, one.agrees) for table, one in reports.items()} == dict.fromkeys(
        reports, (0, True)
    )
    assert reports["core.tenant_data"].rows == 299
