"""chDB, ClickHouse's own engine as a library, started by us in a process of its own.

One process owns the data and speaks ClickHouse's HTTP protocol on loopback, so that several
processes share it through an unmodified clickhouse-connect.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from neolayer.engines.endpoints import ClickHouseEndpoint
from neolayer.engines.engine import Level
from neolayer.errors import EngineUnavailable

USERNAME = "neolayer"
READER = "neolayer_read"
_SERVER = "neolayer.engines.embedded.clickhouse_server"


@dataclass(frozen=True, slots=True)
class EmbeddedClickHouse:
    """One chDB under `directory`."""

    directory: Path
    password: str = field(repr=False)
    reader_password: str = field(repr=False)

    @property
    def password_file(self) -> Path:
        return self.directory / "password"

    def initialise(self) -> None:
        """Make the directory and the password file. Raises EngineUnavailable without chDB."""
        if find_spec("chdb") is None:
            raise EngineUnavailable(
                "clickhouse",
                "the embedded server is not installed",
                hint="install it (pip install 'neolayer[embedded]') or set clickhouse.dsn",
            )
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(self.password_file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump({USERNAME: self.password, READER: self.reader_password}, file)

    def argv(self, port: int) -> list[str]:
        """The command that runs the server in the foreground."""
        where = ["--path", str(self.directory / "data"), "--host", "127.0.0.1"]
        who = ["--username", USERNAME, "--password-file", str(self.password_file)]
        return [sys.executable, "-m", _SERVER, *where, "--port", str(port), *who]

    def endpoint(self, port: int) -> ClickHouseEndpoint:
        """Where the running server is reached."""
        return ClickHouseEndpoint(
            level=Level.EMBEDDED,
            host="127.0.0.1",
            port=port,
            username=USERNAME,
            password=self.password,
            reader_username=READER,
            reader_password=self.reader_password,
        )
