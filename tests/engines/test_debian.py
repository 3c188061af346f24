"""The same configuration on real servers: Debian's PostgreSQL 15 and Redis 7."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis
from tests.fixtures.fix_anvil import need
from tests.fixtures.fix_postgres import running_postgres, traversable_folder
from tests.fixtures.patience import PATIENCE_S

from neolayer.engines.embedded.ports import free_port
from neolayer.engines.endpoints import PostgresEndpoint, Role

pytestmark = pytest.mark.engines
_POSTGRES_15 = Path("/usr/lib/postgresql/15/bin")


@contextmanager
def debian_redis(folder: Path) -> Iterator[str]:
    """redis-server on a free port; its URL."""
    program = need(Path(shutil.which("redis-server") or "/usr/bin/redis-server"))
    port = free_port()
    argv = (program, "--bind", "127.0.0.1", "--port", str(port), "--requirepass", "p4ss")
    server = subprocess.Popen((*argv, "--dir", str(folder)), stdout=subprocess.DEVNULL)
    url = f"redis://:p4ss@127.0.0.1:{port}/0"
    try:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            client = redis.Redis.from_url(url, retry=None)
            try:
                client.ping()
                break
            except redis.RedisError:
                assert time.monotonic() < deadline, "redis-server did not start"
                time.sleep(0.05)
            finally:
                client.close()
        yield url
    finally:
        server.terminate()
        server.wait(timeout=PATIENCE_S)


@pytest.fixture
def servers() -> Iterator[tuple[Path, PostgresEndpoint, str]]:
    need(_POSTGRES_15 / "postgres")
    with (
        traversable_folder() as folder,
        running_postgres(folder, bin_dir=_POSTGRES_15) as cluster,
        debian_redis(folder) as redis_url,
    ):
        yield folder, cluster, redis_url


def test_the_main_job_on_postgresql_15_and_redis(
    servers: tuple[Path, PostgresEndpoint, str],
) -> None:
    """The demonstration agrees on real servers, and `status` calls them real."""
    folder, cluster, redis_url = servers
    environment = {
        **os.environ,
        "NEOLAYER_POSTGRES__DSN": cluster.dsn(Role.ADMIN, "postgres"),
        "NEOLAYER_REDIS__DSN": redis_url,
    }

    def neolayer(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = (sys.executable, "-m", "neolayer", *arguments, "--data-dir", str(folder / "l"))
        return subprocess.run(
            command,
            env=environment,
            capture_output=True,
            text=True,
            timeout=180,
            cwd=folder,
            check=False,
        )

    up = neolayer("up", "--detach")
    assert up.returncode == 0, up.stderr
    try:
        shown = neolayer("demo", "--json")
        assert shown.returncode == 0, shown.stderr
        assert json.loads(shown.stdout)["agrees"] is True
        status = json.loads(neolayer("status", "--json").stdout)
        engines = {engine["name"]: engine for engine in status["engines"]}
        assert engines["postgres"]["level"] == "real"
        assert engines["postgres"]["version"].startswith("15.")
        assert engines["redis"]["level"] == "real"
        assert engines["clickhouse"]["level"] == "embedded"
        assert "p4ss" not in json.dumps(status)
    finally:
        assert neolayer("down").returncode == 0
