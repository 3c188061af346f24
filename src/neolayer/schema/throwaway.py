"""Servers in a temporary folder, for work that needs a database and must leave nothing behind."""

from __future__ import annotations

import secrets
import shutil
import tempfile
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from neolayer.engines.clickhouse.engine import ClickHouseEngine
from neolayer.engines.embedded.answers import engine_answers
from neolayer.engines.embedded.clickhouse import EmbeddedClickHouse
from neolayer.engines.embedded.placement import reachable_programs
from neolayer.engines.embedded.ports import free_ports
from neolayer.engines.embedded.postgres import STOP_SIGNAL, EmbeddedPostgres, wheel_bin_dir
from neolayer.engines.embedded.privileges import account_for
from neolayer.engines.embedded.services import ChildProcess, Service
from neolayer.engines.endpoints import (
    ClickHouseEndpoint,
    Endpoints,
    ObjectsEndpoint,
    PostgresEndpoint,
    RedisEndpoint,
    Role,
)
from neolayer.engines.engine import Level
from neolayer.engines.postgres.engine import PostgresEngine

_NOWHERE = "127.0.0.1:1"
_NO_CLICKHOUSE = ClickHouseEndpoint(Level.EMBEDDED, "127.0.0.1", 1, "nobody", "")


@asynccontextmanager
async def throwaway_servers(*, with_clickhouse: bool = True) -> AsyncGenerator[Endpoints]:
    """PostgreSQL and ClickHouse, empty; stopped and removed at the end. Raises EngineError."""
    folder = _folder()
    ports = free_ports(2)
    try:
        async with AsyncExitStack() as running:
            postgres = await _postgres(running, folder, ports[0])
            clickhouse = _NO_CLICKHOUSE
            if with_clickhouse:
                clickhouse = await _clickhouse(running, folder, ports[1])
            yield Endpoints(
                postgres=postgres,
                event_store=postgres,
                timeseries=postgres,
                redis=RedisEndpoint(Level.EMBEDDED, f"redis://{_NOWHERE}/0", _NOWHERE),
                clickhouse=clickhouse,
                objects=ObjectsEndpoint(Level.EMBEDDED, folder.as_uri(), folder),
            )
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="neolayer-"))
    folder.chmod(0o755)  # PostgreSQL may run under another account
    return folder


async def _postgres(running: AsyncExitStack, folder: Path, port: int) -> PostgresEndpoint:
    account = account_for(None)
    cluster = EmbeddedPostgres(
        folder / "postgres",
        password=secrets.token_urlsafe(18),
        bin_dir=reachable_programs(wheel_bin_dir(), folder, account),
    )
    passwords = {role: secrets.token_urlsafe(18) for role in Role if role is not Role.ADMIN}
    endpoint = cluster.endpoint(port, passwords=passwords)
    service = Service(
        name="postgres",
        argv=tuple(cluster.argv(port, fsync="off")),
        ready=engine_answers(lambda: PostgresEngine(endpoint)),
        prepare=cluster.initialise,
        user=account,
        cwd=folder,
        stop_signal=STOP_SIGNAL,
    )
    await _run(running, service, folder)
    return endpoint


async def _clickhouse(running: AsyncExitStack, folder: Path, port: int) -> ClickHouseEndpoint:
    owner = EmbeddedClickHouse(
        folder / "clickhouse",
        password=secrets.token_urlsafe(18),
        reader_password=secrets.token_urlsafe(18),
    )
    endpoint = owner.endpoint(port)
    service = Service(
        name="clickhouse",
        argv=tuple(owner.argv(port)),
        ready=engine_answers(lambda: ClickHouseEngine(endpoint)),
        prepare=owner.initialise,
    )
    await _run(running, service, folder)
    return endpoint


async def _run(running: AsyncExitStack, service: Service, folder: Path) -> None:
    child = ChildProcess(service, folder / f"{service.name}.log")
    running.push_async_callback(child.stop)
    await child.start({})
    await child.await_ready()
