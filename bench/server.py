"""A PostgreSQL for one run of the benches: embedded, with the layer's own settings, then gone."""

from __future__ import annotations

import contextlib
import secrets
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg import sql

from neolayer.engines.embedded.placement import reachable_programs
from neolayer.engines.embedded.ports import free_port
from neolayer.engines.embedded.postgres import (
    STOP_SIGNAL,
    EmbeddedPostgres,
    server_environment,
    wheel_bin_dir,
)
from neolayer.engines.embedded.privileges import account_for, spawn_options
from neolayer.engines.endpoints import PostgresEndpoint, Role


@contextlib.contextmanager
def open_folder() -> Iterator[Path]:
    """A fresh folder that an unprivileged server can reach."""
    path = Path(tempfile.mkdtemp(prefix="neolayer-bench-"))
    path.chmod(0o755)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def postgres(folder: Path) -> Iterator[PostgresEndpoint]:
    """A running server with the settings `neolayer up` gives it, fsync included."""
    programs = reachable_programs(wheel_bin_dir(), folder / "programs", account_for(None))
    cluster = EmbeddedPostgres(folder / "postgres", secrets.token_urlsafe(18), bin_dir=programs)
    cluster.initialise()
    port = free_port()
    log = folder / "postgres.log"
    with log.open("wb") as output:
        server = subprocess.Popen(
            cluster.argv(port),
            stdout=output,
            stderr=output,
            cwd=cluster.directory,
            env=server_environment(),
            **spawn_options(cluster.account),
        )
    try:
        _await(server, cluster.admin_dsn(port), log)
        passwords = {role: secrets.token_urlsafe(18) for role in Role if role is not Role.ADMIN}
        yield cluster.endpoint(port, passwords=passwords)
    finally:
        server.send_signal(STOP_SIGNAL)
        server.wait(timeout=60)


def _await(server: subprocess.Popen[bytes], dsn: str, log: Path) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            psycopg.connect(dsn, connect_timeout=5).close()
            return
        except psycopg.OperationalError:
            if server.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"PostgreSQL did not start:\n{log.read_text()}") from None
            time.sleep(0.02)


@dataclass(frozen=True, slots=True)
class Databases:
    """Databases of one server, made from a migrated template before every round."""

    endpoint: PostgresEndpoint

    def fresh(self, name: str, *, template: str = "template0") -> None:
        """An empty (or freshly migrated) database of that name, all pages on disk."""
        target = sql.Identifier(name)
        with self._admin() as admin:
            admin.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(target))
            clone = sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY file_copy")
            admin.execute(clone.format(target, sql.Identifier(template)))
            admin.execute("CHECKPOINT")

    def dsn(self, role: Role, name: str) -> str:
        return self.endpoint.dsn(role, name)

    def count(self, name: str, table: str) -> int:
        """How many rows a table holds, so that a fast contender is also a right one."""
        with psycopg.connect(self.dsn(Role.ADMIN, name)) as admin:
            query = sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(*table.split(".")))
            row = admin.execute(query).fetchone()
        assert row is not None
        return int(row[0])

    def version(self) -> str:
        with self._admin() as admin:
            row = admin.execute("SHOW server_version").fetchone()
        assert row is not None
        return str(row[0])

    def _admin(self) -> psycopg.Connection[tuple[object, ...]]:
        return psycopg.connect(self.dsn(Role.ADMIN, "postgres"), autocommit=True)
